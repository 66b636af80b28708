"""Rows of an array on the disk."""

from __future__ import annotations

from itertools import pairwise
from typing import IO

import numpy as np


def read(file: IO[bytes], array: np.memmap, rows: np.ndarray) -> np.ndarray:
    """Return `array[rows]`, read from its file.

    Of a memory map, the system counts large parts around each row as memory of the process: 1 GB
    for a thousand records of 32 kB.

    Args:
        file: the file of the array.
        array: a memory map of it in C order; only its format is used.
        rows: indices, `[rows]`, not negative.

    Raises:
        EOFError: the file ends before a row.
    """
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    size = found.strides[0]
    # neighbours are read together
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
    for first, last in pairwise([0, *ends] if len(rows) else []):
        file.seek(array.offset + int(rows[first]) * size)
        if file.readinto(found[first:last]) != (last - first) * size:  # type: ignore[attr-defined]
            raise EOFError(f"{file.name} ends before row {rows[last - 1]}")
    return found
