"""Detection of duplicate recordings under different names.

The comparison uses only the signals, so it does not depend on headers, formats and gains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

CHUNK = 64
PROJECTIONS = 8
NEAR = 0.2  # distance of two signatures; two recordings of one patient have a distance of about 4
# root mean square difference of leads in standard deviations: twice the effect of 5 uV steps, and a
# tenth of the difference between patients
SAME = 0.03

# the number of records, and a function that returns some of them, `[records, 8, samples]`
Part = tuple[int, Callable[[slice], np.ndarray]]


def groups(parts: Sequence[Part]) -> list[list[int]]:
    """Return groups of records that are the same recording.

    Leads are compared in their standard deviations, so that units do not matter. Only records with
    similar short signatures are compared in full, a few at a time.

    Args:
        parts: records of equal length.

    Returns:
        Sorted positions of the records of each group; positions count through all parts.
    """
    firsts: dict[bytes, int] = {}
    same: dict[int, list[int]] = {}
    signatures: list[np.ndarray] = []
    places: list[int] = []
    weights: np.ndarray | None = None
    for start, signals in _chunks(parts):
        if weights is None:
            weights = np.random.default_rng(0).standard_normal(
                (signals[0].size, PROJECTIONS)
            ) / np.sqrt(signals[0].size)
        new = []
        for place, row in enumerate(signals, start=start):
            first = firsts.setdefault(
                hashlib.blake2b(row.tobytes(), digest_size=16).digest(), place
            )
            same.setdefault(first, []).append(place)
            if first == place:
                new.append(place)
        scaled = _scaled(signals[[place - start for place in new]])
        signatures.extend(scaled.reshape(-1, len(weights)) @ weights)
        places.extend(new)
    for one, other in _near(np.array(signatures).reshape(-1, PROJECTIONS)):
        first, second = (_leader(same, places[index]) for index in (one, other))
        if first != second and _equal(_record(parts, places[one]), _record(parts, places[other])):
            first, second = sorted((first, second))
            same[first] = sorted([*same[first], *same.pop(second)])
    return [group for group in same.values() if len(group) > 1]


def _leader(same: dict[int, list[int]], place: int) -> int:
    """Return the first record of the group of `place`."""
    return (
        place if place in same else next(first for first, group in same.items() if place in group)
    )


def _chunks(parts: Sequence[Part]) -> Iterator[tuple[int, np.ndarray]]:
    before = 0
    for count, read in parts:
        for start in range(0, count, CHUNK):
            yield before + start, read(slice(start, min(start + CHUNK, count)))
        before += count


def _record(parts: Sequence[Part], place: int) -> np.ndarray:
    for count, read in parts:
        if place < count:
            return read(slice(place, place + 1))
        place -= count
    raise IndexError(place)


def _near(signatures: np.ndarray) -> list[tuple[int, int]]:
    return sorted(cKDTree(signatures).query_pairs(NEAR)) if len(signatures) else []


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.sqrt(np.mean((_scaled(one) - _scaled(other)) ** 2)) < SAME)


def _scaled(signals: np.ndarray) -> np.ndarray:
    """Return each lead of each record minus its mean, divided by its standard deviation."""
    signals = signals.astype(np.float64)
    signals -= signals.mean(axis=2, keepdims=True)
    deviations = signals.std(axis=2, keepdims=True)
    return np.divide(signals, deviations, out=np.zeros_like(signals), where=deviations > 0)
