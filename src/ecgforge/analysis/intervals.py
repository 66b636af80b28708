"""Intervals of the settings' metrics over seeds and test patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.study import metrics
from ecgforge.study.predictions import KEYS, PROBABILITY, rhythms


def intervals(predictions: pd.DataFrame, confidence: float, resamples: int) -> pd.DataFrame:
    """Return the macro metrics as means over seeds with intervals, see `statistics.interval`.

    Returns:
        Rows with all keys except the seed, and metric, mean, low, high, seeds.
    """
    parts = []
    for keys, group in predictions.groupby(KEYS[:-1], sort=False):
        truth, probabilities, patients = stacked(group)
        found = statistics.interval(
            truth,
            probabilities,
            patients,
            rhythms(group),
            confidence=confidence,
            resamples=resamples,
            seed=0,
        )
        macro = found[found["rhythm"] == metrics.MACRO].drop(columns="rhythm")
        parts.append(
            macro.assign(**dict(zip(KEYS[:-1], keys, strict=True)))[[*KEYS[:-1], *macro.columns]]
        )
    return pd.concat(parts, ignore_index=True)


def stacked(group: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack the predictions of a setting's seeds.

    Returns:
        Truth `[records]`, probabilities `[seeds, records, rhythms]`, patients `[records]`.
    """
    classes = rhythms(group)
    seeds = [one.sort_values("id", kind="stable") for _, one in group.groupby("seed", sort=True)]
    truth = np.asarray(pd.Categorical(seeds[0]["truth"], categories=classes).codes)
    probabilities = np.stack(
        [one[[PROBABILITY + rhythm for rhythm in classes]].to_numpy() for one in seeds]
    )
    return truth, probabilities, seeds[0]["patient"].to_numpy()
