"""Waves and intervals by delineation, to compare two sets, not for diagnosis."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.signal import resample_poly

from ecgforge.quality.physiology import FEWEST_BEATS
from ecgforge.records import beats
from ecgforge.records.leads import LEADS

MEASURES = (
    "qrs_duration",
    "qt",
    "qtc",
    "p_share",
    "r_amplitude",
    "t_amplitude",
    "axis",
    "qrs_constancy",
)
RATE = 500  # Hz, for delineation: at 100 Hz a sample is a tenth of a QRS, and NeuroKit fails
BEFORE, AFTER = 0.36, 0.6  # s before and after an R peak
# share of an RR interval that belongs to the beat before; the rest has the P wave of the next beat
PART_AFTER = 0.65
QRS_LIMIT = 0.15  # of the largest spatial velocity, at the start and the end of the QRS
QRS_NOTCH = 0.012  # s, longest gap below the limit within a QRS
QRS_REACH = 0.16  # s to each side of the R peak
QRS_NEAR = 0.08  # s to each side of the R peak, for the constancy of the QRS
BASELINE = 0.016  # s before the QRS, the reference level of amplitudes
P_SPREAD = 0.02  # s, largest distance of a P wave from its median position
WEST = -90  # degrees; angles start here, at the quadrant with the rarest axes
# P peaks, T peaks and T ends, in samples of their beat, `[beats]`, NaN if missing
Waves = tuple[np.ndarray, np.ndarray, np.ndarray]

_MIDDLE = round(BEFORE * RATE)  # the R peak's sample in a beat
_NEAR = slice(_MIDDLE - round(QRS_NEAR * RATE), _MIDDLE + round(QRS_NEAR * RATE) + 1)
_ONE, _TWO = LEADS.index("I"), LEADS.index("II")


def measure(signals: np.ndarray, sampling_rate: float, units: str) -> pd.DataFrame:
    """Measure the waves of each record.

    The bounds of the QRS come from the spatial velocity of the median beat. T and P come from
    NeuroKit's delineation by peak prominence (Emrich et al., EUSIPCO 2024, p. 1402) of each beat in
    lead II, in which both are usually upright. This is NeuroKit's fastest method, and it finds a T
    wave without a P wave. Its QRS bounds are not used, since they are the minima next to R, not the
    ends of the QRS. Each lead is divided by its standard deviation, so that intervals do not depend
    on units.

    Args:
        signals: `[records, 8, samples]`, leads in the order of `leads.LEADS`.
        sampling_rate: Hz.
        units: of the signals; the axis needs `mV`, since other units have no common scale.

    Returns:
        A row per record, with NaN for missing values: `qrs_duration`, `qt` (ms, both from the QRS's
            first onset in any lead), `qtc` (ms, after Fridericia, Acta Med Scand 53:469, 1920: QT
            divided by the cube root of the median RR interval in s), `p_share` (share of beats with
            a P wave at the record's median position), `r_amplitude` and `t_amplitude` (in lead II,
            relative to the level at QRS onset, in the record's units, T with its sign), `axis`
            (degrees, frontal QRS axis, from -90 to 270), `qrs_constancy` (see `constancy`), and
            `failed`: too few beats, an error in NeuroKit, or no end of T, so that QT is missing.
    """
    places = beats.detect(signals, sampling_rate)
    found = [
        _beats(record, peaks, sampling_rate) for record, peaks in zip(signals, places, strict=True)
    ]
    scales = [
        np.where(deviations > 0, deviations, 1)
        for deviations in signals.std(axis=-1, keepdims=True)
    ]
    whole = [number for number, apart in enumerate(found) if len(apart) >= 2]
    delineated = dict(
        zip(
            whole,
            _delineate([found[number][:, _TWO] / scales[number][_TWO] for number in whole]),
            strict=True,
        )
    )
    rows = [
        _record(
            found[number],
            scales[number],
            delineated[number],
            np.median(np.diff(peaks)) / sampling_rate,
            units,
        )
        if number in delineated
        else {}
        for number, peaks in enumerate(places)
    ]
    table = pd.DataFrame(rows, columns=list(MEASURES), dtype=float)
    return table.assign(failed=table["qt"].isna())


def constancy(complexes: np.ndarray) -> float:
    """Return the constancy of the QRS of a record: 1 if all its beats are equal, and lower if they
    differ, as those of different patients do.

    It is 1 minus the mean square of the beats about their median beat, relative to their mean
    square about their mean in each lead.

    Args:
        complexes: aligned QRS complexes, `[beats, leads, samples]`; all leads count alike if they
            have about the same standard deviation.
    """
    about_mean = np.square(complexes - complexes.mean(axis=(0, 2), keepdims=True)).mean()
    about_median = np.square(complexes - np.median(complexes, axis=0)).mean()
    return float(1 - about_median / about_mean)


def ks(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov statistic: the largest difference of two samples' distribution
    functions, 0 to 1.

    Missing values are ignored, so their share is a separate score. NaN if a sample has no values.
    """
    # scipy.stats.ks_2samp also computes a p-value, which takes ten times as long; each interval
    # needs 200 statistics.
    first, second = np.sort(first[~np.isnan(first)]), np.sort(second[~np.isnan(second)])
    if not (len(first) and len(second)):
        return np.nan
    pooled = np.concatenate([first, second])
    one, other = (
        np.searchsorted(sample, pooled, side="right") / len(sample) for sample in (first, second)
    )
    return float(np.abs(one - other).max())


def _beats(signals: np.ndarray, peaks: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return a record's beats at `RATE`, `[beats, leads, samples]`; none if there are too few."""
    if len(peaks) < FEWEST_BEATS:
        return np.empty((0, *signals.shape))
    ratio = Fraction(RATE) / Fraction(sampling_rate).limit_denominator(100)
    fine = resample_poly(
        signals.astype(float), ratio.numerator, ratio.denominator, axis=-1, padtype="line"
    )
    return _apart(fine, peaks * float(ratio))


def _record(
    apart: np.ndarray, scale: np.ndarray, delineated: Waves | None, interval: float, units: str
) -> dict[str, float]:
    typical = np.median(apart, axis=0)
    onset, end = _qrs(typical / scale)
    above = typical - typical[:, onset - round(BASELINE * RATE) : onset].mean(
        axis=-1, keepdims=True
    )
    found = {
        "qrs_duration": 1000 * (end - onset) / RATE,
        "r_amplitude": above[_TWO, onset:end].max(),
        "axis": _axis(above[:, onset:end]) if units == "mV" else np.nan,
        "qrs_constancy": constancy((apart / scale)[..., _NEAR]),
    }
    if delineated is None:
        return found
    p_peaks, t_peaks, t_ends = delineated
    found["p_share"] = _steady(p_peaks)
    if not np.isnan(t_ends).all():
        qt = 1000 * (np.nanmedian(t_ends) - onset) / RATE
        found |= {
            "qt": qt,
            "qtc": qt / np.cbrt(interval),
            "t_amplitude": above[_TWO, round(np.nanmedian(t_peaks))],
        }
    return found


def _apart(signals: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Cut the complete beats of a record, `[beats, leads, samples]`, each with its part of the RR
    intervals.

    Outside its part, a beat continues at a constant level. Delineators search half an RR interval,
    or at positions that depend on the heart rate, and miss the T wave at 140 bpm; after the cut,
    the search range is the same at all rates.

    Args:
        signals: `[leads, samples]` at `RATE`.
        peaks: positions of the R peaks, in samples.
    """
    intervals = np.diff(peaks)
    typical = [np.median(intervals)]
    before = np.minimum(BEFORE * RATE, (1 - PART_AFTER) * np.concatenate([typical, intervals]))
    after = np.minimum(AFTER * RATE, PART_AFTER * np.concatenate([intervals, typical]))
    offsets = np.arange(-_MIDDLE, round(AFTER * RATE))
    places = np.rint(peaks[:, None] + np.clip(offsets, -before[:, None], after[:, None])).astype(
        int
    )
    whole = (places[:, 0] >= 0) & (places[:, -1] < signals.shape[-1])
    return signals[:, places[whole]].transpose(1, 0, 2)


def _qrs(beat: np.ndarray) -> tuple[int, int]:
    """Return the start and the end of the QRS of a beat, `[leads, samples]`.

    The spatial velocity is the root mean square over leads of their slopes. A bound is at the point
    where it falls below a share of its maximum, as Laguna et al. (Comput Biomed Res 27:45, 1994) do
    with the slope of a lead. The share was chosen by the durations of simulated records.
    """
    velocity = np.sqrt(np.square(np.gradient(beat, axis=-1)).mean(axis=0))
    reach = round(QRS_REACH * RATE)
    near = velocity[_MIDDLE - reach : _MIDDLE + reach]
    steepest = reach // 2 + int(near[reach // 2 : 3 * reach // 2].argmax())
    fast = np.flatnonzero(near >= QRS_LIMIT * near[steepest])
    runs = np.split(fast, np.flatnonzero(np.diff(fast) > round(QRS_NOTCH * RATE)) + 1)
    qrs = next(run for run in runs if run[0] <= steepest <= run[-1])
    return int(qrs[0]) + _MIDDLE - reach, int(qrs[-1]) + 1 + _MIDDLE - reach


def _axis(qrs: np.ndarray) -> float:
    """Return the frontal axis from the net areas of a QRS, `[leads, samples]`, in I and aVF, in
    degrees from `WEST` on.

    aVF is a unipolar lead with smaller amplitudes than I; the factor corrects this (Novosel et al.,
    Croat Med J 40:77, 1999).
    """
    one, two = qrs[[_ONE, _TWO]].sum(axis=-1)
    angle = np.degrees(np.arctan2(2 / np.sqrt(3) * (two - one / 2), one))
    return float((angle - WEST) % 360 + WEST)


def _delineate(leads: list[np.ndarray]) -> list[Waves | None]:
    """Return P peaks, T peaks and T ends of the beats of each record in one lead, or None if
    NeuroKit fails.

    NeuroKit gets all records as one signal, since each call has a large overhead. If it fails, it
    gets both halves separately, down to single records.

    Args:
        leads: `[beats, samples]` of each record, with the R peak at the same sample of each beat.
    """
    if not leads:
        return []
    import neurokit2  # takes seconds

    # NeuroKit searches half an RR interval to each side of R. With symmetric beats, this range is
    # one beat.
    beats_apart = np.concatenate(leads)
    half = beats_apart.shape[1] // 2
    centred = np.pad(beats_apart, ((0, 0), (half - _MIDDLE, 0)), mode="edge")[:, : 2 * half]
    starts = 2 * half * np.arange(len(centred))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, waves = neurokit2.ecg_delineate(
                centred.ravel(), starts + half, sampling_rate=RATE, method="prominence"
            )
    # On unexpected shapes, NeuroKit raises exceptions of numpy, scipy and pandas.
    except Exception:
        middle = len(leads) // 2
        return _delineate(leads[:middle]) + _delineate(leads[middle:]) if middle else [None]
    found = [
        np.array(waves[f"ECG_{name}"], dtype=float) - starts - half + _MIDDLE
        for name in ("P_Peaks", "T_Peaks", "T_Offsets")
    ]
    ends = np.cumsum([len(lead) for lead in leads])[:-1]
    return list(zip(*(np.split(one, ends) for one in found), strict=True))


def _steady(p_peaks: np.ndarray) -> float:
    """Return the share of beats with a P wave at the median position. NeuroKit finds a P wave in
    each beat; in fibrillation, the positions vary.
    """
    return (
        float(np.mean(np.abs(p_peaks - np.nanmedian(p_peaks)) <= P_SPREAD * RATE))
        if not np.isnan(p_peaks).all()
        else 0.0
    )
