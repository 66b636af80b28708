"""Where in frequency the power of records lies, and how far two sets differ in it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.signal import welch

# Hz, of prepared records: beyond, the filter's power and not the heart's would count as much
BAND = (0.5, 40.0)
SEGMENT = 4.0  # s; four segments of ten seconds, and frequencies a quarter of a hertz apart
# units of the record: noise of one step of the usual converters, below which no power is told from
# another
QUIET = 1e-3
EDGES = (5.0, 15.0)  # Hz, between mostly P and T, mostly QRS, and its notches and muscle
POWERS = ("power_0_5", "power_5_15", "power_15_40")


def log_psd(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return log10 of the power spectral density in `BAND`, `[records, leads, frequencies]`, of
    `[records, leads, samples]`.

    Welch's method (IEEE Trans Audio Electroacoust 15:70, 1967) with Hann windows that overlap by
    half, in squared units of the record per Hz. White noise of `QUIET` is the least that is told: a
    lead without a signal would have minus infinity.
    """
    _, density = _welch(signals, sampling_rate)
    return np.log10(np.maximum(density, QUIET**2 / (sampling_rate / 2)))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far two sets' spectra as `log_psd` gives them lie apart in dB, the mean over leads
    and frequencies.

    A set's spectrum is the mean over records of their spectra in dB, in which a few loud records do
    not hide the others.
    """
    return float(10 * np.abs(first.mean(axis=0) - second.mean(axis=0)).mean())


def band_power(signals: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Return shares of the power in `BAND` below, between and above `EDGES`, a row a record, of
    `[records, leads, samples]`.

    A record's share is the mean over leads, so that large leads do not speak for all; those without
    any power are left out, and it is NaN where no lead has any.
    """
    frequencies, density = _welch(signals, sampling_rate)
    power = density.sum(axis=-1, keepdims=True)
    live = np.count_nonzero(power, axis=1)
    spectrum = (density / np.where(power > 0, power, 1)).sum(axis=1) / np.where(
        live > 0, live, np.nan
    )
    bands = np.searchsorted(EDGES, frequencies, side="right")
    return pd.DataFrame(
        {name: spectrum[:, bands == band].sum(axis=-1) for band, name in enumerate(POWERS)}
    )


def _welch(signals: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in `BAND`, in Hz, and the density there, `[records, leads, frequencies]`."""
    frequencies, density = welch(
        signals, sampling_rate, nperseg=min(signals.shape[-1], round(SEGMENT * sampling_rate))
    )
    inside = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    return frequencies[inside], density[..., inside]
