"""The five settings of the study (arXiv 2411.18456): training and test records of a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ecgforge.errors import EcgforgeError
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study.experiment import Experiment

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
AUGMENTED = {f"{name} augmented": SETTINGS[name] for name in ("TrRTeR", "TrRSTeR")}


def on_real(params: Params, dataset: str) -> Iterator[Experiment]:
    """Yield the experiments without synthetic records: TrRTeR, plain and augmented."""
    for seed in params.active.study.seeds:
        yield Experiment("TrRTeR", dataset, params.backbone, seed)
    for seed in params.active.sweeps.seeds:
        yield Experiment("TrRTeR", dataset, params.backbone, seed, augmented=True)


def on_synthetic(params: Params, dataset: str, generator: str) -> Iterator[Experiment]:
    """Yield the experiments with a generator's records; TrRSTeR is also trained augmented."""
    for seed in params.active.study.seeds:

        def experiment(setting: str, kind: str = "", seed: int = seed) -> Experiment:
            start = f"{dataset}/{kind}/seed-{seed}" if kind else ""
            return Experiment(setting, dataset, params.backbone, seed, generator, start=start)

        yield experiment("TrSTeR")
        yield experiment("TrRSTeR")
        yield experiment("TrSTeS", f"{generator}/synthetic")
        yield experiment("TrRTeS", "real")
    for seed in params.active.sweeps.seeds:
        plain = Experiment("TrRSTeR", dataset, params.backbone, seed, generator)
        yield replace(plain, augmented=True)


@dataclass(frozen=True)
class TrainingData:
    """The record sets that a classifier trains on, and those that stop it early."""

    train: list[RecordSet]
    validation: list[RecordSet]


def training_data(
    trained_on: TrainedOn, real: RecordSet, synthetic: RecordSet | None, share: float, seed: int
) -> TrainingData:
    """Return the training and validation records of a kind of training.

    A training on synthetic records alone is stopped by synthetic records, so that it sees no real
    one. Where real training records are used, real validation records decide.

    Args:
        share: of synthetic records in a mixed training set; the real ones are all used.
        seed: decides which synthetic records are mixed in.
    """
    if trained_on == "real":
        return TrainingData([real.split("train")], [real.split("validation")])
    assert synthetic is not None
    if trained_on == "synthetic":
        return TrainingData([synthetic.split("train")], [synthetic.split("validation")])
    train = real.split("train")
    mixed_in = evenly(synthetic.split("train"), number_mixed_in(len(train), share), seed)
    return TrainingData([train, mixed_in], [real.split("validation")])


def number_mixed_in(real: int, share: float) -> int:
    """Return how many synthetic records, added to `real` ones, make `share` of the whole."""
    return round(real * share / (1 - share))


def evenly(records: RecordSet, count: int, seed: int) -> RecordSet:
    """Draw `count` records without replacement, equally many of each rhythm as far as possible.

    Raises:
        EcgforgeError: the set holds fewer.
    """
    if count > len(records):
        needed = -(-count // len(records.about.rhythms))
        raise EcgforgeError(
            f"{records.folder} has {len(records)} training records and the mixture needs {count}: "
            f"raise synthesis.train to at least {needed}, or lower study.synthetic_share"
        )
    rng = np.random.default_rng([seed, 0x5E7])
    order = rng.permutation(len(records))
    labels = records.labels[order]
    rank = np.empty(len(order), dtype=int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    return records.select(np.sort(order[np.argsort(rank, kind="stable")[:count]]))
