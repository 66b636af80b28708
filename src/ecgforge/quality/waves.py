"""Waves and intervals by delineation, to compare two sets, not for diagnosis."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.signal import find_peaks, peak_prominences, resample_poly

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
RATE = 500  # Hz, for delineation: at 100 Hz a sample is a tenth of a QRS
PART = 64  # records delineated at a time, so that their beats stay in the cache
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
# Limits of Emrich et al. and of their code in NeuroKit, in s: from Q to R, from Q to S, from P to
# Q, from S to T, and from a T peak to its end.
Q_TO_R, Q_TO_S, P_TO_Q, S_TO_T, T_TO_END = 0.12, 0.18, 0.3, 0.15, 0.1
# P peaks, T peaks and T ends, in samples of their beat, `[beats]`, NaN if missing
Waves = tuple[np.ndarray, np.ndarray, np.ndarray]

_MIDDLE = round(BEFORE * RATE)  # the R peak's sample in a beat
_REACH = round(QRS_REACH * RATE)
_LEVEL = round(BASELINE * RATE)
# the part of a beat with the QRS, the level before it, and a sample more for slopes
_QRS_PART = slice(_MIDDLE - _REACH - _LEVEL, _MIDDLE + _REACH + 1)
# the QRS complex, in `_QRS_PART`
_NEAR = slice(
    _REACH + _LEVEL - round(QRS_NEAR * RATE), _REACH + _LEVEL + round(QRS_NEAR * RATE) + 1
)
_ONE, _TWO = LEADS.index("I"), LEADS.index("II")


def measure(
    signals: np.ndarray, sampling_rate: float, units: str, places: list[np.ndarray] | None = None
) -> pd.DataFrame:
    """Measure the waves of each record.

    The bounds of the QRS come from the spatial velocity of the median beat. T and P come from a
    delineation by peak prominence (Emrich et al., EUSIPCO 2024, p. 1402) of each beat in lead II,
    in which both are usually upright. Each lead is divided by its standard deviation, so that
    intervals do not depend on units.

    Args:
        signals: `[records, 8, samples]`, leads in the order of `leads.LEADS`.
        sampling_rate: Hz.
        units: of the signals; the axis needs `mV`, since other units have no common scale.
        places: the R peaks of each record, if `beats.detect` has found them before.

    Returns:
        A row per record, with NaN for missing values: `qrs_duration`, `qt` (ms, both from the QRS's
            first onset in any lead), `qtc` (ms, after Fridericia, Acta Med Scand 53:469, 1920: QT
            divided by the cube root of the median RR interval in s), `p_share` (share of beats with
            a P wave at the record's median position), `r_amplitude` and `t_amplitude` (in lead II,
            relative to the level at QRS onset, in the record's units, T with its sign), `axis`
            (degrees, frontal QRS axis, from -90 to 270), `qrs_constancy` (see `constancy`), and
            `failed`: too few beats, or no end of T, so that QT is missing.
    """
    if places is None:
        places = beats.detect(signals, sampling_rate)
    rows = [
        row
        for start in range(0, len(signals), PART)
        for row in _rows(
            signals[start : start + PART], places[start : start + PART], sampling_rate, units
        )
    ]
    table = pd.DataFrame(rows, columns=list(MEASURES), dtype=float)
    return table.assign(failed=table["qt"].isna())


def _rows(
    signals: np.ndarray, places: list[np.ndarray], sampling_rate: float, units: str
) -> list[dict[str, float]]:
    """Return the measures of some records, in the order of the records."""
    deviations = signals.std(axis=-1, keepdims=True)
    scales = np.where(deviations > 0, deviations, 1)
    enough = [number for number, peaks in enumerate(places) if len(peaks) >= FEWEST_BEATS]
    found = _beats(signals[enough], [places[number] for number in enough], sampling_rate)
    whole = {
        number: apart for number, apart in zip(enough, found, strict=True) if len(apart[1]) >= 2
    }
    rows: list[dict[str, float]] = [{} for _ in places]
    if not whole:
        return rows
    delineated = _delineate(
        np.concatenate([two / scales[number, _TWO] for number, (_, two) in whole.items()])
    )
    ends = np.cumsum([len(two) for _, two in whole.values()])[:-1]
    each = zip(*(np.split(one, ends) for one in delineated), strict=True)
    for (number, apart), waves in zip(whole.items(), each, strict=True):
        interval = np.median(np.diff(places[number])) / sampling_rate
        rows[number] = _record(*apart, scales[number], waves, interval, units)
    return rows


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


def _beats(
    signals: np.ndarray, peaks: list[np.ndarray], sampling_rate: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the complete beats of each record at `RATE`: their `_QRS_PART` in all leads, `[leads,
    samples, beats]`, and lead II, `[beats, samples]`.
    """
    ratio = Fraction(RATE) / Fraction(sampling_rate).limit_denominator(100)
    fine = resample_poly(
        signals.astype(float), ratio.numerator, ratio.denominator, axis=-1, padtype="line"
    )
    found = []
    for record, own in zip(fine, peaks, strict=True):
        places = _places(own * float(ratio), fine.shape[-1])
        found.append((record[:, places[:, _QRS_PART].T], record[_TWO, places]))
    return found


def _record(
    qrs_part: np.ndarray,
    two: np.ndarray,
    scale: np.ndarray,
    delineated: Waves,
    interval: float,
    units: str,
) -> dict[str, float]:
    typical = _median(qrs_part)
    onset, end = _qrs(typical / scale)
    level = typical[:, onset - _LEVEL : onset].mean(axis=-1, keepdims=True)
    above = typical - level
    p_peaks, t_peaks, t_ends = delineated
    found = {
        "qrs_duration": 1000 * (end - onset) / RATE,
        "r_amplitude": above[_TWO, onset:end].max(),
        "axis": _axis(above[:, onset:end]) if units == "mV" else np.nan,
        "p_share": _steady(p_peaks),
        "qrs_constancy": constancy(np.moveaxis((qrs_part / scale[..., None])[:, _NEAR], -1, 0)),
    }
    ended = ~np.isnan(t_ends)
    if ended.any():
        qt = 1000 * (_median(t_ends[ended]) - onset - _QRS_PART.start) / RATE
        t_peak = round(float(_median(t_peaks[ended])))
        found |= {
            "qt": qt,
            "qtc": qt / np.cbrt(interval),
            "t_amplitude": _median(two[:, t_peak]) - level[_TWO, 0],
        }
    return found


def _median(values: np.ndarray) -> np.ndarray:
    """Return the median over the last axis. A sort of few values is faster than `numpy.median`."""
    ordered, count = np.sort(values, axis=-1), values.shape[-1]
    return np.asarray((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)


def _places(peaks: np.ndarray, samples: int) -> np.ndarray:
    """Return the samples of the complete beats of a record, `[beats, samples of a beat]`, each with
    its part of the RR intervals.

    Outside its part, a beat continues at a constant level. Delineators search half an RR interval,
    or at positions that depend on the heart rate, and miss the T wave at 140 bpm; after the cut,
    the search range is the same at all rates.

    Args:
        peaks: positions of the R peaks, in samples at `RATE`.
        samples: number of samples of the record.
    """
    intervals = np.diff(peaks)
    typical = [np.median(intervals)]
    before = np.minimum(BEFORE * RATE, (1 - PART_AFTER) * np.concatenate([typical, intervals]))
    after = np.minimum(AFTER * RATE, PART_AFTER * np.concatenate([intervals, typical]))
    offsets = np.arange(-_MIDDLE, round(AFTER * RATE))
    places = np.rint(peaks[:, None] + np.clip(offsets, -before[:, None], after[:, None])).astype(
        int
    )
    return places[(places[:, 0] >= 0) & (places[:, -1] < samples)]


def _qrs(beat: np.ndarray) -> tuple[int, int]:
    """Return the start and the end of the QRS in the `_QRS_PART` of a beat, `[leads, samples]`.

    The spatial velocity is the root mean square over leads of their slopes. A bound is at the point
    where it falls below a share of its maximum, as Laguna et al. (Comput Biomed Res 27:45, 1994) do
    with the slope of a lead. The share was chosen by the durations of simulated records.
    """
    velocity = np.sqrt(np.square(np.gradient(beat, axis=-1)).mean(axis=0))
    near = velocity[_LEVEL:-1]
    steepest = _REACH // 2 + int(near[_REACH // 2 : 3 * _REACH // 2].argmax())
    fast = np.flatnonzero(near >= QRS_LIMIT * near[steepest])
    runs = np.split(fast, np.flatnonzero(np.diff(fast) > round(QRS_NOTCH * RATE)) + 1)
    qrs = next(run for run in runs if run[0] <= steepest <= run[-1])
    return int(qrs[0]) + _LEVEL, int(qrs[-1]) + 1 + _LEVEL


def _axis(qrs: np.ndarray) -> float:
    """Return the frontal axis from the net areas of a QRS, `[leads, samples]`, in I and aVF, in
    degrees from `WEST` on.

    aVF is a unipolar lead with smaller amplitudes than I; the factor corrects this (Novosel et al.,
    Croat Med J 40:77, 1999).
    """
    one, two = qrs[[_ONE, _TWO]].sum(axis=-1)
    angle = np.degrees(np.arctan2(2 / np.sqrt(3) * (two - one / 2), one))
    return float((angle - WEST) % 360 + WEST)


def _delineate(beats_apart: np.ndarray) -> Waves:
    """Return P peaks, T peaks and T ends of beats in one lead.

    Q is the most prominent minimum before R, S the first minimum after it. P is the most prominent
    maximum before Q, T the most prominent extremum after S, and T ends at the base of its
    prominence. The result equals NeuroKit's, which takes a hundred times as long.

    Args:
        beats_apart: `[beats, samples]`, with the R peak at `_MIDDLE`.
    """
    # R in the middle, so that the search range is one beat
    r = beats_apart.shape[1] // 2
    lead = np.pad(beats_apart, ((0, 0), (r - _MIDDLE, 0)), mode="edge")[:, : 2 * r]
    high, low = _prominences(lead), _prominences(-lead)
    high[:, r] = low[:, r] = 0
    to_r, to_s, to_q, to_t = (round(s * RATE) for s in (Q_TO_R, Q_TO_S, P_TO_Q, S_TO_T))
    place = np.arange(2 * r)
    q = r - to_r + low[:, r - to_r : r].argmax(axis=1)
    # S is within `to_s` of Q, also if it is no minimum.
    after = place[r : r + to_s] < q[:, None] + to_s
    falls = after & (low[:, r : r + to_s] > 0)
    lowest = np.where(after, lead[:, r : r + to_s], np.inf).argmin(axis=1)
    s = r + np.where(falls.any(axis=1), falls.argmax(axis=1), lowest)
    before_q = (place >= q[:, None] - to_q) & (place <= q[:, None])
    p, p_found = _highest(np.where(before_q, high, 0))
    after_s = place >= s[:, None] + to_t
    (top, top_found), (dip, dip_found) = (
        _highest(np.where(after_s, one, 0)) for one in (high, low)
    )
    upright = top_found >= dip_found
    t, t_found = np.where(upright, top, dip), np.maximum(top_found, dip_found) > 0
    t_ends = np.full(len(t), np.nan)
    t_ends[t_found] = _ends((lead * np.where(upright, 1, -1)[:, None])[t_found], t[t_found])
    shift = _MIDDLE - r
    return (
        np.where(p_found > 0, p + shift, np.nan),
        np.where(t_found, t + shift, np.nan),
        t_ends + shift,
    )


def _highest(prominences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the first maximum of each row, and the maximum."""
    places = prominences.argmax(axis=1)
    return places, prominences[np.arange(len(places)), places]


def _walled(beats_apart: np.ndarray) -> np.ndarray:
    """Return all beats in one row, with a wall after each: no prominence reaches over it."""
    return np.pad(beats_apart, ((0, 0), (0, 1)), constant_values=np.inf).ravel()


def _prominences(beats_apart: np.ndarray) -> np.ndarray:
    """Return the prominence of each local maximum of beats, `[beats, samples]`, and 0 elsewhere."""
    row = _walled(beats_apart)
    peaks = find_peaks(row)[0]
    peaks = peaks[np.isfinite(row[peaks])]
    found = np.zeros(len(row))
    found[peaks] = peak_prominences(row, peaks)[0]
    return found.reshape(len(beats_apart), -1)[:, :-1]


def _ends(beats_apart: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the right base of a local maximum of each beat, within `T_TO_END`."""
    starts = (beats_apart.shape[1] + 1) * np.arange(len(peaks))
    window = 2 * round(T_TO_END * RATE)
    return peak_prominences(_walled(beats_apart), starts + peaks, wlen=window)[2] - starts


def _steady(p_peaks: np.ndarray) -> float:
    """Return the share of beats with a P wave at the median position. Nearly every beat has a
    maximum before Q; in fibrillation, the positions vary.
    """
    found = p_peaks[~np.isnan(p_peaks)]
    if not len(found):
        return 0.0
    return float(np.mean(np.abs(p_peaks - _median(found)) <= P_SPREAD * RATE))
