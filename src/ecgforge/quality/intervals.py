"""Intervals of scores that compare two samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest

Statistic = Callable[[np.ndarray, np.ndarray], float]  # of measurements of two samples


def bootstrap(
    statistic: Statistic,
    first: np.ndarray,
    second: np.ndarray,
    strata: np.ndarray,
    confidence: float,
    resamples: int,
    seed: int,
    most: float = np.inf,
) -> tuple[float, float]:
    """Return the bootstrap interval of a distance, with resampling within strata.

    Resampling increases a distance, so the interval uses only the spread of the resampled
    distances. It is centred on the value, and clipped to 0 and `most`.

    Args:
        statistic: the distance.
        first, second: measurements of equal size; record i of both has the stratum `strata[i]`.
        strata: sorted, `[records]`.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resamples.
        most: the largest possible distance.
    """
    rng = np.random.default_rng(seed)
    _, starts, counts = np.unique(strata, return_index=True, return_counts=True)
    start, count = np.repeat(starts, counts), np.repeat(counts, counts)
    redrawn = start + (rng.random((resamples, 2, len(strata))) * count).astype(int)
    draws = np.array([statistic(first[one], second[other]) for one, other in redrawn])
    if np.isnan(draws).all():
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = (
        np.nanquantile(draws, [tail, 1 - tail]) - np.nanmean(draws) + statistic(first, second)
    )
    return max(0.0, float(low)), min(most, float(high))


def percentile(
    statistic: Callable[..., float],
    samples: Sequence[np.ndarray],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic; the samples are resampled
    independently.
    """
    rng = np.random.default_rng(seed)
    draws = [
        statistic(*(rng.choice(sample, len(sample)) for sample in samples))
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def wilson(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of `count` records (Wilson, J Am Stat Assoc 22:209, 1927)."""
    low, high = binomtest(round(share * count), count).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def hanley_mcneil(
    area: float, positive: int, negative: int, confidence: float
) -> tuple[float, float]:
    """Return the interval of an area under the ROC curve (Hanley & McNeil, Radiology 143:29, 1982,
    eq. 1 and 2), clipped to 0 and 1.
    """
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area) + (positive - 1) * (one - area**2) + (negative - 1) * (two - area**2)
    )
    half = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(
        max(0.0, variance) / (positive * negative)
    )
    return max(0.0, float(area - half)), min(1.0, float(area + half))
