"""Detection of R peaks in all leads together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Hz; in this band, the QRS is largest relative to P, T and flutter waves and muscle noise
BAND = (8.0, 20.0)
WINDOW = 0.08  # s, about the length of a QRS
REFRACTORY = 0.24  # s; allows 220 bpm
THRESHOLD = 0.5  # position between the record's quiet level and its typical QRS
PROMINENCE = 1.9  # typical QRS over quiet level; Gaussian noise in eight leads stays below it
CHUNK = 256  # records filtered at a time


def detect(signals: np.ndarray, sampling_rate: float) -> list[np.ndarray]:
    """Find the R peaks of each record.

    The method follows Pan & Tompkins (IEEE Trans Biomed Eng 32:230, 1985): band-pass, energy and
    moving-window integration. It differs in three points: the band is that of Elgendi et al.
    (2010); the energies of all leads are added, each relative to its own mean, so that units do not
    matter; and a fixed threshold between the record's quiet level and its typical QRS replaces the
    adaptive one, which needs more than ten seconds.

    Args:
        signals: `[records, leads, samples]`.
        sampling_rate: Hz, at least 50.

    Returns:
        Sorted positions of the R peaks of each record, in samples, with fractions: at 100 Hz, a
        whole sample is 5 bpm of a tachycardia. Noise and flat lines have no peaks.

    Raises:
        ValueError: the sampling rate is too low.
    """
    if sampling_rate < 50:
        raise ValueError(f"R peaks need 50 Hz or more, not {sampling_rate:g}")
    chunks = (signals[start : start + CHUNK] for start in range(0, len(signals), CHUNK))
    return [
        peaks for chunk in chunks for peaks in _peaks(_energy(chunk, sampling_rate), sampling_rate)
    ]


def _energy(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return the energy in the QRS band, `[records, samples]`: the mean over leads, each relative
    to its own mean.
    """
    from scipy.signal import butter, sosfiltfilt  # slow to import, and not needed for parameters

    band = sosfiltfilt(
        butter(2, BAND, btype="bandpass", fs=sampling_rate, output="sos"), signals, axis=-1
    )
    energy = np.square(band)
    mean = energy.mean(axis=-1, keepdims=True)
    return np.divide(energy, mean, out=np.zeros_like(energy), where=mean > 0).mean(axis=1)


def _peaks(energies: np.ndarray, sampling_rate: float) -> Iterator[np.ndarray]:
    """Yield the R peaks of each record, from the energies `[records, samples]`."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import find_peaks

    heights = np.sqrt(uniform_filter1d(energies, round(WINDOW * sampling_rate)))
    samples = heights.shape[-1]
    seconds = np.array_split(heights, max(1, round(samples / sampling_rate / 2)), axis=-1)
    typicals = np.median([part.max(axis=-1) for part in seconds], axis=0)
    quiets = np.quantile(heights, 0.1, axis=-1)
    for height, typical, quiet in zip(heights, typicals, quiets, strict=True):
        if typical <= PROMINENCE * quiet:
            yield np.array([])
            continue
        peaks, _ = find_peaks(
            height,
            height=quiet + THRESHOLD * (typical - quiet),
            distance=round(REFRACTORY * sampling_rate),
        )
        before, at, after = height[peaks - 1], height[peaks], height[peaks + 1]
        yield peaks + (before - after) / (
            2 * np.minimum(before - 2 * at + after, -np.finfo(float).tiny)
        )
