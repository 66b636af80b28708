"""Intervals of the settings' metrics over seeds and test patients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.study import metrics
from ecgforge.study.experiment import POOLED_KEYS
from ecgforge.study.predictions import PROBABILITY, rhythms


class Stacked(NamedTuple):
    """The predictions of a condition.

    Attributes:
        truth: `[records]`, class indices.
        probabilities: `[seeds, records, rhythms]`.
        patients: `[records]`.
        rounds: `[records]`, the round of cross-fitting that judges each record; 0 without.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    patients: np.ndarray
    rounds: np.ndarray


def intervals(predictions: pd.DataFrame, confidence: float, resamples: int) -> pd.DataFrame:
    """Return the macro metrics as means over seeds with intervals, see `statistics.interval`.

    Args:
        predictions: see `study.predictions.pooled`.

    Returns:
        Rows of `POOLED_KEYS`, and metric, mean, low, high, seeds.
    """
    parts = []
    for keys, group in predictions.groupby(POOLED_KEYS, sort=False):
        one = stacked(group)
        found = statistics.interval(
            one.truth,
            one.probabilities,
            one.patients,
            rhythms(group),
            confidence=confidence,
            resamples=resamples,
            seed=0,
            rounds=one.rounds,
        )
        macro = found[found["rhythm"] == metrics.MACRO].drop(columns="rhythm")
        keyed = macro.assign(**dict(zip(POOLED_KEYS, keys, strict=True)))
        parts.append(keyed[[*POOLED_KEYS, *macro.columns]])
    return pd.concat(parts, ignore_index=True)


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
    patients = first["patient"].where(
        first["fold"] == 0, first["fold"].astype(str) + "/" + first["patient"]
    )
    return Stacked(truth, probabilities, patients.to_numpy(), first["fold"].to_numpy())
