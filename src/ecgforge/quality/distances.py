"""Euclidean distances of many embedded records, by matrix products and in parts.

The squared distance is |a|^2 + |b|^2 - 2ab. A matrix product takes a tenth of the time of a
subtraction, but is wrong in the last digits, also for a distance of 0. So it only chooses the pairs
that could decide a result. The distances of these are computed by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PART = 256  # records whose distances are in memory; all distances of 40,000 records take 13 GB
PAIRS = 2**20  # numbers in memory at a time for distances by subtraction
# largest error of a squared distance by matrix product, relative to the squared lengths; rounding
# of a thousand features stays below 1e-13
SLACK = 1e-12


def direct(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the distance of each record to the one at the same place, `[records]`."""
    step = max(1, PAIRS // first.shape[1])
    parts = [
        np.sqrt(np.square(first[start : start + step] - second[start : start + step]).sum(axis=1))
        for start in range(0, len(first), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


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
    records: np.ndarray, others: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each record's distance to its nearest other, the index of this other, and each other's
    distance to its nearest record.

    Args:
        records, others: `[any number, features]`.
        own: the index in `others` of each record, if it is one of them; this pair does not count.
    """
    distances, places = np.empty(len(records)), np.empty(len(records), dtype=int)
    back, bound = np.full(len(others), np.inf), np.full(len(others), np.inf)
    for part, squares, error in squared(records, others):
        inside = records[part]
        if own is not None:
            squares[np.arange(len(inside)), own[part]] = np.inf
        best = squares.min(axis=1, keepdims=True)
        rows, columns = np.nonzero(squares <= best + 2 * error)
        found = direct(inside[rows], others[columns])
        order = np.lexsort((columns, found, rows))
        chosen = order[np.unique(rows[order], return_index=True)[1]]
        distances[part], places[part] = found[chosen], columns[chosen]
        bound = np.minimum(bound, squares.min(axis=0) + 2 * error)
        rows, columns = np.nonzero(squares <= bound)
        np.minimum.at(back, columns, direct(inside[rows], others[columns]))
    return distances, places, back


def to_neighbour(records: np.ndarray, neighbour: int) -> np.ndarray:
    """Return the distance of each record to its k-th neighbour, without itself, `[records]`."""
    distances = np.empty(len(records))
    for part, squares, error in squared(records, records):
        inside = records[part]
        squares[np.arange(len(inside)), np.arange(len(records))[part]] = -np.inf
        near = np.partition(squares, neighbour, axis=1)[:, neighbour, None]
        nearer = np.count_nonzero(squares < near - 2 * error, axis=1)
        rows, columns = np.nonzero(np.abs(squares - near) <= 2 * error)
        found = direct(inside[rows], records[columns])
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
    inside[rows, columns] = direct(records[rows], others[columns]) <= limits
    return inside
