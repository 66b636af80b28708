"""A reader of CSV tables of records, with all cells as text."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ecgforge.errors import EcgforgeError

# Invisible characters of other categories than controls (Cc) and format characters (Cf): joiners,
# fillers, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def visible(cell: str) -> str:
    """Return a cell without invisible characters, such as NUL, zero-width spaces and soft hyphens;
    white space stays.
    """
    return "".join(
        letter
        for letter in _UNSEEN.sub("", cell)
        if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf")
    )


def numbers(cells: pd.Series) -> pd.Series:
    """Return a column of texts as floats, with NaN for invalid numbers.

    `pandas.to_numeric` is not used, since it crashes on a text such as 1e3147483648.
    """
    return cells.map(_number).astype(float)


def _number(cell: str) -> float:
    try:
        return math.nan if "_" in cell else float(cell)  # Python takes 1_000 for a number
    except ValueError:
        return math.nan


def read_table(
    file: Path,
    columns: Sequence[str],
    filled: Sequence[str],
    absent: str,
    separator: str = ",",
) -> pd.DataFrame:
    """Read a CSV with all cells as text.

    Args:
        file: the CSV, UTF-8.
        columns: required columns.
        filled: columns without empty cells.
        absent: message if the file does not exist.
        separator: between cells.

    Raises:
        EcgforgeError: the file is missing or not a CSV, lacks a column or a cell, or has a row with
            more or fewer cells than columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = _rows(opened, file, separator)
            header = next(lines, [])
            _refuse_columns(header, columns, file)
            rows = list(lines)
    except FileNotFoundError:
        raise EcgforgeError(f"{file} does not exist: {absent}") from None
    except OSError as error:
        raise EcgforgeError(
            f"{file} cannot be read as CSV: {error.strerror or 'the disk does not give it'}"
        ) from None
    except UnicodeDecodeError:
        raise EcgforgeError(
            f"{file} cannot be read as CSV: it is not UTF-8 text; save it as UTF-8"
        ) from None
    table = pd.DataFrame(rows, columns=header, dtype=str)
    for column in filled:
        empty = table.index[table[column].map(visible).str.strip() == ""]
        if len(empty):
            raise EcgforgeError(
                f"{file}: data row {empty[0] + 1} has no {column} (an empty cell in the column "
                f"{column!r}), so its record cannot be identified or split by patient"
            )
    return table


def _refuse_columns(header: list[str], columns: Sequence[str], file: Path) -> None:
    if not header:
        raise EcgforgeError(f"{file} cannot be read as CSV: it is empty")
    missing = [column for column in columns if column not in header]
    if missing:
        raise EcgforgeError(
            f"{file} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(header)[:300]}{_hint(header, columns)}"
        )
    for column in header:
        if column.strip() and header.count(column) > 1:
            raise EcgforgeError(f"{file} has two columns {column[:80]!r}: take one out")


def _hint(header: list[str], columns: Sequence[str]) -> str:
    """Return advice if the header has the columns with other letters or separators."""
    parts = [part for cell in header for part in re.split(r"[;\t|]", cell)]
    names = parts if len(parts) == len(header) else [part.strip(" \"'") for part in parts]
    meant = {visible(name).strip().casefold(): name for name in names}
    known = [column for column in columns if column.casefold() in meant]
    advice = ["separate cells by commas"] if len(parts) > len(header) and known else []
    if any(column not in names for column in known):
        advice.append(f"write them as {', '.join(columns)}")
    return f": {', and '.join(advice)}" if advice else ""


def _rows(lines: Iterator[str], file: Path, separator: str) -> Iterator[list[str]]:
    """Yield the rows that are not empty; all must have as many cells as the first."""
    reader = csv.reader(lines, strict=True, delimiter=separator)
    width = 0
    for number, row in enumerate(_full(reader, file)):
        width = width or len(row)
        if len(row) != width:
            raise EcgforgeError(
                f"{file}, line {reader.line_num}: {width} columns in the header, {len(row)} cells "
                f"in row {number}; a separator ({separator!r}) at the end of "
                "rows, or one in a cell without quotation marks, moves cells to other columns"
            )
        yield row


def _full(reader: Any, file: Path) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise EcgforgeError(
            f"{file} cannot be read as CSV: line {reader.line_num}: {error}; look at its quotation "
            "marks"
        ) from None
