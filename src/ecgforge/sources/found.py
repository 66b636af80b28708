"""Find out how a folder of WFDB files describes its records: its CSV, the columns, the labels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.params import FolderSource
from ecgforge.sources.codes import ambiguous, synonyms
from ecgforge.sources.own_table import (
    OTHER_RHYTHMS,
    RHYTHM_CODES,
    form,
    headers,
    parts,
    read,
)
from ecgforge.sources.tables import read_table, visible

SEPARATORS = get_args(FolderSource.model_fields["separator"].annotation)
UNKNOWN = "which rhythm, or none?"
SEEN = 200  # rows that decide which column names the records
# usual names of columns, in lower case and without other characters than letters
NAMES = {
    "patient": "patient patientid patientno patientnumber subject subjectid pid mrn person "
    "personid participant participantid case caseid",
    "rhythm": "rhythm rhythms rhythmlabel heartrhythm ecgrhythm label labels class dx diagnosis "
    "diagnoses finding findings statement statements interpretation annotation scpcodes",
    "age": "age ageyears ageinyears patientage",
    "sex": "sex gender patientsex",
}


class Label(NamedTuple):
    """A label of records.

    Attributes:
        text: as published.
        records: with this label.
        code: its rhythm or code; empty if it has none that is known.
        question: what to decide, if it has none.
    """

    text: str
    records: int
    code: str
    question: str

    @property
    def is_code(self) -> bool:
        """Whether the label needs no map."""
        return form(self.text).upper() == self.code


def source(folder: Path, table: str | None) -> FolderSource:
    """Return the source of a folder: its CSV with separator and columns, or the headers' labels.

    Args:
        folder: the folder of WFDB files.
        table: a CSV in the folder; None to look for one.

    Raises:
        EcgforgeError: the folder has no WFDB files, or no labels; or several tables fit.
    """
    if not folder.is_dir():
        problem = "is a file: name its folder" if folder.exists() else "does not exist"
        raise EcgforgeError(f"the folder of records {folder} {problem}")
    there = headers(folder)
    if not there:
        raise EcgforgeError(
            f"the folder {folder} has no records: it has no .hea, .edf or .dcm files"
        )
    found = {file: _in_table(folder, folder / file, set(there)) for file in _tables(folder, table)}
    fitting = {file: one for file, one in found.items() if isinstance(one, FolderSource)}
    if len(fitting) > 1:
        raise EcgforgeError(
            f"several tables of {folder} name its records: {', '.join(fitting)}; choose one with "
            "--table (`table` in Python)"
        )
    if fitting:
        return next(iter(fitting.values()))
    headers_only = FolderSource(kind="folder", layout="folder", path=str(folder), table=None)
    try:
        if table is None:
            read(folder, headers_only)
            return headers_only
    except EcgforgeError as error:
        if not found:
            raise EcgforgeError(f"{folder} has no CSV, and {error}") from None
    raise EcgforgeError(next(iter(found.values())))


def _tables(folder: Path, table: str | None) -> list[str]:
    if table:
        return [table]
    files = [file for ending in ("csv", "tsv") for file in folder.glob(f"*.{ending}")]
    return sorted(file.name for file in files)


def _in_table(folder: Path, file: Path, there: set[str]) -> FolderSource | str:
    """Return the source of a CSV, or why it does not describe the records."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            line = next((line for line in opened if line.strip()), "")
    except FileNotFoundError:
        return f"{file} does not exist"
    except UnicodeDecodeError:
        return f"{file} is not UTF-8 text: save it as UTF-8"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    separator = max(SEPARATORS, key=lambda one: _cells(line, one))
    try:
        table = read_table(file, (), (), "", separator)
    except EcgforgeError as error:
        return str(error)
    raw = {column: table[column].str.strip() for column in table if column.strip()}
    name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
    fields = {"kind": "folder", "layout": "folder", "path": str(folder), "table": name}
    return _chosen(file, raw, there, fields | {"separator": separator})


def _cells(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:  # reading the table says what is wrong
        return 0


def _chosen(
    file: Path, raw: Mapping[str, pd.Series], there: set[str], asked: Mapping[str, object]
) -> FolderSource | str:
    """Choose the columns of a table: that of the records by its cells, others by their names."""
    if not len(next(iter(raw.values()))):
        return f"{file} has no rows: write one for each record of the folder, such as {min(there)}"
    names = there | {PurePosixPath(record).name for record in there}

    def known(column: str) -> int:
        cells = raw[column].head(SEEN).str.replace("\\", "/", regex=False).str.removeprefix("./")
        return int(cells.str.replace(r"\.(hea|dat|mat|edf|dcm)$", "", regex=True).isin(names).sum())

    record = max(raw, key=known)
    if not known(record):
        return (
            f"{file} has no column with records of the folder, such as {min(there)}: its columns "
            f"are {', '.join(raw)[:300]}"
        )
    columns = {"record": record}
    for name, usual in NAMES.items():
        fits = [column for column in raw if _plain(column) in usual.split() and column != record]
        if fits:
            columns[name] = min(fits, key=lambda one: usual.split().index(_plain(one)))
    if "rhythm" not in columns:
        columns["rhythm"] = max(raw, key=lambda one: _rhythms(raw[one]))
        if columns["rhythm"] == record or not _rhythms(raw[columns["rhythm"]]):
            return (
                f"{file} has no column with rhythms: its columns are {', '.join(raw)[:300]}; call "
                "one `rhythm`"
            )
    columns.setdefault("patient", record)
    other = {name: column for name, column in columns.items() if name != column}
    return FolderSource.model_validate({**asked, "columns": other})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", visible(name).casefold())


def _rhythms(cells: pd.Series) -> int:
    """Return how many of the first cells have a label with a known rhythm."""
    return sum(any(map(code_of, parts(cell, set()))) for cell in cells.head(SEEN))


def code_of(label: str) -> str:
    """Return the code of a label: the label itself, or that of a synonym; empty if unknown."""
    upper = form(label).upper()
    if upper in RHYTHM_CODES or upper in OTHER_RHYTHMS:
        return upper
    return synonyms().get(form(label), "")


def labels(cells: Sequence[str]) -> list[Label]:
    """Return the labels of records: those with a known rhythm, and then the others; of both, the
    most common first. A record with a known rhythm does not count for its other labels.
    """
    questions = ambiguous()
    known, unknown = Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    for cell in cells:
        here = {form(label): label for label in parts(cell, {*synonyms(), *questions})}
        first = here | first
        named = [one for one in here if code_of(one)]
        known.update(named)
        unknown.update([] if named else [*here])
    return [
        *(Label(first[one], number, code_of(one), "") for one, number in known.most_common()),
        *(
            Label(first[one], number, "", questions.get(one, UNKNOWN))
            for one, number in unknown.most_common()
        ),
    ]
