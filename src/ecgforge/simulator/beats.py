"""Times of ventricular beats: a model of the RR intervals for each rhythm."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

# Coefficient of variation of RR by rhythm: median, spread (of the logarithm), and limits.
_VARIATION = {
    "SR": (0.024, 0.55, 0.004, 0.055),
    "SB": (0.028, 0.60, 0.004, 0.080),
    "ST": (0.014, 0.55, 0.004, 0.060),
    "SA": (0.110, 0.30, 0.070, 0.220),
    "AFIB": (0.210, 0.28, 0.110, 0.350),
    "AFLT": (0.010, 0.50, 0.002, 0.040),
    "SVT": (0.010, 0.50, 0.002, 0.020),
}
_RESPIRATORY_SHARE = {"SA": 0.85}  # of the variance of RR; 0.5 for other rhythms
# atrial rates per minute: type I of Wells et al. 1979 (Circulation 60:665) with a margin
_FLUTTER_RATES = (220.0, 350.0)
_USUAL_FLUTTER = (290.0, 30.0)  # mean and spread
_BLOCKS = np.array([2, 3, 4])
_BLOCK_CHANCES = np.array([1.0, 0.3, 1.0])  # weights of k:1 conduction; 3:1 is rare
_VARIABLE_BLOCK = 0.35  # weight, on the same scale, of conduction that varies from beat to beat


@dataclass(frozen=True)
class Breath:
    """Respiration, which modulates RR and the QRS amplitude: frequency in Hz, phase in radians."""

    frequency: float
    phase: float

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """Return the depth of breath at `times` (s), -1 to 1."""
        return np.sin(2 * np.pi * self.frequency * times + self.phase)


@dataclass(frozen=True)
class Beats:
    """Beats of one record.

    Attributes:
        times: s from the record's start, ascending, from before the record to after it.
        cycle: s, period of the flutter waves, with which the beats are in phase; NaN without
            flutter.
    """

    times: np.ndarray
    cycle: float


def draw(
    rhythm: str,
    rate: float,
    qt: float,
    duration: float,
    margin: float,
    breath: Breath,
    rng: np.random.Generator,
) -> Beats:
    """Draw beats over `[-margin, duration + margin]` s, with a mean RR inside the record of exactly
    60/`rate` s.

    Args:
        rhythm: name of the rhythm.
        rate: beats/min.
        qt: ms; in fibrillation it limits the shortest RR interval.
        duration: s, of the record.
        margin: s, before and after the record.
        breath: respiration of the patient.
        rng: random generator.
    """
    mean = 60 / rate
    start = rng.uniform()  # in mean intervals, until the record's first beat
    inside = max(1, int(duration / mean - start))
    outside = ceil(2 * margin / mean) + 1
    count = inside + 2 * outside
    intervals = _intervals(rhythm, mean, count, qt, breath, rng)
    scale = intervals[outside : outside + inside].mean()
    intervals /= scale
    # The beats before and after the record must stay outside it, or they would change its rate.
    intervals[outside - 1] = max(intervals[outside - 1], start + 1e-6)
    intervals[outside + inside] = max(
        intervals[outside + inside], duration / mean - start - inside + 1e-6
    )
    since = np.concatenate([[0], np.cumsum(intervals)])
    return Beats(
        (start + since - since[outside]) * mean, mean / scale if rhythm == "AFLT" else np.nan
    )


def _intervals(
    rhythm: str, mean: float, count: int, qt: float, breath: Breath, rng: np.random.Generator
) -> np.ndarray:
    """Draw RR intervals in units of their mean, or of the flutter's cycle, `[count]`."""
    median, spread, low, high = _VARIATION[rhythm]
    variation = np.clip(median * np.exp(spread * rng.standard_normal()), low, high)
    noise = rng.standard_normal(count)
    if rhythm == "AFIB":
        # Independent from beat to beat, right-skewed, with the refractory period as the minimum.
        recovered = min(0.72, 0.9 * qt / 1000 / mean)
        return np.maximum(np.exp(variation * noise), recovered)
    if rhythm == "SVT":
        return 1 + variation * noise
    if rhythm == "AFLT":
        # The conduction time varies, but each beat follows its own wave, so the variation does not
        # accumulate.
        waves = _conducted(60 / mean, count, rng)
        return waves + variation * waves.mean() * np.diff(noise, prepend=0) / np.sqrt(2)
    share = _RESPIRATORY_SHARE.get(rhythm, 0.5)
    slow = np.convolve(noise, 0.6 ** np.arange(6))[:count] * 0.8  # unit variance
    breathing = np.sqrt(2) * breath(mean * np.arange(count))
    return 1 + variation * (np.sqrt(share) * breathing + np.sqrt(1 - share) * slow)


def _conducted(rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the number of flutter waves between beats, `[count]`: a constant k, or a varying number
    of 2, 3 and 4.
    """
    low, high = _FLUTTER_RATES
    usual, spread = _USUAL_FLUTTER
    if rate > high / 2:
        return np.full(count, 2.0)  # type II of Wells et al., faster than type I
    atrial = _BLOCKS * rate
    chances = (
        _BLOCK_CHANCES
        * np.exp(-0.5 * ((atrial - usual) / spread) ** 2)
        * (atrial >= low)
        * (atrial <= high)
    )
    fixed = rng.choice(
        [0, *_BLOCKS], p=np.array([_VARIABLE_BLOCK, *chances]) / (_VARIABLE_BLOCK + chances.sum())
    )
    if fixed:
        return np.full(count, float(fixed))
    ratio = np.clip(rng.normal(usual, spread), low, high) / rate
    chances = np.exp(-((_BLOCKS - ratio) ** 2) / 0.8)
    waves = rng.choice(_BLOCKS, count, p=chances / chances.sum()).astype(float)
    # A ventricular rate below 4:1 conduction needs a larger ratio.
    return waves + max(0, round(ratio) - 4)
