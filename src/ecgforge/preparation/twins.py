"""The same recording under two names, found by the signals themselves, whatever header, format or
gain they were stored with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

CHUNK = 64
PROJECTIONS = 8
NEAR = 0.2  # distance of two signatures; that of two recordings of one patient is about 4
# root mean square difference of leads in standard deviations: twice what steps of 5 uV add, a tenth
# of what patients differ by
SAME = 0.03

# how many records there are, and what gives some of them, `[records, 8, samples]`
Part = tuple[int, Callable[[slice], np.ndarray]]


def groups(parts: Sequence[Part]) -> list[list[int]]:
    """Return the groups of records that are one recording, each by rising place; places count
    through all parts, of equal samples.

    Leads are compared in their standard deviations, so that millivolts and standardised leads
    compare. Records are looked at a few at a time, and in full only where short signatures agree.
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
        scaled = _scaled(signals).reshape(len(signals), -1)
        for place, row in enumerate(signals, start=start):
            first = firsts.setdefault(
                hashlib.blake2b(row.tobytes(), digest_size=16).digest(), place
            )
            same.setdefault(first, []).append(place)
            if first == place:
                signatures.append(scaled[place - start] @ weights)
                places.append(place)
    for one, other in _near(np.array(signatures).reshape(-1, PROJECTIONS)):
        first, second = (_leader(same, places[index]) for index in (one, other))
        if first != second and _equal(_record(parts, places[one]), _record(parts, places[other])):
            first, second = sorted((first, second))
            same[first] = sorted([*same[first], *same.pop(second)])
    return [group for group in same.values() if len(group) > 1]


def _leader(same: dict[int, list[int]], place: int) -> int:
    """The first record of the group that `place` is in."""
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
    """Each lead of each record about its mean, in its standard deviations."""
    signals = signals.astype(np.float64)
    signals -= signals.mean(axis=2, keepdims=True)
    deviations = signals.std(axis=2, keepdims=True)
    return np.divide(signals, deviations, out=np.zeros_like(signals), where=deviations > 0)
