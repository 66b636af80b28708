"""A user's own records: any folder of WFDB files, with a CSV of their patients and rhythms."""

from __future__ import annotations

import math
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath

import pandas as pd

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.outputs import expanded
from ecgforge.params import FolderSource
from ecgforge.records.exclusions import BadRecord
from ecgforge.records.rhythms import rhythm_of
from ecgforge.sources import FILES, own_table
from ecgforge.sources.codes import rhythm_codes
from ecgforge.sources.links import lead_out, refusal
from ecgforge.sources.own_table import OTHER_RHYTHMS, RHYTHM_CODES, SEPARATOR
from ecgforge.sources.tables import numbers
from ecgforge.wfdb_io import formats
from ecgforge.wfdb_io.header import LARGEST, decoded, file_names

TABLE = "records.csv"  # the name of the CSV after `fetch`
LONGEST = 250  # bytes of a name without extension; file systems allow 255
SYNTHETIC = "SYNTHETIC.txt"
MARKS = ("SIMULATED.txt", SYNTHETIC)  # files that mark records as not from patients
# reserved names for files of records, in any case, since some file systems ignore case
TAKEN = {name.casefold() for name in (TABLE, *MARKS, FILES)}
SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}


def fetch(folder: Path, settings: FolderSource) -> None:
    """Copy the CSV and the WFDB files of its records to `folder`, atomically.

    The files of a record are its header and the signal files of the header in the same folder.
    Preparation excludes records with missing files. Links out of the folder are followed only to
    records, see `sources.links`. Files of `MARKS` are copied too.

    Raises:
        EcgforgeError: the folder, the CSV or a column is missing, a row lacks its record or
            patient, or a record's path leaves the folder.
    """
    source = expanded(settings.path)
    if not source.is_dir():
        problem = "is a file" if source.exists() else "does not exist"
        raise EcgforgeError(
            f"the folder of records {source} {problem}: correct `path` of the source in params.yaml"
        )
    published = own_table.read(source, settings)
    table = published.assign(rhythm=own_table.codes(published["rhythm"], settings.map))
    _report_unknown(table)
    table["record"] = paths = list(record_paths(table["record"], source))
    left, taken = {}, {}
    with atomic_write(folder) as scratch:
        scratch.mkdir()
        for record in dict.fromkeys(paths):
            files = _files(source, record)
            if name := next(
                (name for name in files if PurePosixPath(name).parts[0].casefold() in TAKEN), ""
            ):
                taken[record] = name
                continue
            files = [name for name in files if (source / name).is_file()]
            if lead_out(source, files) and (reason := refusal(source, record)):
                left[record] = reason
                continue
            for name in files:
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, scratch / name)
        as_read = published.assign(record=published["record"].str.removesuffix(".hea"))
        plain = settings.separator == "," and not settings.columns
        if settings.table and plain and table.equals(as_read):
            shutil.copyfile(source / expanded(settings.table), scratch / TABLE)
        else:
            table.to_csv(scratch / TABLE, index=False, lineterminator="\n")
        for mark in MARKS:
            _copy_mark(source, mark, scratch)
    if taken:
        record, name = next(iter(taken.items()))
        reasons = (
            f"one of which has a name that ecgforge needs ({TABLE}, {', '.join(MARKS)}, {FILES}), "
            "are left out"
        )
        console.err.print(
            f"{len(taken)} records, of the files of which {reasons}; the first, {record}: "
            f"{name[:80]}; rename the file"
        )
    if left:
        record, reason = next(iter(left.items()))
        reasons = (
            "whose files are links out of the folder, are left out, since their targets cannot be "
            "verified as records"
        )
        console.err.print(f"{len(left)} records, {reasons}; the first, {record}: {reason}")


def counts(settings: FolderSource) -> Counter[str]:
    """Return the number of records of each rhythm by their labels; no signal file is opened.

    Raises:
        EcgforgeError: see `own_table.read`.
    """
    table = own_table.read(expanded(settings.path), settings)
    rhythms = labelled(own_table.codes(table["rhythm"], settings.map))["rhythm"]
    return Counter(rhythms[rhythms != ""])


def labelled(cells: pd.Series) -> pd.DataFrame:
    """Return rhythm, and reason and detail of the exclusion, for records with these codes."""
    rows = []
    for cell in cells:
        try:
            rows.append((rhythm_of(_codes(cell), RHYTHM_CODES, OTHER_RHYTHMS), "", ""))
        except BadRecord as bad:
            rows.append(("", str(bad.reason), bad.detail))
    return pd.DataFrame(rows, columns=["rhythm", "reason", "detail"], index=cells.index, dtype=str)


def _copy_mark(source: Path, mark: str, scratch: Path) -> None:
    if lead_out(source, [mark]):
        (scratch / mark).write_text(
            "No patient was recorded: the source's file of this name, a link out of its folder, "
            "says so.\n"
        )
    elif (source / mark).is_file():
        shutil.copyfile(source / mark, scratch / mark)


def catalogue(folder: Path) -> pd.DataFrame:
    """Read the CSV that `fetch` wrote in `folder`; no signal file is opened.

    Rhythms are names of the vocabulary, or SCP or SNOMED CT codes, in any case. Patients that
    differ only in form, such as 7 and 007, are the same patient. The columns age (years) and sex
    (male, female, m, f) are optional; invalid values count as unknown.

    Returns:
        A row per record: id and path (the record's path), patient, codes (one, or none if the cell
            is empty), age, sex, fold (NaN), withdrawn (False).

    Raises:
        EcgforgeError: the CSV or a column is missing, or a row lacks its record or patient.
    """
    as_fetched = FolderSource(kind="folder", layout="folder", path=str(folder), table=TABLE)
    table = own_table.read(folder, as_fetched)
    unknown = pd.Series("", index=table.index)
    paths = table["record"].map(_record_path)
    return pd.DataFrame(
        {
            "id": paths,
            "patient": one_patient(table["patient"]),
            "codes": table["rhythm"].map(_codes).tolist(),
            "age": _ages(table.get("age", unknown)),
            "sex": _sexes(table.get("sex", unknown)),
            "fold": float("nan"),
            "path": paths,
            "withdrawn": False,
        }
    )


def _ages(cells: pd.Series) -> pd.Series:
    ages = numbers(cells)
    return ages.where(ages.abs() < math.inf)


def _sexes(cells: pd.Series) -> pd.Series:
    return cells.str.lower().map(SEXES).fillna("")


def _report_unknown(table: pd.DataFrame) -> None:
    """Print warnings about invalid cells, and about patients that count as the same."""
    one = one_patient(table["patient"])
    if (differing := table["patient"] != one).any():
        pairs = dict.fromkeys(zip(one[differing], table.loc[differing, "patient"], strict=True))
        words = ", ".join(f"'{first[:40]}' and '{other[:40]}'" for first, other in list(pairs)[:5])
        console.err.print(
            f"patients that differ only in form count as the same: {words}; give them other names "
            "if they are different patients"
        )
    nowhere = pd.Series("", index=table.index)
    ages, sexes, rhythms = (
        table.get("age", nowhere),
        table.get("sex", nowhere),
        table["rhythm"].str.upper(),
    )
    said = rhythms.map(lambda cell: not {*RHYTHM_CODES, *OTHER_RHYTHMS}.isdisjoint(_codes(cell)))
    codes = f"{', '.join(rhythm_codes('plain'))}, and SCP and SNOMED CT codes"
    for column, known, cells in (
        ("age", "years", ages[_ages(ages).isna()]),
        ("sex", ", ".join(SEXES), sexes[_sexes(sexes) == ""]),
        ("rhythm", codes, rhythms[~said]),
    ):
        counts = cells[cells != ""].value_counts()
        if len(counts):
            words = ", ".join(f"'{word[:40]}'" for word in counts.index[:5])
            console.err.print(
                f"{counts.sum()} cells of the column {column} have unknown values ({words}), the "
                f"first in data row {cells.index[cells != ''][0] + 1}: use {known}"
            )


def _codes(cell: str) -> list[str]:
    return [code for one in cell.upper().split(SEPARATOR) if (code := one.strip())]


def record_paths(cells: Iterable[str], source: Path) -> Iterator[str]:
    """Yield the path of each record in the folder `source`, without extension.

    Raises:
        EcgforgeError: one leaves the folder; names the row.
    """
    for number, cell in enumerate(cells, start=1):
        try:
            yield _record_path(cell, source)
        except EcgforgeError as error:
            raise EcgforgeError(f"data row {number}, column record: {error}") from None


def _record_path(cell: str, source: Path | None = None) -> str:
    """Return the path of a record, relative to the folder `source`, without extension.

    Raises:
        EcgforgeError: it leaves the folder.
    """
    text = cell.replace("\\", "/").removesuffix(".hea")
    if source:
        text = _relative(text, source)
    path = PurePosixPath(os.path.normpath(text))
    if (
        path.is_absolute()
        or path.parts[:1] in ((), ("..",))
        or re.search(r"[\0-\x1f\x7f]", text)
        or re.match("[A-Za-z]:/", text)
    ):
        raise EcgforgeError(
            f"the record {cell[:200]!r} lies outside the folder{f' {source}' if source else ''}: a "
            "CSV names files below it"
        )
    if len(text) > 4 * LONGEST or any(len(os.fsencode(part)) > LONGEST for part in path.parts):
        raise EcgforgeError(f"the record {cell[:200]!r}... has an invalid file name")
    return path.as_posix()


def _relative(text: str, source: Path) -> str:
    """Convert an absolute path, or a path from the user's home, to one relative to `source`, if it
    is in `source` by name or through links.
    """
    path = Path(os.path.normpath(expanded(text) if text.startswith("~/") else text))
    for home in (Path(os.path.normpath(source.absolute())), source.resolve()):
        for candidate in (path, path.parent.resolve() / path.name):
            if path.is_absolute() and candidate.is_relative_to(home):
                return candidate.relative_to(home).as_posix()
    return str(path)


def _files(source: Path, record: str) -> list[str]:
    """Return the header of `record`, if it exists in `source`, and its possible signal files,
    existing or not; or its EDF or DICOM file.
    """
    header = f"{record}.hea"
    if other := formats.file_of(source, record):
        return [f"{record}{other.suffix}"]
    if not (source / header).is_file():
        return []
    folder = PurePosixPath(record).parent
    return [header, *((folder / name).as_posix() for name in _signal_files(source / header))]


def _signal_files(header: Path) -> list[str]:
    """Return the possible signal files of a header's lines, only in the header's folder."""
    with header.open("rb") as file:
        text = decoded(file.read(LARGEST))
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    names = dict.fromkeys(name for line in lines[1:] for name in file_names(line.strip()))
    return [
        name
        for name in names
        if PurePosixPath(name).name == name and name != ".." and len(os.fsencode(name)) < LONGEST
    ]


def one_patient(patients: pd.Series) -> pd.Series:
    """Give patients that differ only in form, such as 7, 007 and 7.0, or p1 and P1, the form of the
    first one.
    """
    forms = patients.map(_form)
    return forms.map(patients.groupby(forms).first())


def _form(patient: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", patient).casefold()).strip()
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,9})?", text):
        return _number(Decimal(text))
    return re.sub(r"(?<!\d)0+(?=\d)", "", " ".join(text.split()))


def _number(value: Decimal) -> str:
    """Return the same text for equal values, without rounding."""
    sign, digits, exponent = value.as_tuple()
    every = "".join(map(str, digits)).lstrip("0")
    kept = every.rstrip("0")
    return f"{'-' * sign}{kept}e{int(exponent) + len(every) - len(kept)}" if kept else "0"
