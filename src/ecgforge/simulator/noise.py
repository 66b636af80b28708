"""Recording noise from electrodes, muscles and mains, and the recorder's filters and gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# RA, LA, LL, V1-V6 to the leads I, II, V1-V6: limb leads are differences, chest leads are relative
# to Wilson's terminal.
_ELECTRODES = np.zeros((8, 9), dtype=np.float32)
_ELECTRODES[0, [1, 0]] = _ELECTRODES[1, [2, 0]] = 1, -1
_ELECTRODES[2:, 3:] = np.eye(6)
_ELECTRODES[2:, :3] = -1 / 3


@dataclass(frozen=True)
class Recorder:
    """The recorder and the environment of a site.

    Attributes:
        sampling_rate: Hz.
        high_pass, low_pass: Hz, corners of a first-order and of a second-order Butterworth filter.
        wander, muscle, mains: microvolts (root mean square at an electrode), medians over records.
        spread: standard deviation of the logarithm of these levels over records.
        mains_frequency: Hz; it has an effect only below half the sampling rate.
        gain: relative standard deviation of the calibration.
    """

    sampling_rate: int
    high_pass: float
    low_pass: float
    wander: float
    muscle: float
    mains: float
    spread: float
    mains_frequency: float
    gain: float

    def record(
        self, signals: np.ndarray, rngs: Sequence[np.random.Generator], sampling_rate: int
    ) -> np.ndarray:
        """Add noise to clean signals, filter them, and resample them.

        All steps work on spectra. The noise has the narrower of the two bands.

        Args:
            signals: `[n, 8, samples]`, mV.
            rngs: a random generator for each record.
            sampling_rate: Hz, of `signals`.

        Returns:
            `[n, 8, samples * self.sampling_rate / sampling_rate]` float32, mV. Filters settle in
            the first second or two.
        """
        count = signals.shape[-1]
        kept = count * self.sampling_rate // sampling_rate
        spectrum = np.fft.rfft(signals)[..., : kept // 2 + 1]
        frequencies = np.fft.rfftfreq(count, 1 / sampling_rate)[: spectrum.shape[-1]]
        for row, rng in enumerate(rngs):
            spectrum[row] += (_ELECTRODES * np.float32(count)) @ self._noise(frequencies, rng)
            spectrum[row] *= rng.normal(1, self.gain)
        spectrum *= (self._response(frequencies) * kept / count).astype(np.complex64)
        return np.fft.irfft(spectrum, kept)

    def _response(self, frequencies: np.ndarray) -> np.ndarray:
        low = frequencies / self.low_pass
        return (
            1j
            * frequencies
            / (1j * frequencies + self.high_pass)
            / (1 - low**2 + 1j * np.sqrt(2) * low)
        )

    def _noise(self, frequencies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the noise of the nine electrodes, `[9, frequencies]`: Fourier coefficients divided
        by the number of samples, in mV.
        """
        wander_level, muscle_level, mains_level = (
            np.exp(self.spread * rng.standard_normal(3))
            * [self.wander, self.muscle, self.mains]
            / 1000
        )
        wander = np.where(
            (frequencies > 0.04) & (frequencies < 1), 1 / np.maximum(frequencies, 0.1), 0
        )
        muscle = frequencies / np.hypot(frequencies, 20)
        power = (wander_level * wander) ** 2 / np.sum(wander**2) + (
            muscle_level * muscle
        ) ** 2 / np.sum(muscle**2)
        noise = rng.standard_normal((9, 2 * len(frequencies)), dtype=np.float32).view(np.complex64)
        noise *= (np.exp(0.35 * rng.standard_normal((9, 1))) * (np.sqrt(power) / 2)).astype(
            np.float32
        )
        hum = rng.standard_normal((9, 2)).view(complex)[:, 0] * mains_level / 2
        if self.mains_frequency < self.sampling_rate / 2:
            noise[:, np.searchsorted(frequencies, self.mains_frequency)] += hum
        return noise
