"""Power spectra of records, and their distance between two sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.signal import welch

BAND = (0.5, 40.0)  # Hz, of prepared records; outside it, the filter determines the power
SEGMENT = 4.0  # s; ten seconds have four segments, with a resolution of 0.25 Hz
QUIET = 1e-3  # units of the record: noise of one step of common converters
EDGES = (5.0, 15.0)  # Hz: mostly P and T below, mostly QRS between, its notches and muscle above
POWERS = ("power_0_5", "power_5_15", "power_15_40")


def measure(signals: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, pd.DataFrame]:
    """Return `log_psd` and `band_power`, with one estimate of the density."""
    frequencies, density = _welch(signals, sampling_rate)
    return _log(density, sampling_rate), _shares(frequencies, density)


def log_psd(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return log10 of the power spectral density in `BAND`, `[records, leads, frequencies]`, of
    `[records, leads, samples]`.

    The estimate uses Welch's method (IEEE Trans Audio Electroacoust 15:70, 1967) with Hann windows
    that overlap by half, in squared units of the record per Hz. Its minimum is the density of white
    noise of `QUIET`, since a lead without a signal would have minus infinity.
    """
    return _log(_welch(signals, sampling_rate)[1], sampling_rate)


def _log(density: np.ndarray, sampling_rate: float) -> np.ndarray:
    return np.log10(np.maximum(density, QUIET**2 / (sampling_rate / 2)))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the absolute difference of two sets' mean spectra in dB, as a mean over leads and
    frequencies.

    The mean of spectra in dB is not dominated by a few records with large amplitudes.

    Args:
        first, second: `log_psd` of the records.
    """
    return float(10 * np.abs(first.mean(axis=0) - second.mean(axis=0)).mean())


def band_power(signals: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Return the shares of the power in `BAND` below, between and above `EDGES`, a row per record.

    A record's share is the mean over leads, so that large leads do not dominate. Leads without
    power are left out; the share is NaN if no lead has power.

    Args:
        signals: `[records, leads, samples]`.
        sampling_rate: Hz.
    """
    return _shares(*_welch(signals, sampling_rate))


def _shares(frequencies: np.ndarray, density: np.ndarray) -> pd.DataFrame:
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
    """Return the frequencies in `BAND`, in Hz, and the density, `[records, leads, frequencies]`."""
    frequencies, density = welch(
        signals, sampling_rate, nperseg=min(signals.shape[-1], round(SEGMENT * sampling_rate))
    )
    inside = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    return frequencies[inside], density[..., inside]
