"""The layout of PTB-XL on PhysioNet: table, folders and SCP-ECG statements.

Wagner et al., PTB-XL, a large publicly available electrocardiography dataset. Sci Data 7, 154
(2020), and the release notes of 1.0.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.sources.codes import other_rhythms, rhythm_codes
from ecgforge.sources.tables import numbers, read_table

RHYTHM_CODES = rhythm_codes("scp")
OTHER_RHYTHMS = other_rhythms("scp")

TABLE = "ptbxl_database.csv"
TABLES: tuple[str, ...] = (TABLE,)
COMPANIONS: tuple[str, ...] = ("scp_statements.csv",)
COLUMNS = (
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "scp_codes",
    "strat_fold",
    "filename_lr",
    "filename_hr",
)
WITHDRAWN = {137, 139, 140, 141, 142, 143, 145, 456, 458, 459, 461, 462}  # release notes of 1.0.3
_STATEMENT = re.compile(r"""\s*(?:'([^'\\]*+)'|"([^"\\]*+)")\s*+:\s*+[-+.\w]++\s*+(?:,|$)""")
OVER_89 = 300  # value of ages over 89 in the table


def catalogue(folder: Path) -> pd.DataFrame:
    """Read the table of PTB-XL in `folder`; no signal file is opened.

    Paths are those of the 100 Hz records, or of the 500 Hz records if the folder has only these.
    Ages over 89, published as 300, become 90. Records that version 1.0.3 withdrew are marked as
    `withdrawn`.

    Returns:
        A row per record: id ("00001"), patient, codes (SCP statements, whatever their likelihood:
            rhythm statements carry 0), age in years or NaN, sex ("male", "female", ""), fold (1-10
            or NaN), path, withdrawn.

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
            "codes": [
                _statements(text, number, folder)
                for text, number in zip(table["scp_codes"], numbers, strict=True)
            ],
            "age": age.mask(age >= OVER_89, 90.0),
            "sex": _numbers(table["sex"], folder).map({0.0: "male", 1.0: "female"}).fillna(""),
            "fold": _numbers(table["strat_fold"], folder),
            "path": table["filename_hr" if only_500_hz else "filename_lr"],
            "withdrawn": numbers.isin(WITHDRAWN),
        }
    )


def listed(folder: Path) -> Iterator[list[str]]:  # noqa: ARG001
    """Yield nothing, since the table has all metadata."""
    yield from ()


def files(path: str, sampling_rate: int) -> list[str]:
    """Return the files of the record at `path`: the 100 Hz form, or the 500 Hz form for sampling
    rates above 100 Hz.
    """
    low = path.replace("records500/", "records100/").removesuffix("_hr").removesuffix("_lr")
    stem = (
        f"{low}_lr" if sampling_rate <= 100 else low.replace("records100/", "records500/") + "_hr"
    )
    return [f"{stem}.hea", f"{stem}.dat"]


def restrict(folder: Path, chosen: pd.DataFrame) -> None:
    """Rewrite the table in `folder` with the rows of the `chosen` part of its catalogue, cells as
    published.
    """
    table = _table(folder)
    table.loc[chosen.index].to_csv(folder / TABLE, index=False)


def _table(folder: Path) -> pd.DataFrame:
    absent = f"{folder} is not a complete copy of PTB-XL"
    return read_table(folder / TABLE, COLUMNS, filled=("ecg_id", "patient_id"), absent=absent)


def _numbers(cells: pd.Series, folder: Path, kind: type = float) -> pd.Series:
    """Read a column of numbers; if `kind` is float, cells can be empty or nan."""
    found = numbers(cells)
    bad = ~(found.abs() < 2**53)
    bad &= found.notna() | ~cells.str.strip().str.lower().isin(["", "nan"])
    if kind is int:
        bad |= found.isna() | (found % 1 != 0)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        number = "a whole number" if kind is int else "a number"
        raise EcgforgeError(
            f"{folder / TABLE}: data row {row + 1}, {cells.name}: {cells.iloc[row][:80]!r} is not "
            f"{number}"
        )
    return found.astype(kind)


def _statements(text: str, number: int, folder: Path) -> list[str]:
    """Read the keys of a Python dictionary literal, `{'SR': 0.0}`, without evaluating it."""
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        raise _no_dictionary(text, number, folder)
    inner, place, found = inner[1:-1].strip(), 0, []
    while place < len(inner):
        statement = _STATEMENT.match(inner, place)
        if statement is None:
            raise _no_dictionary(text, number, folder)
        found.append(statement[1] if statement[1] is not None else statement[2])
        place = statement.end()
    return list(dict.fromkeys(found))


def _no_dictionary(text: str, number: int, folder: Path) -> EcgforgeError:
    return EcgforgeError(
        f"{folder / TABLE}: scp_codes of ecg_id {number} is not a dictionary: {text[:80]!r}"
    )
