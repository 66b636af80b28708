"""Withdraw patients: exclude their records, and find and mark what learned from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from ecgforge import console, folders, rounds
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.params import Params
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.registry import withdrawal
from ecgforge.registry.withdrawal import Affected
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.tracking import store

KEY = "withdrawn"  # of params.yaml
HEADING = "# Patients whose records are excluded; `ecgforge withdraw` writes this list.\n"


def withdraw(file: Path, source: str, named: Sequence[str], listed: Path | None) -> None:
    """Add patients of a source to the list in params.yaml, and mark the affected versions.

    Args:
        file: params.yaml.
        source: the source of the patients.
        named: patients.
        listed: a text file with one patient per line.

    Raises:
        EcgforgeError: the source is unknown, no patient is given, or the source has no such
            patient. Then nothing is changed.
    """
    params = Params.read(file)
    given = {*named, *(_lines(listed) if listed else [])} - {""}
    if not given and listed:
        raise EcgforgeError(f"{listed} is empty: write one patient per line")
    if not given:
        raise EcgforgeError("name a patient, or give a file of patients with --file")
    _check(params, source, given)
    kept = {name: list(patients) for name, patients in params.withdrawn.items()}
    new = sorted(given - {*kept.get(source, [])})
    if new:
        kept[source] = sorted({*kept.get(source, []), *new})
        _write(file, kept)
    again = len(given) - len(new)
    console.out.print(
        f"{file}: {console.counted(len(new), 'patient')} of {source} added to `{KEY}`"
        + (f"; already in it: {again}" if again else "")
        + "."
    )
    affected = _affected(Params.read(file))
    for one in affected:
        withdrawal.mark(one)
    _print(affected)
    _print_next(affected)


def check(file: Path) -> None:
    """Check that no version with an alias learned from a withdrawn patient.

    Raises:
        EcgforgeError: a version did, or this is unknown.
    """
    params = Params.read(file)
    count = len(withdrawal.patients(params))
    reached = [one for one in _affected(params) if one.version.aliases]
    if reached:
        _print(reached)
        raise EcgforgeError(
            f"{console.counted(len(reached), 'version')} with an alias learned from a withdrawn "
            "patient, or from unknown patients: run `ecgforge repro`, and promote versions that it "
            "trained"
        )
    console.out.print(
        "No version with an alias learned from a withdrawn patient "
        f"({console.counted(count, 'patient')})."
    )


def _affected(params: Params) -> list[Affected]:
    store.ensure_reachable()
    return list(withdrawal.Search(withdrawal.patients(params), DvcStore()).all())


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EcgforgeError(
            f"{file} cannot be read: give a text file with one patient per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _check(params: Params, source: str, given: set[str]) -> None:
    if source not in params.sources:
        raise EcgforgeError(f"'{source}' is not a source: use one of {', '.join(params.sources)}")
    known = _patients(params, source)
    if unknown := sorted(given - known):
        more = f" and {len(unknown) - 3} others" if len(unknown) > 3 else ""
        raise EcgforgeError(
            f"{source} has no patient {', '.join(unknown[:3])}{more}; an example of its "
            f"patients is {min(known, default='none')}. Nothing was changed."
        )


def _patients(params: Params, source: str) -> set[str]:
    raw = folders.RAW / source
    if not raw.is_dir():
        raise EcgforgeError(
            f"{raw} does not exist, so the patients of {source} are unknown: run `ecgforge repro "
            f"acquire@{source}`"
        )
    return set(LAYOUTS[params.source(source).layout].catalogue(raw)["patient"])


def _write(file: Path, withdrawn: dict[str, list[str]]) -> None:
    """Write the list into params.yaml, and leave every other byte unchanged."""
    text = file.read_bytes().decode("utf-8")
    block = f"{KEY}:\n" + "".join(
        f"  {source}: {_quoted(patients)}\n" for source, patients in sorted(withdrawn.items())
    )
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    assert isinstance(root, yaml.MappingNode), "params.yaml was read before"
    place = next((pair for pair in root.value if pair[0].value == KEY), None)
    if place:
        start, end = place[0].start_mark.index, place[1].end_mark.index
        rest = text[end:].lstrip(" ")
        text = text[:start] + block + rest.removeprefix("\r").removeprefix("\n")
    else:
        text = text + ("" if text.endswith("\n") else "\n") + "\n" + HEADING + block
    with atomic_write(file) as scratch:
        scratch.write_bytes(text.encode("utf-8"))


def _quoted(patients: list[str]) -> str:
    """Return a YAML list on one line, in which a number is text too."""
    text = yaml.safe_dump(
        patients,
        default_style='"',
        default_flow_style=True,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.strip()


def _print(affected: Sequence[Affected]) -> None:
    through = {(node.kind, node.name): node for one in affected for node in one.through}
    for kind, name in sorted(through):
        console.out.print(f"{kind} {name}")
    for folder in _trained_for_sweeps(through.values()):
        console.out.print(f"generator {folder}")
    for one in affected:
        alias = f" ({', '.join(one.version.aliases)})" if one.version.aliases else ""
        console.out.print(
            f"version {one.version.label}{alias}: {one.why}", style="red" if alias else None
        )


def _trained_for_sweeps(through: Iterable[Node]) -> list[Path]:
    """Return the generators of sweeps that learned from some record sets; they have no versions."""
    datasets = {node.name for node in through if node.real}
    found = folders.VARIATIONS.glob("*/*/**/generator.json")
    return sorted(
        file.parent
        for file in found
        if rounds.base(file.relative_to(folders.VARIATIONS).parts[1]) in datasets
    )


def _print_next(affected: Sequence[Affected]) -> None:
    if not affected:
        console.out.print("No version learned from a withdrawn patient.")
        return
    console.out.print(
        f"{console.counted(len(affected), 'version')} marked, which cannot be promoted. Next, run "
        "`ecgforge repro`, promote the new versions, and run `ecgforge withdraw --check`."
    )
