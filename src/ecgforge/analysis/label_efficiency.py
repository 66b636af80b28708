"""Label efficiency: the number of real records that pre-training on synthetic records replaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.analysis import intervals, statistics
from ecgforge.analysis.comparisons import FEWEST

COLUMNS = [
    "dataset",
    "generator",
    "augmented",
    "percent",
    "scratch",
    "tuned",
    "equal",
    "low",
    "high",
    "fewest",
]
SCRATCH, SETTINGS, FINE_TUNING = SWEEPS = "scratch", "", "fine-tuning, full"


def label_efficiency(
    found: pd.DataFrame, backbone: str, confidence: float, resamples: int
) -> pd.DataFrame:
    """Return the share of real records from scratch that is as good as each fine-tuning.

    A pre-trained classifier is fine-tuned (method `full`) with a share of the real records. Its
    equal is the smallest share with which a classifier from scratch reaches the same macro-F1.
    Plain and classically augmented classifiers are compared separately.

    The curve from scratch is interpolated linearly between its points, up to all real records.
    The limits are percentiles over draws of both curves, see `statistics.f1_draws`.

    Args:
        found: predictions of all runs; those of other sweeps than `SWEEPS` are not used.
        backbone: the classifier.

    Returns:
        Rows of `COLUMNS`: `percent` of the real records; macro-F1 from `scratch` (NaN if that did
            not run) and `tuned`; `equal`, the percentage from scratch with the same macro-F1; its
            limits `low` and `high` (NaN with fewer than `FEWEST` test patients); `fewest`, the
            first percentage of the curve. `equal` is 0 before the start of the curve and infinity
            after its end. Datasets without a curve from scratch, or without its end, have no rows.
    """
    found = found[found["backbone"] == backbone]
    rows = [
        {"dataset": dataset, "augmented": changed, **row}
        for dataset, own in found.groupby("dataset", sort=False)
        for changed in (False, True)
        for row in _of_dataset(own[own["augmented"] == changed], confidence, resamples)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_dataset(found: pd.DataFrame, confidence: float, resamples: int) -> Iterator[dict[str, Any]]:
    real = found[(found["generator"] == "") & (found["setting"] == "TrRTeR")]
    scratch = _by_percent(real[real["sweep"] == SCRATCH])
    all_real = real[real["sweep"] == SETTINGS]
    tunings = found[(found["sweep"] == FINE_TUNING) & (found["setting"] == "TrSTeR")]
    tuned = {
        (name, percent): rows
        for name, own in tunings.groupby("generator", sort=False)
        for percent, rows in _by_percent(own).items()
    }
    if not (scratch and len(all_real) and tuned):
        return
    stacked = [intervals.stacked(rows) for rows in (*scratch.values(), all_real, *tuned.values())]
    truth, patients = stacked[0].truth, stacked[0].patients
    every = [one.probabilities for one in stacked]
    means, draws = statistics.f1_draws(truth, every, patients, resamples=resamples, seed=0)
    percents = np.array([*scratch, 100.0])
    known, curves = means[: len(percents)], draws[: len(percents)].T
    tail = (1 - confidence) / 2 if len(np.unique(patients)) >= FEWEST else np.nan
    for (generator, percent), mean, levels in zip(
        tuned, means[len(percents) :], draws[len(percents) :], strict=True
    ):
        equal = [
            _equal(percents, curve, level) for curve, level in zip(curves, levels, strict=True)
        ]
        yield {
            "generator": generator,
            "percent": percent,
            "scratch": dict(zip(percents, known, strict=True)).get(percent, np.nan),
            "tuned": mean,
            "equal": _equal(percents, known, mean),
            "low": _quantile(equal, tail),
            "high": _quantile(equal, 1 - tail),
            "fewest": percents[0],
        }


def _by_percent(found: pd.DataFrame) -> dict[float, pd.DataFrame]:
    return dict(sorted((float(point), rows) for point, rows in found.groupby("point")))


def _equal(percents: np.ndarray, curve: np.ndarray, level: float) -> float:
    """The first of the rising `percents` at which a curve reaches a level; 0 if the curve starts
    above it, and infinity if it stays below.
    """
    reached = np.flatnonzero(curve >= level)
    if not len(reached):
        return np.inf
    first = reached[0]
    if not first:
        return float(percents[0]) if curve[0] == level else 0.0
    between = slice(first - 1, first + 1)
    return float(np.interp(level, curve[between], percents[between]))


def _quantile(values: list[float], share: float) -> float:
    """A quantile without interpolation, since some values may be infinite."""
    return np.nan if np.isnan(share) else sorted(values)[round(share * (len(values) - 1))]
