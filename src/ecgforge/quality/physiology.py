"""Heart rate and RR variation, and how far two sets of records differ in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ecgforge.records import beats

FEWEST_BEATS = 3  # two RR intervals, below which they have no variation
MEASURES = ("heart_rate", "rr_variation")


def measure(signals: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Measure the rhythm of each record, `[records, leads, samples]`.

    Returns:
        A row a record: `beats`; `heart_rate` in bpm, of the median RR interval; `rr_variation`, the standard deviation of the RR
        intervals in percent of their mean. Both are NaN where fewer than three beats were found.
    """
    rows = [_rhythm(np.diff(peaks) / sampling_rate) for peaks in beats.detect(signals, sampling_rate)]
    return pd.DataFrame(rows, columns=["beats", *MEASURES])


def _rhythm(intervals: np.ndarray) -> tuple[int, float, float]:
    found = len(intervals) + 1
    if found < FEWEST_BEATS:
        return found, np.nan, np.nan
    return found, 60 / float(np.median(intervals)), 100 * float(intervals.std(ddof=1) / intervals.mean())


def undetected(measured: pd.DataFrame) -> np.ndarray:
    """Say which records have fewer beats than a rhythm needs, `[records]` bool."""
    return measured["heart_rate"].isna().to_numpy()


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples, in their unit; records without a value are left out, so read it beside their share.

    It is the area between the two empirical distribution functions; NaN where a sample has no value at all.
    """
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else np.nan


def wasserstein_interval(
    first: np.ndarray, second: np.ndarray, strata: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Bootstrap interval of `wasserstein`, drawn within `strata`, moved to lie about its value and cut at zero.

    Resampling adds noise of its own, which pushes a distance up; so the spread of the resampled distances is taken and their
    level is not.

    Args:
        first, second: as many of each; record i of both belongs to stratum `strata[i]`; strata lie together.
    """
    _, starts, counts = np.unique(strata, return_index=True, return_counts=True)
    start, count = np.repeat(starts, counts), np.repeat(counts, counts)
    redrawn = start + (rng.random((resamples, 2, len(strata))) * count).astype(int)
    draws = np.array([wasserstein(first[one], second[other]) for one, other in redrawn])
    if np.isnan(draws).all():
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail]) - np.nanmean(draws) + wasserstein(first, second)
    return max(0.0, float(low)), float(high)
