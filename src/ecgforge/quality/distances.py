"""Euclidean distances of many embedded records, by matrix products and in parts.

The squared distance is |a|^2 + |b|^2 - 2ab. A matrix product takes a tenth of the time of a
subtraction, but is wrong in the last digits, also for a distance of 0. So it only chooses the pairs
that could decide a result. The distances of these are computed by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ecgforge.quality.stored import Rows

ROWS, COLUMNS = 2048, 2048  # records of a tile, and others
# share of the pairs of a tile that could decide a result, above which it is computed in double
# precision: single precision takes half the time, but does not distinguish records far away
MANY = 1 / 64
PART = 256  # records whose distances are in memory; all distances of 40,000 records take 13 GB
PAIRS = 2**20  # numbers in memory at a time for distances by subtraction
# largest error of a squared distance by matrix product, relative to the squared lengths; rounding
# of a thousand features stays below 1e-13
SLACK = 1e-12


def direct(
    records: np.ndarray, others: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the distance of each record at `rows` to the other at the same place of `columns`,
    `[pairs]`.
    """
    step = max(1, PAIRS // records.shape[1])
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    found = [
        np.sqrt(np.square(records[rows[part]] - others[columns[part]]).sum(axis=1))
        for part in parts
    ]
    return np.concatenate(found) if found else np.empty(0)


def squared(records: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray, float]]:
    """Yield the squared distances of each part of the records to all `others`, `[part, others]`,
    with the part and the largest error.
    """
    lengths, sizes = (np.square(one).sum(axis=1) for one in (records, others))
    # The product has the lengths as two more features, which saves two passes over the matrix.
    left = np.column_stack([records, lengths, np.ones_like(lengths)])
    right = np.column_stack([-2 * others, np.ones_like(sizes), sizes]).T
    longest = sizes.max(initial=0)
    for start in range(0, len(records), PART):
        part = slice(start, start + PART)
        yield part, left[part] @ right, SLACK * float(lengths[part].max() + longest)


def nearest(
    records: Rows, others: Rows, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each record's distance to its nearest other, the index of this other, and each other's
    distance to its nearest record.

    Args:
        records, others: `[any number, features]`.
        own: the index in `others` of each record, if it is one of them; this pair does not count.
    """
    distances, back = (np.full(len(rows), np.inf) for rows in (records, others))
    places = np.zeros(len(records), dtype=int)
    for columns in _parts(others, COLUMNS):
        some = others[columns]
        for rows in _parts(records, ROWS):
            tile = _Tile(records[rows], some, None if own is None else own[rows] - columns.start)
            record, other, found = tile.nearer(distances[rows], axis=1)
            order = np.lexsort((other, found, record))
            chosen = order[np.unique(record[order], return_index=True)[1]]
            chosen = chosen[found[chosen] < distances[rows][record[chosen]]]
            distances[rows][record[chosen]] = found[chosen]
            places[rows][record[chosen]] = columns.start + other[chosen]
            _, other, found = tile.nearer(back[columns], axis=0)
            np.minimum.at(back[columns], other, found)
    return distances, places, back


def _parts(rows: Rows, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(rows), size)]


class _Tile:
    """Lower bounds of the squared distances of some records to some others.

    Args:
        records, others: `[any number, features]`.
        own: the index in `others` of each record; one outside of it belongs to another tile.
    """

    def __init__(self, records: np.ndarray, others: np.ndarray, own: np.ndarray | None) -> None:
        self._records, self._others, self._own = records, others, own
        lengths = (np.square(rows).sum(axis=1).max() for rows in (records, others))
        self._unit = float(np.sqrt(max(lengths))) or 1.0  # keeps squares in single precision
        self._least = self._bounds(np.float32)

    def _bounds(self, kind: type[np.float32 | np.float64]) -> np.ndarray:
        """Return lower bounds in units of `_unit` squared, `[records, others]`."""
        records, others = self._records / self._unit, self._others / self._unit
        # rounding errors stay below a quarter of this share of both squared lengths
        slack = 4 * (records.shape[1] + 4) * float(np.finfo(kind).epsneg)
        lengths, sizes = ((1 - slack) * np.square(one).sum(axis=1) for one in (records, others))
        left = np.column_stack([records, lengths, np.ones_like(lengths)]).astype(kind)
        right = np.column_stack([-2 * others, np.ones_like(sizes), sizes]).astype(kind)
        least: np.ndarray = np.matmul(left, right.T)
        if self._own is not None:
            inside = (self._own >= 0) & (self._own < len(others))
            least[np.flatnonzero(inside), self._own[inside]] = np.inf
        return least

    def nearer(self, distances: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pairs of a record and an other, and their distances: all that can be the nearest
        of a record (axis 1) or of an other (axis 0).

        Args:
            distances: the smallest ones so far, of the records or of the others.
        """
        most = np.finfo(self._least.dtype).max
        best = np.minimum(distances / self._unit, np.sqrt(most) / 2)
        # first the pairs with the smallest bound, whose distances then exclude most of the others
        limits = self._least.min(axis=axis)
        for _ in range(2):
            limits = np.minimum(limits, np.square(best)).astype(self._least.dtype)
            close = np.flatnonzero(self._least <= np.expand_dims(limits, axis))
            if len(close) > MANY * self._least.size and self._least.dtype == np.float32:
                self._least = self._bounds(np.float64)
                return self.nearer(distances, axis)
            pairs = np.divmod(close, len(self._others))
            found = direct(self._records, self._others, *pairs)
            np.minimum.at(best, pairs[1 - axis], found / self._unit)
            limits = np.full(len(best), most)
        return *pairs, found


def to_neighbour(records: np.ndarray, neighbour: int) -> np.ndarray:
    """Return the distance of each record to its k-th neighbour, without itself, `[records]`."""
    distances = np.empty(len(records))
    for part, squares, error in squared(records, records):
        inside = records[part]
        squares[np.arange(len(inside)), np.arange(len(records))[part]] = -np.inf
        near = np.partition(squares, neighbour, axis=1)[:, neighbour, None]
        nearer = np.count_nonzero(squares < near - 2 * error, axis=1)
        rows, columns = np.nonzero(np.abs(squares - near) <= 2 * error)
        found = direct(inside, records, rows, columns)
        found = found[np.lexsort((found, rows))]
        starts = np.searchsorted(rows, np.arange(len(inside)))
        distances[part] = found[starts + neighbour - nearer]
    return distances


def within(
    records: np.ndarray, others: np.ndarray, squares: np.ndarray, radii: np.ndarray, error: float
) -> np.ndarray:
    """Return which distances are at most the radii, `[records, others]` bool.

    Args:
        records, others: `[any number, features]`.
        squares: their squared distances by `squared`.
        radii: of the records, `[records, 1]`, or of the others, `[1, others]`.
        error: the largest error of `squares`.
    """
    beyond = squares - np.square(radii)
    inside = beyond <= 0
    rows, columns = np.nonzero(np.abs(beyond) <= error)
    limits = np.broadcast_to(radii, squares.shape)[rows, columns]
    inside[rows, columns] = direct(records, others, rows, columns) <= limits
    return inside
