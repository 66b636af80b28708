"""Heart rate and RR variation of records, and the Wasserstein distance of two sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ecgforge.records import beats

FEWEST_BEATS = 3  # the variation needs two RR intervals
MEASURES = ("heart_rate", "rr_cv")


def measure(signals: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Measure the rhythm of each record, `[records, leads, samples]`; see `of_peaks`."""
    return of_peaks(beats.detect(signals, sampling_rate), sampling_rate)


def of_peaks(places: list[np.ndarray], sampling_rate: float) -> pd.DataFrame:
    """Measure the rhythm of each record from its R peaks.

    Args:
        places: the result of `beats.detect`.
        sampling_rate: Hz.

    Returns:
        A row per record: `beats`; `heart_rate` in bpm, from the median RR interval; `rr_cv`, the
            standard deviation of the RR intervals in percent of their mean; `sdnn` and `rmssd` in
            ms, the standard deviation of the RR intervals and the root mean square of their
            successive differences (Task Force, Circulation 93:1043, 1996, table 1), with ectopic
            beats. All except `beats` are NaN with fewer than three detected beats.
    """
    rows = [_rhythm(np.diff(peaks) / sampling_rate) for peaks in places]
    return pd.DataFrame(rows, columns=["beats", *MEASURES, "sdnn", "rmssd"])


def _rhythm(intervals: np.ndarray) -> tuple[int, float, float, float, float]:
    found = len(intervals) + 1
    if found < FEWEST_BEATS:
        return found, np.nan, np.nan, np.nan, np.nan
    spread = float(intervals.std(ddof=1))
    successive = float(np.sqrt(np.square(np.diff(intervals)).mean()))
    return (
        found,
        60 / float(np.median(intervals)),
        100 * spread / float(intervals.mean()),
        1000 * spread,
        1000 * successive,
    )


def undetected(measured: pd.DataFrame) -> np.ndarray:
    """Return which records have fewer than `FEWEST_BEATS` detected beats, `[records]` bool."""
    return measured["heart_rate"].isna().to_numpy()


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two samples, in their unit.

    It is the area between the two empirical distribution functions. Missing values are ignored, so
    their share is a separate score. NaN if a sample has no values.
    """
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else np.nan
