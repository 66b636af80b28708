"""The table of a folder of WFDB records: from a CSV of any form, or from comments in headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.outputs import expanded
from ecgforge.params import FolderSource
from ecgforge.sources.codes import other_rhythms, rhythm_codes
from ecgforge.sources.tables import read_table, visible
from ecgforge.wfdb_io import formats
from ecgforge.wfdb_io.header import LARGEST, decoded

RHYTHM_CODES = rhythm_codes("scp", "snomed", "plain")
OTHER_RHYTHMS = other_rhythms("scp", "snomed", "plain")
COLUMNS = ("record", "patient", "rhythm")
OPTIONAL = ("age", "sex")
SEPARATOR = ";"  # between the codes of a cell, after `codes`
# a Python dictionary of labels and likelihoods, as PTB-XL has them
_IN_DICTIONARY = re.compile(r"""['"]([^'"]+)['"]\s*:""")
_BETWEEN = re.compile(r"[;,|/+&\n]")  # labels of a cell
# keys of comments in headers, the most specific first
KEYS = {
    "patient": ("patient", "patient id", "patient_id", "patientid", "subject", "subject id"),
    "rhythm": ("rhythm", "rhythms", "dx", "label", "labels", "diagnosis", "diagnoses"),
    "age": ("age",),
    "sex": ("sex", "gender"),
}


def read(source: Path, settings: FolderSource) -> pd.DataFrame:
    """Return a row for each record of the folder `source`: record, patient, rhythm and, if known,
    age and sex. All cells are text as published, without invisible characters.

    Raises:
        EcgforgeError: see `tables.read_table`; or no header has labels.
    """
    if settings.table is None:
        return _from_headers(source)
    file = source / expanded(settings.table)
    given = {str(name): column for name, column in settings.columns.items()}
    named = {name: name for name in COLUMNS} | given
    absent = f"a folder of records needs a CSV with the columns {', '.join(COLUMNS)}"
    filled = list(dict.fromkeys((named["record"], named["patient"])))
    required = list(dict.fromkeys([*(named[name] for name in COLUMNS), *settings.columns.values()]))
    table = read_table(file, required, filled, absent, settings.separator)
    known = {name: named.get(name, name) for name in (*COLUMNS, *OPTIONAL)}
    cells = pd.DataFrame(
        {name: table[column] for name, column in known.items() if column in table}, dtype=str
    )
    cells["record"] = _named(source, [cell.strip() for cell in cells["record"]])
    if settings.separator == ";" and "age" in cells:  # the decimal comma of such files
        cells["age"] = cells["age"].str.replace(",", ".")
    return cells.assign(patient=cells["patient"].map(visible)).apply(lambda one: one.str.strip())


def _named(source: Path, cells: list[str]) -> list[str]:
    """Return the records that cells name: by their paths, or by their names alone, if no cell is a
    path and each name is there once.
    """
    records = [_without_extension(source, cell) for cell in cells]
    if any(_exists(source, record) for record in records):
        return records
    places: dict[str, list[str]] = {}
    for record in headers(source):
        places.setdefault(PurePosixPath(record).name, []).append(record)
    stems = [re.sub(r"\.(hea|dat|mat|edf|dcm)$", "", record) for record in records]
    found = [places.get(stem, []) for stem in stems]
    return [
        there[0] if len(there) == 1 else record
        for record, there in zip(records, found, strict=True)
    ]


def _exists(source: Path, record: str) -> bool:
    try:
        return (source / f"{record.removesuffix('.hea')}.hea").exists() or bool(
            formats.file_of(source, record)
        )
    except (OSError, ValueError):  # a name that no file can have
        return False


def _without_extension(source: Path, cell: str) -> str:
    """Return the record of a file, unless a record has the name of the file."""
    record, dot, ending = cell.rpartition(".")
    if f"{dot}{ending}" not in (".dat", ".mat", *formats.ENDINGS):
        return cell
    return record if not _exists(source, cell) and _exists(source, record) else cell


def codes(labels: pd.Series, chosen: Mapping[str, str | None]) -> pd.Series:
    """Return the labels of each record as codes, separated by `SEPARATOR`.

    A cell with several labels is split, unless it is a label or a code as a whole. Labels of
    `chosen` become its codes, or are left out. Other labels do not change.
    """
    known = {form(label): code for label, code in chosen.items()}
    return labels.map(lambda cell: SEPARATOR.join(_codes(cell, known)))


def _codes(cell: str, chosen: Mapping[str, str | None]) -> Iterator[str]:
    for label in parts(cell, set(chosen)):
        code = chosen.get(form(label), label)
        if code:
            yield code


def parts(cell: str, known: set[str]) -> list[str]:
    """Return the labels of a cell; `known` has forms of labels that are not split."""
    if cell.startswith("{"):
        return _IN_DICTIONARY.findall(cell)
    whole = form(cell)
    if not _BETWEEN.search(cell) or whole in known or whole.upper() in RHYTHM_CODES:
        return [cell] if cell else []
    return [label for one in _BETWEEN.split(cell) if (label := one.strip(" .'\"[]{}()"))]


def form(label: str) -> str:
    """Return the same text for labels that differ only in case, white space or a final dot."""
    return " ".join(visible(label).casefold().split()).rstrip(" .")


def headers(source: Path) -> list[str]:
    """Return all records below a folder: their paths in it, without extension, sorted.

    Links to folders are followed; each folder is visited once.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(source, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a circular link
            folders.clear()
            continue
        seen.add(real)
        names = (Path(place, name) for name in files if name.endswith((".hea", *formats.ENDINGS)))
        found += [name.relative_to(source).with_suffix("").as_posix() for name in names]
    return sorted(set(found))


def _from_headers(source: Path) -> pd.DataFrame:
    rows = []
    for record in headers(source):
        other = formats.file_of(source, record)
        found = formats.comments(other) if other else comments(source / f"{record}.hea")
        row = {name: _first(found, keys) for name, keys in KEYS.items()}
        rows.append({"record": record, **row, "patient": row["patient"] or record})
    if not any(row["rhythm"] for row in rows):
        raise EcgforgeError(
            f"no header in {source} names a rhythm: write a CSV with the columns "
            f"{', '.join(COLUMNS)}"
        )
    return pd.DataFrame(rows, dtype=str)


def comments(header: Path) -> dict[str, str]:
    """Return the comments `# key: value` of a header, with keys in lower case."""
    try:
        with header.open("rb") as file:
            text = decoded(file.read(LARGEST))
    except OSError:  # preparation reports the reason
        return {}
    lines = (line for line in text.splitlines() if line.startswith("#"))
    pairs = (line.strip("# ").partition(":") for line in lines)
    return {key.strip(" <>").casefold(): value.strip() for key, _, value in pairs if value.strip()}


def _first(found: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((visible(found[key]) for key in keys if key in found), "")
