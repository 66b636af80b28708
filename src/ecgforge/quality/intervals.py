"""Intervals of scores that compare two samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest

PART = 2**20  # records of resamples in memory at a time


def bootstrap(
    value: float, draws: np.ndarray, confidence: float, most: float = np.inf
) -> tuple[float, float]:
    """Return the bootstrap interval of a distance.

    Resampling increases a distance, so the interval uses only the spread of the resampled
    distances. It is centred on the value, and clipped to 0 and `most`.

    Args:
        value: the distance.
        draws: the distances of the resamples, see `resampled`.
        confidence: e.g. 0.95.
        most: the largest possible distance.
    """
    if np.isnan(draws).all():
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail]) - np.nanmean(draws) + value
    return max(0.0, float(low)), min(most, float(high))


def percentile(
    statistic: Callable[..., np.ndarray],
    samples: Sequence[np.ndarray],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic; the samples are resampled
    independently.

    Args:
        statistic: from the resamples of each sample, `[resamples, records]`, to `[resamples]`.
        samples: `[records]` each.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    step = max(1, PART // sum(map(len, samples)))
    for start in range(0, resamples, step):
        drawn = zip(
            *(
                [rng.choice(sample, len(sample)) for sample in samples]
                for _ in range(min(step, resamples - start))
            ),
            strict=True,
        )
        draws.extend(statistic(*map(np.stack, drawn)))
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
