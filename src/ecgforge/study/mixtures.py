"""Which records, and how many, make up a training set that is more than one split of one record
set.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from ecgforge.errors import EcgforgeError
from ecgforge.params import Synthesis
from ecgforge.records.record_set import RecordSet
from ecgforge.study.settings import TrainingData

Mode = Literal["proportion", "balance"]
MODES: tuple[Mode, ...] = get_args(Mode)


def requested(
    rhythms: tuple[str, ...], synthesis: Synthesis, real: int
) -> dict[str, dict[str, int]]:
    """Return how many synthetic records the parameters request, by split and rhythm.

    Args:
        real: the number of real training records.
    """
    train = math.ceil(real / len(rhythms)) if synthesis.train == "match_real" else synthesis.train
    counts = {"train": train, "validation": synthesis.validation, "test": synthesis.test}
    return {split: dict.fromkeys(rhythms, count) for split, count in counts.items()}


def allotment(real: Mapping[str, int], wanted: int, mode: Mode) -> dict[str, int]:
    """Return how many synthetic records of each rhythm to add to `real` ones, `wanted` in all up to
    rounding.

    `proportion` keeps the proportions of the real records. `balance` fills the rarest rhythms up to
    one level, as high as the number of records allows.
    """
    if mode == "proportion":
        total = sum(real.values())
        return {rhythm: round(wanted * count / total) for rhythm, count in real.items()}
    levels = range(max(real.values()) + wanted + 1)
    level = (
        bisect_right(
            levels, wanted, key=lambda level: sum(max(0, level - count) for count in real.values())
        )
        - 1
    )
    return {rhythm: max(0, level - count) for rhythm, count in real.items()}


def first(records: RecordSet, counts: Mapping[str, int]) -> RecordSet:
    """Select the first so many records of each rhythm, so that a larger selection holds a smaller
    one.

    Raises:
        EcgforgeError: there are not so many.
    """
    rank = records.records.groupby("rhythm").cumcount()
    held = records.counts()
    for rhythm, count in counts.items():
        if held.get(rhythm, 0) < count:
            raise EcgforgeError(
                f"{records.folder} has {held.get(rhythm, 0)} training records of {rhythm} and "
                f"{count} are needed"
            )
    return records.select((rank < records.records["rhythm"].map(dict(counts)).fillna(0)).to_numpy())


def without(records: RecordSet, counts: Mapping[str, int], seed: int) -> RecordSet:
    """Remove so many records of each rhythm at random; more removed ones hold fewer of the same
    seed.

    The records of a patient leave one after the other, so that of each rhythm at most one patient
    keeps some records and loses others.
    """
    return records.select(~_among_first(records, counts, seed))


def drawn(records: RecordSet, counts: Mapping[str, int], seed: int) -> RecordSet:
    """Draw so many records of each rhythm at random, those that `without` removes."""
    return records.select(_among_first(records, counts, seed))


def _among_first(records: RecordSet, counts: Mapping[str, int], seed: int) -> np.ndarray:
    """Return whether a record is among the first of its rhythm in a random order of patients."""
    patients = records.records["patient"].unique()
    order = np.random.default_rng([seed, 0x2E91]).permutation(len(patients))
    place = records.records["patient"].map(dict(zip(patients, order, strict=True)))
    rank = place.groupby(records.records["rhythm"]).rank(method="first")
    wanted = records.records["rhythm"].map(dict(counts)).fillna(0)
    chosen: np.ndarray = (rank <= wanted).to_numpy()
    return chosen


def part(records: RecordSet, share: float, seed: int) -> RecordSet:
    """Select a `share` of the patients of each rhythm, at least one; a larger share holds a smaller
    one of the same seed.

    A patient with records of several rhythms counts for the first of them.
    """
    patients = records.records.drop_duplicates("patient")[["patient", "rhythm"]]
    shuffled = patients.iloc[np.random.default_rng([seed, 0x9A27]).permutation(len(patients))]
    rank = shuffled.groupby("rhythm").cumcount()
    size = shuffled.groupby("rhythm")["patient"].transform("size")
    kept = shuffled.loc[rank < np.maximum(1, np.ceil(share * size - 1e-9)), "patient"]
    return records.select(records.records["patient"].isin(set(kept)).to_numpy())


def share(records: RecordSet, percent: float, seed: int) -> RecordSet:
    """Select a share of the training and of the validation records: see `part`."""
    splits = [records.split(split) for split in ("train", "validation")]
    kept = [part(split, percent / 100, seed).rows for split in splits]
    return records.select(np.isin(records.rows, np.concatenate(kept)))


def share_of(records: RecordSet, percent: float, seed: int) -> TrainingData:
    """Return a share of the real records to train with, and the same share of those to stop by."""
    few = share(records, percent, seed)
    return TrainingData([few.split("train")], [few.split("validation")])
