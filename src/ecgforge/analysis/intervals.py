"""Intervals of the settings' metrics, and of their differences, over seeds and test patients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.study import metrics
from ecgforge.study.experiment import POOLED_KEYS
from ecgforge.study.predictions import PROBABILITY, rhythms, tuned


class Stacked(NamedTuple):
    """The predictions of a condition.

    Attributes:
        truth: `[records]`, class indices.
        probabilities: `[seeds, records, rhythms]`.
        patients: `[records]`.
        rounds: `[records]`, the round of cross-fitting that judges each record; 0 without.
        tuned: decisions tuned on validation records, as probabilities of 0 and 1, of the shape of
            `probabilities`; None unless all seeds have them.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    patients: np.ndarray
    rounds: np.ndarray
    tuned: np.ndarray | None


def intervals(predictions: pd.DataFrame, confidence: float, resamples: int) -> pd.DataFrame:
    """Return the macro metrics as means over seeds with intervals, see `statistics.interval`.
    `tuned_f1` is the macro-F1 of the decision tuned on validation records, where there is one.

    Args:
        predictions: see `study.predictions.pooled`.

    Returns:
        Rows of `POOLED_KEYS`, and metric, mean, low, high, seeds.
    """
    parts = []
    for keys, group in predictions.groupby(POOLED_KEYS, sort=False):
        one = stacked(group)
        judge = _judge(statistics.interval, one, rhythms(group), confidence, resamples)
        macro = _macro(judge, probabilities=one)
        keyed = macro.assign(**dict(zip(POOLED_KEYS, keys, strict=True)))
        parts.append(keyed[[*POOLED_KEYS, *macro.columns]])
    return pd.concat(parts, ignore_index=True)


def differences(
    first: Stacked, second: Stacked, classes: list[str], confidence: float, resamples: int
) -> pd.DataFrame:
    """Return the differences of two conditions in all macro metrics, see `statistics.difference`.

    Args:
        first, second: of the same test records.
        classes: rhythms in class order.

    Returns:
        Rows of metric, estimate, low, high, p: of `second` minus `first`. `tuned_f1` is there if
        both have decisions tuned on validation records.
    """
    judge = _judge(statistics.difference, first, classes, confidence, resamples)
    return _macro(judge, first=first, second=second)


def _judge(
    function: Callable[..., pd.DataFrame],
    one: Stacked,
    classes: list[str],
    confidence: float,
    resamples: int,
) -> Callable[..., pd.DataFrame]:
    """Return a function of `statistics` that needs only probabilities."""
    records = {"truth": one.truth, "patients": one.patients, "rounds": one.rounds}
    options = {"confidence": confidence, "resamples": resamples, "seed": 0}
    return partial(function, rhythms=classes, **records, **options)


def _macro(judge: Callable[..., pd.DataFrame], **conditions: Stacked) -> pd.DataFrame:
    """Return the macro rows of a table of `statistics`, and one of the tuned decisions."""
    found = judge(**{name: one.probabilities for name, one in conditions.items()})
    if all(one.tuned is not None for one in conditions.values()):
        decided = judge(**{name: one.tuned for name, one in conditions.items()}, auroc=False)
        decided = decided[decided["metric"] == "f1"].assign(metric=metrics.TUNED_F1)
        found = pd.concat([found, decided], ignore_index=True)
    macro: pd.DataFrame = found[found["rhythm"] == metrics.MACRO].drop(columns="rhythm")
    return macro.reset_index(drop=True)


def stacked(group: pd.DataFrame) -> Stacked:
    """Stack the predictions of a condition's seeds."""
    classes = rhythms(group)
    by_seed = group.groupby("seed", sort=True)
    # Synthetic test records of two rounds can have the same id.
    seeds = [one.sort_values(["fold", "id"], kind="stable") for _, one in by_seed]
    first = seeds[0]
    truth = np.asarray(pd.Categorical(first["truth"], categories=classes).codes)
    columns = [PROBABILITY + rhythm for rhythm in classes]
    probabilities = np.stack([one[columns].to_numpy() for one in seeds])
    decided = [known for known in (tuned(one, classes) for one in seeds) if known is not None]
    patients = first["patient"].where(
        first["fold"] == 0, first["fold"].astype(str) + "/" + first["patient"]
    )
    return Stacked(
        truth,
        probabilities,
        patients.to_numpy(),
        first["fold"].to_numpy(),
        np.stack(decided) if len(decided) == len(seeds) else None,
    )
