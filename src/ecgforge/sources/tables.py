"""CSV tables that describe records, read cell by cell as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        EcgforgeError: the file is missing or no CSV, or lacks a column or a cell.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise EcgforgeError(f"{file} does not exist: {absent}") from None
    except ValueError as error:  # the parser's and the decoder's errors derive from it
        raise EcgforgeError(f"{file} cannot be read as CSV: {' '.join(str(error).split())}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise EcgforgeError(f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}")
    for column in filled:
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise EcgforgeError(f"{file}: data row {empty[0] + 1} has no {column}, so its record cannot be told apart or split by patient")
    return table
