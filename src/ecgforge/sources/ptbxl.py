"""PTB-XL as PhysioNet publishes it: its table, its folders, its SCP-ECG statements.

Wagner et al., PTB-XL, a large publicly available electrocardiography dataset. Sci Data 7, 154 (2020), and the release notes of 1.0.3.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.sources.codes import other_rhythms, rhythm_codes
from ecgforge.sources.tables import read_table

RHYTHM_CODES = rhythm_codes("scp")
OTHER_RHYTHMS = other_rhythms("scp")

TABLE = "ptbxl_database.csv"
TABLES: tuple[str, ...] = (TABLE,)
COMPANIONS: tuple[str, ...] = ("scp_statements.csv",)
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr")
WITHDRAWN = {137, 139, 140, 141, 142, 143, 145, 456, 458, 459, 461, 462}  # release notes of 1.0.3
OVER_89 = 300  # how the table writes ages over 89


def catalogue(folder: Path) -> pd.DataFrame:
    """Read the table of PTB-XL in `folder`; no signal file is opened.

    Paths are those of the 100 Hz records, or of the 500 Hz records where the folder holds only those. Ages over 89, published as
    300, become 90. Records that version 1.0.3 withdrew stay in, marked `withdrawn`.

    Returns:
        A row a record: id ("00001"), patient, codes (SCP statements, whatever their likelihood: rhythm statements carry 0), age in
        years or NaN, sex ("male", "female", ""), fold (1-10 or NaN), path, withdrawn.

    Raises:
        EcgforgeError: the table is missing, lacks a column or a patient, or a cell cannot be read.
    """
    table = _table(folder)
    age = _numbers(table["age"], folder)
    numbers = _numbers(table["ecg_id"], folder, int)
    only_500_hz = (folder / "records500").is_dir() and not (folder / "records100").is_dir()
    return pd.DataFrame(
        {
            "id": numbers.map("{:05d}".format),
            "patient": _numbers(table["patient_id"], folder, int).astype(str),
            "codes": [_statements(text, number, folder) for text, number in zip(table["scp_codes"], numbers, strict=True)],
            "age": age.mask(age >= OVER_89, 90.0),
            "sex": _numbers(table["sex"], folder).map({0.0: "male", 1.0: "female"}).fillna(""),
            "fold": _numbers(table["strat_fold"], folder),
            "path": table["filename_hr" if only_500_hz else "filename_lr"],
            "withdrawn": numbers.isin(WITHDRAWN),
        }
    )


def listed(folder: Path) -> Iterator[list[str]]:  # noqa: ARG001
    """Yield nothing: the table is all the metadata there is."""
    yield from ()


def files(path: str, sampling_rate: int) -> list[str]:
    """Name the files of the record at `path`: of its 100 Hz form, or of its 500 Hz form for sampling rates above 100 Hz."""
    low = path.replace("records500/", "records100/").removesuffix("_hr").removesuffix("_lr")
    stem = f"{low}_lr" if sampling_rate <= 100 else low.replace("records100/", "records500/") + "_hr"
    return [f"{stem}.hea", f"{stem}.dat"]


def restrict(folder: Path, chosen: pd.DataFrame) -> None:
    """Rewrite the table in `folder` with the rows of the `chosen` part of its catalogue, cells as published."""
    table = _table(folder)
    table.loc[chosen.index].to_csv(folder / TABLE, index=False)


def _table(folder: Path) -> pd.DataFrame:
    absent = f"{folder} is no copy of PTB-XL, or an incomplete one"
    return read_table(folder / TABLE, COLUMNS, filled=("ecg_id", "patient_id"), absent=absent)


def _numbers(cells: pd.Series, folder: Path, kind: type = float) -> pd.Series:
    try:
        return pd.to_numeric(cells.replace("", None)).astype(kind)
    except ValueError as error:
        raise EcgforgeError(f"{folder / TABLE}: {cells.name}: {error}") from None


def _statements(text: str, number: int, folder: Path) -> list[str]:
    try:
        statements = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        statements = None
    if not isinstance(statements, dict):
        raise EcgforgeError(f"{folder / TABLE}: scp_codes of ecg_id {number} are no dictionary: {text[:80]!r}")
    return [str(statement) for statement in statements]
