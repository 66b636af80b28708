"""CSV tables that describe records, read cell by cell as they are written."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ecgforge.errors import EcgforgeError


def read_table(file: Path, columns: Sequence[str], filled: Sequence[str], absent: str) -> pd.DataFrame:
    """Read a CSV with all cells as text.

    Args:
        file: the CSV, UTF-8.
        columns: what it must have.
        filled: columns in which every row must have something.
        absent: what to say where the file does not exist.

    Raises:
        EcgforgeError: the file is missing or no CSV, lacks a column or a cell, or has a row of more or fewer cells than columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(_rows(opened, file))
    except FileNotFoundError:
        raise EcgforgeError(f"{file} does not exist: {absent}") from None
    except OSError as error:
        raise EcgforgeError(f"{file} cannot be read as CSV: {error.strerror or 'the disk does not give it'}") from None
    except UnicodeDecodeError:
        raise EcgforgeError(f"{file} cannot be read as CSV: it is no text in UTF-8; save it as such") from None
    if not rows:
        raise EcgforgeError(f"{file} cannot be read as CSV: it is empty")
    table = pd.DataFrame(rows[1:], columns=rows[0], dtype=str)
    missing = [column for column in columns if column not in table]
    if missing:
        raise EcgforgeError(f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(rows[0])[:300]}")
    for column in rows[0]:
        if column.strip() and rows[0].count(column) > 1:
            raise EcgforgeError(f"{file} has two columns {column[:80]!r}: take one out")
    for column in filled:
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise EcgforgeError(f"{file}: data row {empty[0] + 1} has no {column}, so its record cannot be told apart or split by patient")
    return table


def _rows(lines: Iterator[str], file: Path) -> Iterator[list[str]]:
    """Yield the rows that hold something; all must have as many cells as the first."""
    reader = csv.reader(lines, strict=True)
    width = 0
    for number, row in enumerate(_full(reader, file)):
        width = width or len(row)
        if len(row) != width:
            raise EcgforgeError(
                f"{file}, line {reader.line_num}: {width} columns in the header, {len(row)} cells in row {number}; a comma at the end of "
                "rows, or one in a cell without quotation marks, moves cells to other columns"
            )
        yield row


def _full(reader: Any, file: Path) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise EcgforgeError(f"{file} cannot be read as CSV: line {reader.line_num}: {error}; look at its quotation marks") from None
