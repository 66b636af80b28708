"""Write the parameters of a small study of a user's own records."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

from ecgforge import console
from ecgforge.commands import plan
from ecgforge.commands.survey import Survey, lines, survey
from ecgforge.errors import EcgforgeError
from ecgforge.outputs import expanded, overlap
from ecgforge.params import Params, Preparation
from ecgforge.sources.found import Label
from ecgforge.stages import parameters

ASKED = 10  # unknown labels in the file; the most common ones
TEXT = """\
# Written by `ecgforge init`. Run the study: ecgforge repro --params {file}
base: {base} # all other parameters
profile: {name}
sources: [{name}] # each source is a dataset; without `sweep_targets`, there are no sweeps
folds: {{{name}: 5}} # rounds of cross-fitting: each record is a test record once
generators: [diffwave]
profiles:
  {name}:
    base: {profile} # small networks and short trainings; `sample` has larger ones, and takes hours
    sources: {{{name}: {{kind: folder, {source}}}}}
"""
PROFILE = "small"  # that the study builds on


def init(records: Path, name: str, table: str | None, out: Path | None, params: Path) -> None:
    """Print a survey of a folder of WFDB files, and write the parameters of a study to a new file.

    Args:
        records: the folder.
        name: of the source, the dataset and the profile.
        table: its CSV; None to look for one, or else to read the labels of the headers.
        out: the new file; by default `name`.yaml next to `params`.
        params: the parameter file that the new one builds on.

    Raises:
        EcgforgeError: the file exists, the folder cannot be read, or no study of it can run.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise EcgforgeError(
            f"'{name}' cannot be a name: a name starts with a lower-case letter, followed by "
            "letters, digits and _"
        )
    file = out or params.parent / f"{name}.yaml"
    if os.path.lexists(file):
        raise EcgforgeError(f"{file} exists already: name a new file with --out")
    base, folder = Params.read(params), expanded(str(records)).absolute()
    _check_place(folder, name, file)
    found = survey(folder, table, base.preprocessing)
    for line in lines(found, base.preprocessing.duration):
        console.out.print(line)
    if PROFILE not in base.profiles:
        raise EcgforgeError(
            f"{params} has no profile `{PROFILE}`, on which the study builds: copy it from the "
            "params.yaml of this version of ecgforge"
        )
    content = text(found, name, file, os.path.relpath(params, file.parent))
    _write(content + _preparation(found, base.profiles[PROFILE].preparation), file)
    if found.obstacle:
        raise EcgforgeError(f"{found.obstacle}; add records, or fill in `map` in {file}")
    time = plan.duration(plan.estimate(parameters.read(file)).parallel)
    console.out.print(
        f"{file} has the parameters of a study. Commit it, so that its models can be promoted. "
        f"Run it, in about {time} if nothing else runs on this machine: ecgforge repro --params "
        f"{file}"
    )


def _check_place(folder: Path, name: str, file: Path) -> None:
    if written := parameters.overlapping_output(folder, name, Path.cwd()):
        raise EcgforgeError(
            f"the folder of records {folder} overlaps {written}, which the study replaces: keep "
            "your own records outside data/"
        )
    if overlap(folder, file):
        raise EcgforgeError(
            f"{file} is in the folder of records {folder}: name a file elsewhere with --out"
        )


def _write(content: str, file: Path) -> None:
    try:
        encoded = content.encode("utf-8")
    except UnicodeEncodeError:
        raise EcgforgeError(
            "the name of the folder or of its table is not UTF-8, which a parameter file needs: "
            "rename it"
        ) from None
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as opened:
        opened.write(encoded)
    try:
        parameters.read(file)
    except EcgforgeError:
        file.unlink()
        raise


def text(found: Survey, name: str, file: Path, base: str) -> str:
    """Return the parameters of a study of the surveyed records, as YAML, without `preparation`."""
    settings = found.settings
    source = [f"path: {_quoted(settings.path)}, table: {_quoted(settings.table)}"]
    if settings.separator != ",":
        source.append(f"separator: {_quoted(settings.separator)}")
    if settings.columns:
        columns = ", ".join(f"{key}: {_quoted(one)}" for key, one in settings.columns.items())
        source.append(f"columns: {{{columns}}}")
    known = [label for label in found.labels if label.code and not label.is_code]
    named = [*known, *[label for label in found.labels if not label.code][:ASKED]]
    if named:
        source.append("map: { # label of the records: rhythm, or null to ignore it")
    return TEXT.format(
        file=file,
        base=_quoted(base) if not re.fullmatch(r"[\w./-]+", base) else base,
        name=name,
        profile=PROFILE,
        source=f",\n{' ' * 6}".join(source)
        + "".join(f"\n{' ' * 8}{_mapped(label)}" for label in named)
        + ("\n      }" if named else ""),
    )


def _preparation(found: Survey, before: Preparation) -> str:
    """Return the line with what the records need, if that differs from the profile's."""
    needed: dict[str, object] = {"min_records": found.least, "amplitude": found.amplitude}
    if found.damaged:
        needed["max_damaged"] = f"{math.ceil(100 * found.damaged) / 100:g}"
    changed = [f"{key}: {one}" for key, one in needed.items() if one != getattr(before, key)]
    return f"    preparation: {{{', '.join(changed)}}}\n" if changed else ""


def _mapped(label: Label) -> str:
    comment = (
        f" # {console.counted(label.records, 'record')}: {label.question}" if not label.code else ""
    )
    return f"{_quoted(label.text)}: {label.code or 'null'},{comment}"


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)
