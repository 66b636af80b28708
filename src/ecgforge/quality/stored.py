"""Rows of numbers on the disk: the features of all records of a large set take too much memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable

import numpy as np

from ecgforge.records import rows as rows_on_disk


class Stored:
    """Rows in a temporary file, `[rows, columns]` float64; an index reads some of them.

    Attributes:
        shape: rows and columns.
    """

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        """Write parts of the rows, `[any number, columns]` each; there is at least one row."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 open as long as this object
        weakref.finalize(self, self._file.close)
        rows = columns = 0
        for part in parts:
            self._file.write(np.ascontiguousarray(part, dtype=float).data)
            rows, columns = rows + len(part), part.shape[1]
        self._file.flush()
        self.shape = (rows, columns)
        self._array = np.memmap(self._file, float, "r", shape=self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Return rows as an array."""
        return rows_on_disk.read(self._file, self._array, np.arange(len(self))[index])


Rows = np.ndarray | Stored
