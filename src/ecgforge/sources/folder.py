"""One's own records: any folder of WFDB files, and a CSV that says whose they are and which rhythm they show."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import pandas as pd
from rich.console import Console

from ecgforge.errors import EcgforgeError
from ecgforge.files import whole
from ecgforge.params import FolderSource
from ecgforge.sources.codes import other_rhythms, rhythm_codes
from ecgforge.sources.tables import read_table

RHYTHM_CODES = rhythm_codes("scp", "snomed", "plain")
OTHER_RHYTHMS = other_rhythms("scp", "snomed", "plain")

TABLE = "records.csv"  # what `fetch` names the CSV, whatever its name was
SYNTHETIC = "SYNTHETIC.txt"
MARKS = ("SIMULATED.txt", SYNTHETIC)  # files by which a folder says that no patient was recorded
COLUMNS = ("record", "patient", "rhythm")
SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}


def fetch(folder: Path, settings: FolderSource) -> None:
    """Copy the CSV, and the WFDB files of the records that it names, to `folder`, whole or not at all.

    A record's files are its header and the signal files that the header names beside it. What is not there is not copied, and
    preparation sets that record aside with the reason. A file of `MARKS` goes along.

    Raises:
        EcgforgeError: the folder, the CSV or a column is missing, a row lacks its record or patient, or a record's path leaves the
            folder.
    """
    source = Path(settings.path)
    if not source.is_dir():
        raise EcgforgeError(f"the folder of records {source} does not exist: mend `path` of the source in params.yaml")
    table = _table(source / settings.table)
    _tell_unknown(table)
    with whole(folder) as scratch:
        scratch.mkdir()
        shutil.copyfile(source / settings.table, scratch / TABLE)
        for mark in MARKS:
            if (source / mark).is_file():
                shutil.copyfile(source / mark, scratch / mark)
        for record in dict.fromkeys(_record_path(cell) for cell in table["record"]):
            for file in _files(source, record):
                (scratch / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, scratch / file)


def catalogue(folder: Path) -> pd.DataFrame:
    """Read the CSV that `fetch` wrote in `folder`; no signal file is opened.

    Rhythms are names of the vocabulary or SCP or SNOMED CT codes, in any case. The columns age (years) and sex (male, female, m,
    f) may be absent, and what cannot be read in them counts as unknown.

    Returns:
        A row a record: id and path (the record's path), patient, codes (one, or none where the cell is empty), age, sex, fold
        (NaN), withdrawn (False).

    Raises:
        EcgforgeError: the CSV or a column is missing, or a row lacks its record or patient.
    """
    table = _table(folder / TABLE)
    unknown = pd.Series("", index=table.index)
    paths = table["record"].map(_record_path)
    return pd.DataFrame(
        {
            "id": paths,
            "patient": table["patient"],
            "codes": [[cell.upper()] if cell else [] for cell in table["rhythm"]],
            "age": _ages(table.get("age", unknown)),
            "sex": _sexes(table.get("sex", unknown)),
            "fold": float("nan"),
            "path": paths,
            "withdrawn": False,
        }
    )


def _ages(cells: pd.Series) -> pd.Series:
    return pd.to_numeric(cells, errors="coerce").astype(float)


def _sexes(cells: pd.Series) -> pd.Series:
    return cells.str.lower().map(SEXES).fillna("")


def _tell_unknown(table: pd.DataFrame) -> None:
    """Say of which cells nothing will be known, though something stands there."""
    nowhere = pd.Series("", index=table.index)
    ages, sexes, rhythms = table.get("age", nowhere), table.get("sex", nowhere), table["rhythm"].str.upper()
    codes = f"{', '.join(rhythm_codes('plain'))}, and SCP and SNOMED CT codes"
    for column, known, cells in (
        ("age", "years", ages[_ages(ages).isna()]),
        ("sex", ", ".join(SEXES), sexes[_sexes(sexes) == ""]),
        ("rhythm", codes, rhythms[~rhythms.isin({*RHYTHM_CODES, *OTHER_RHYTHMS})]),
    ):
        counts = cells[cells != ""].value_counts()
        if len(counts):
            words = ", ".join(f"'{word}'" for word in counts.index[:5])
            Console(stderr=True).print(f"{counts.sum()} cells of the column {column} mean nothing here ({words}): known are {known}")


def _table(file: Path) -> pd.DataFrame:
    absent = f"a folder of records needs a CSV with the columns {', '.join(COLUMNS)}"
    table = read_table(file, COLUMNS, filled=("record", "patient"), absent=absent)
    return table.apply(lambda cells: cells.str.strip())


def _record_path(cell: str) -> str:
    return PurePosixPath(cell.removesuffix(".hea")).as_posix()


def _files(source: Path, record: str) -> list[str]:
    """Name the files of `record` that exist in `source`."""
    header = f"{record}.hea"
    _refuse_outside(source, header)
    if not (source / header).is_file():
        return []
    beside = PurePosixPath(record).parent
    # A header may name its signal file beside itself only (WFDB, header(5)); one that points elsewhere is not followed.
    names = [name for name in _signal_files(source / header) if name not in (".", "..") and PurePosixPath(name).name == name]
    files = [header, *((beside / name).as_posix() for name in names if (source / beside / name).is_file())]
    for file in files:
        _refuse_outside(source, file)
    return files


def _signal_files(header: Path) -> list[str]:
    lines = [line for line in header.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip() and line[0] != "#"]
    return list(dict.fromkeys(line.split()[0] for line in lines[1:]))


def _refuse_outside(source: Path, file: str) -> None:
    if not (source / file).resolve().is_relative_to(source.resolve()):
        raise EcgforgeError(f"the record '{file}' lies outside the folder {source}: its CSV may name only files below it")
