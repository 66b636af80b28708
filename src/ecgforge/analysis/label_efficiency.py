"""How many real records pre-training on synthetic ones is label_efficiency."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.analysis import intervals, statistics
from ecgforge.analysis.verdicts import FEWEST

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


def label_efficiency(
    found: pd.DataFrame, backbone: str, confidence: float, resamples: int
) -> pd.DataFrame:
    """For each share of real records that a pre-trained classifier was fine-tuned with, all of it:
    the share with which one from scratch first reaches the same macro-F1; with records as they are,
    and with classically augmented ones for both.

    The curve from scratch is straight between its points, up to all real records. Limits are
    percentiles over draws of both curves, see `statistics.f1_draws`.

    Args:
        found: predictions of all cells.
        backbone: the classifier.

    Returns:
        `COLUMNS`: percent of the real records; macro-F1 from scratch, NaN where that was not run,
            and fine-tuned; the percentage that is equal to it, with limits, NaN if there are fewer
            than `FEWEST` test patients: 0 below the curve's beginning, which is at `fewest`, and
            infinity beyond its end. Nothing where there is no curve from scratch, or its end is not
            known.
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
    scratch = _by_percent(real[real["sweep"] == "scratch"])
    whole = real[real["sweep"] == ""]
    tunings = found[(found["sweep"] == "fine-tuning, full") & (found["setting"] == "TrSTeR")]
    tuned = {
        (name, percent): rows
        for name, own in tunings.groupby("generator", sort=False)
        for percent, rows in _by_percent(own).items()
    }
    if not (scratch and len(whole) and tuned):
        return
    arms = [intervals.stacked(rows) for rows in (*scratch.values(), whole, *tuned.values())]
    (truth, _, patients), every = arms[0], [probabilities for _, probabilities, _ in arms]
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
    """The least of `percents`, rising, at which a curve reaches a level; 0 if it begins above, and
    infinity if it stays below.
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
    """One of the values, some of which may be infinite."""
    return np.nan if np.isnan(share) else sorted(values)[round(share * (len(values) - 1))]
