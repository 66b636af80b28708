"""How many real records pre-training on synthetic ones is worth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecgforge.study import predictions, statistics
from ecgforge.study.settings import AUGMENTATION, augmented

COLUMNS = ["dataset", "generator", "augmented", "percent", "scratch", "tuned", "equal", "low", "high", "fewest"]


def worth(found: pd.DataFrame, backbone: str, confidence: float, resamples: int) -> pd.DataFrame:
    """For each share of real records that a pre-trained classifier was fine-tuned with, all of it: the share that one from scratch needs
    for the same macro-F1; with records as they are, and with classically augmented ones for both.

    The curve from scratch is taken as rising between its points, up to all real records. Limits are percentiles of resamples of seeds
    and test patients, of both curves at once (see `statistics.f1_draws`).

    Args:
        found: predictions of all cells.
        backbone: the classifier.

    Returns:
        `COLUMNS`: percent of the real records; macro-F1 from scratch, NaN where that was not run, and fine-tuned; and the percentage that
        is equal to it, with limits: 0 below the curve's beginning, which is at `fewest`, and infinity beyond its end. Nothing where
        there is no curve from scratch, or its end is not known.
    """
    found = found[found["backbone"] == backbone]
    rows = []
    for changed in (False, True):
        tunings = found[(found["sweep"] == augmented("fine-tuning, all", changed)) & (found["setting"] == "TrSTeR")]
        for (dataset, generator), own in tunings.groupby(["dataset", "generator"], sort=False):
            scratch = _scratch(found[found["dataset"] == dataset], changed)
            if 100 in scratch:
                place = {"dataset": dataset, "generator": generator, "augmented": changed}
                rows += [{**place, **row} for row in _compared(scratch, _by_percent(own), confidence, resamples)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _scratch(found: pd.DataFrame, changed: bool) -> dict[float, pd.DataFrame]:
    real = found[(found["generator"] == "") & (found["setting"] == "TrRTeR")]
    whole = real[real["sweep"] == (AUGMENTATION if changed else "")]
    parts = _by_percent(real[real["sweep"] == augmented("scratch", changed)])
    return {**parts, 100.0: whole} if parts and len(whole) else parts


def _by_percent(found: pd.DataFrame) -> dict[float, pd.DataFrame]:
    return dict(sorted((float(point), rows) for point, rows in found.groupby("point")))


def _compared(
    scratch: dict[float, pd.DataFrame], tuned: dict[float, pd.DataFrame], confidence: float, resamples: int
) -> list[dict[str, float]]:
    arms = [predictions.stacked(rows) for rows in (*scratch.values(), *tuned.values())]
    (truth, _, patients), every = arms[0], [probabilities for _, probabilities, _ in arms]
    means, draws = statistics.f1_draws(truth, every, patients, confidence=confidence, resamples=resamples, seed=0)
    percents, known = np.array(list(scratch)), dict(zip(scratch, means, strict=False))
    rows = []
    for percent, mean, drawn in zip(tuned, means[len(scratch) :], draws[len(scratch) :], strict=True):
        equal = sorted(_equal(percents, curve, level) for curve, level in zip(draws[: len(scratch)].T, drawn, strict=True))
        low, high = (equal[round(share * (resamples - 1))] for share in ((1 - confidence) / 2, (1 + confidence) / 2))
        rows.append(
            {
                "percent": percent,
                "scratch": known.get(percent, np.nan),
                "tuned": mean,
                "equal": _equal(percents, means[: len(scratch)], mean),
                "low": low,
                "high": high,
                "fewest": percents[0],
            }
        )
    return rows


def _equal(percents: np.ndarray, curve: np.ndarray, level: float) -> float:
    """The least of `percents`, rising, at which a curve reaches a level; 0 if it begins above, and infinity if it ends below."""
    rising, first = np.unique(np.maximum.accumulate(curve), return_index=True)
    if level > rising[-1]:
        return np.inf
    return float(np.interp(level, rising, percents[first])) if level >= rising[0] else 0.0
