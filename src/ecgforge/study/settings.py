"""The five settings of the study (arXiv 2411.18456): what a classifier is trained and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecgforge.errors import EcgforgeError
from ecgforge.records.record_set import RecordSet

TrainedOn = Literal["real", "synthetic", "mixed"]


@dataclass(frozen=True)
class Setting:
    """Train on one kind of records, test on another."""

    name: str
    trained_on: TrainedOn
    tested_on: Literal["real", "synthetic"]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("TrRTeR", "real", "real"),
        Setting("TrSTeR", "synthetic", "real"),
        Setting("TrRTeS", "real", "synthetic"),
        Setting("TrSTeS", "synthetic", "synthetic"),
        Setting("TrRSTeR", "mixed", "real"),
    )
}

AUGMENTATION, CLASSICAL = "augmentation", "classical"  # the sweep of TrRTeR and TrRSTeR with changed records, and its only point
AUGMENTED = {f"{name} augmented": SETTINGS[name] for name in ("TrRTeR", "TrRSTeR")}


def augmented(sweep: str, changed: bool = True) -> str:
    """Return the name of the arm of a sweep whose training records are `changed` classically, or else the sweep's own."""
    return f"{sweep}, augmented" if changed else sweep


@dataclass(frozen=True)
class Diet:
    """The record sets that a classifier trains on, and those that stop it early."""

    train: list[RecordSet]
    validation: list[RecordSet]


def diet(trained_on: TrainedOn, real: RecordSet, synthetic: RecordSet | None, share: float, seed: int) -> Diet:
    """Return the training and validation records of a kind of training.

    Training on synthetic records alone stops early by synthetic records, so that no real one is seen; where real
    training records are used, real validation records decide.

    Args:
        share: of synthetic records in a mixed training set; the real ones are all used.
        seed: decides which synthetic records are mixed in.
    """
    if trained_on == "real":
        return Diet([real.split("train")], [real.split("validation")])
    assert synthetic is not None
    if trained_on == "synthetic":
        return Diet([synthetic.split("train")], [synthetic.split("validation")])
    wanted = mixed_in(len(real.split("train")), share)
    return Diet([real.split("train"), evenly(synthetic.split("train"), wanted, seed)], [real.split("validation")])


def mixed_in(real: int, share: float) -> int:
    """Return how many synthetic records beside `real` ones make `share` of the whole."""
    return round(real * share / (1 - share))


def evenly(records: RecordSet, count: int, seed: int) -> RecordSet:
    """Draw `count` records without replacement, as equally many of each rhythm as there are.

    Raises:
        EcgforgeError: the set holds fewer.
    """
    if count > len(records):
        raise EcgforgeError(
            f"{records.folder} has {len(records)} training records and the mixture needs {count}: raise synthesis.train to at least "
            f"{-(-count // len(records.about.rhythms))}, or lower study.synthetic_share"
        )
    rng = np.random.default_rng([seed, 0x5E7])
    order = rng.permutation(len(records))
    labels = records.labels[order]
    rank = np.empty(len(order), dtype=int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    return records.select(np.sort(order[np.argsort(rank, kind="stable")[:count]]))
