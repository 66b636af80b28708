"""Clean ECGs of simulated patients from a moving heart vector.

The model follows McSharry et al. 2003 (IEEE Trans Biomed Eng 50:289) and its three-dimensional
extension, Sameni et al. 2007 (EURASIP J Adv Signal Process 043407). Each wave is a sum of Gaussian
kernels in time; each kernel moves the heart vector in its own direction. Unlike in these papers,
kernels depend on the time in the beat, not on its phase, since the QRS does not widen at low rates.
The T wave follows QT, which follows RR.

The axes of the vector are x to the left, y to the feet and z to the back. Limb leads are its
projections in Einthoven's triangle, so that the frontal axes are exact. Chest leads use Dower's
weights (Dower et al. 1980, Clin Cardiol 3:87). They are close to the heart, so each also has a part
that no vector explains. Sizes, widths and variations of waves were chosen by eye and from median
amplitudes of real PTB-XL records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.simulator import beats
from ecgforge.simulator.beats import Beats, Breath

# The vector's weights in I, II, V1-V6: Einthoven's triangle, then Dower's chest leads.
_LEAD_FIELD = np.array(
    [
        [0.70, 0.0, 0.0],
        [0.35, 0.6062, 0.0],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
_CHEST = slice(2, 8)
# Dower's weights describe the ventricles; the atria are farther from the chest leads
_ATRIA_AFAR = 0.55

_Kernel = tuple[float, float, tuple[float, float, float]]  # centre, width, heart vector in mV
# the same for all kernels of a wave: [k], [k], [k, 3]
_Kernels = tuple[np.ndarray, np.ndarray, np.ndarray]

# Kernels of the QRS: centre (ms from the R peak), width (ms), heart vector (mV). Septum, apex, left
# free wall, posterior wall, base, and a notch at a random position in each patient.
_QRS: dict[str, list[_Kernel]] = {
    "normal": [
        (-22, 7.0, (-0.18, -0.10, -0.17)),
        (-8, 7.5, (0.48, 0.36, -0.40)),
        (2, 8.0, (0.76, 0.60, 0.18)),
        (13, 8.5, (0.24, 0.16, 0.84)),
        (27, 8.5, (-0.16, -0.12, 0.24)),
        (8, 7.0, (0.0, 0.0, 0.0)),
    ],
    "rbbb": [  # late right ventricle, to the right and to the front
        (-22, 7.0, (-0.18, -0.10, -0.17)),
        (-8, 7.5, (0.46, 0.36, -0.38)),
        (2, 8.0, (0.70, 0.54, 0.20)),
        (14, 8.5, (0.12, 0.10, 0.40)),
        (40, 13.0, (-0.40, -0.10, -0.62)),
        (24, 10.0, (-0.10, 0.0, -0.14)),
    ],
    "lbbb": [  # no septal vector; slow, notched, to the left and to the back
        (-24, 9.0, (0.22, 0.20, -0.06)),
        (-6, 13.0, (0.52, 0.34, 0.60)),
        (16, 14.0, (0.40, 0.12, 0.85)),
        (38, 14.0, (0.50, 0.14, 0.36)),
        (56, 10.0, (0.08, -0.05, 0.12)),
        (22, 8.0, (0.0, 0.0, 0.0)),
    ],
}
# P: centre and width in ms from its onset; right, then left atrium.
_P: list[_Kernel] = [(38, 16.0, (0.045, 0.105, -0.045)), (68, 18.0, (0.085, 0.070, 0.060))]
# P of retrograde activation from the node or a bypass tract: both atria at a time, so shorter;
# negative in II, positive in V1.
_P_FROM_BELOW: list[_Kernel] = [
    (22, 12.0, (-0.010, -0.110, -0.060)),
    (42, 14.0, (0.010, -0.080, -0.040)),
]
# A wave of typical, counter-clockwise flutter: centre and width in cycles. Up the septum and the
# left atrium; the front of the right atrium; down its free wall. In II a slow fall, a sharp fall to
# the trough and a sharp rise above the baseline, without a pause; in V1 a separate upright wave,
# during the rise of II (Saoudi et al. 2001, Eur Heart J 22:1162).
_FLUTTER: list[_Kernel] = [
    (0.50, 0.12, (-0.06, -0.30, 0.02)),
    (0.66, 0.075, (-0.05, 0.05, -0.22)),
    (0.86, 0.16, (0.03, 0.14, -0.02)),
]
# T: in units of the time from its peak to its end; the ST segment, the slow rise, the faster fall.
_T: list[_Kernel] = [
    (-2.1, 0.55, (0.0, 0.0, 0.0)),
    (-0.75, 0.58, (0.09, 0.09, -0.08)),
    (0.0, 0.45, (0.20, 0.20, -0.15)),
]

_QRS_LIMIT = 0.05  # of the peak over all leads: start and end of the QRS
_T_LIMIT = 0.10  # of the peak over all leads: end of T
_PEAK_TO_END = 0.28  # share of T's peak to T's end in the time from the QRS's end to T's end
# weights of the RR intervals before a beat for its QT
_MEMORY = 0.75 ** np.arange(12) / np.sum(0.75 ** np.arange(12))
_QT_POWER = 1 / 3  # Fridericia's, from beat to beat


@dataclass(frozen=True)
class Ecg:
    """Clean ECGs.

    Attributes:
        signals: `[patients, 8, samples]` float32, mV, leads I, II, V1-V6.
        beats: R peaks of the heart vector within the record, for each patient, s from its start.
    """

    signals: np.ndarray
    beats: list[np.ndarray]


@dataclass(frozen=True)
class _Wave:
    """Gaussian kernels of a wave: centres and widths `[n, kernels]`, amplitudes in the leads `[n,
    kernels, 8]` (mV).
    """

    centres: np.ndarray
    widths: np.ndarray
    leads: np.ndarray

    def magnitude(self, times: np.ndarray) -> np.ndarray:
        """Return the root mean square over leads, `[n, times]`; `times` has the units of the
        centres.
        """
        kernels = np.exp(-0.5 * ((times - self.centres[..., None]) / self.widths[..., None]) ** 2)
        return np.sqrt(np.square(np.matmul(self.leads.transpose(0, 2, 1), kernels)).mean(axis=1))


def simulate(
    patients: pd.DataFrame,
    hearts: Sequence[np.random.Generator],
    moments: Sequence[np.random.Generator],
    sampling_rate: int,
    duration: float,
    margin: float = 0.0,
) -> Ecg:
    """Simulate a clean ECG of each patient.

    The ventricular rate between a record's first and last beat, the QRS duration and the mean QT
    follow the table. The QRS lasts while the root mean square over leads exceeds 5 % of its peak. T
    ends where it falls to 10 % of T's peak.

    Args:
        patients: see `population.draw`.
        hearts: a random generator per patient for the shape of waves, which is the same in all
            records of a patient.
        moments: a random generator per patient for beats, respiration and atrial waves, which
            differ between records.
        sampling_rate: Hz.
        duration: s, of the record.
        margin: s, before and after the record, in which filters settle.

    Returns:
        Signals of `duration + 2 * margin` seconds.
    """
    shape = _Shape.draw(patients, hearts)
    breaths = [Breath(rng.uniform(0.16, 0.34), rng.uniform(0, 2 * np.pi)) for rng in moments]
    trains = [
        beats.draw(row.rhythm, row.rate, row.qt, duration, margin, breath, rng)
        for row, breath, rng in zip(patients.itertuples(), breaths, moments, strict=True)
    ]
    times = np.arange(round((duration + 2 * margin) * sampling_rate)) / sampling_rate - margin
    peaks = _padded([train.times for train in trains])
    depth = np.array([rng.normal(0, 0.04) for rng in moments])
    swing = 1 + depth[:, None] * _padded(
        [breath(train.times) for breath, train in zip(breaths, trains, strict=True)]
    )
    onset, end = shape.onset[:, None], shape.end[:, None]
    qt = _qt(patients["qt"].to_numpy() / 1000, trains)
    fall = _PEAK_TO_END * (qt + onset - end)
    signals = _train(
        shape.qrs, times, peaks, np.broadcast_to(shape.stretch[:, None], peaks.shape), swing
    )
    signals += _train(shape.t, times, peaks + onset + qt - fall, fall, swing)
    signals += _train(
        shape.p, times, peaks + shape.p_delay[:, None], np.full_like(peaks, 1e-3), swing
    )
    for row, (rhythm, train, rng) in enumerate(
        zip(patients["rhythm"], trains, moments, strict=True)
    ):
        if rhythm == "AFIB":
            signals[row] += shape.atria[row] @ _fibrillation(times, rng)
        if rhythm == "AFLT":
            signals[row] += _flutter(shape.flutter, row, times, train, rng)
    inside = [train.times[(train.times >= 0) & (train.times < duration)] for train in trains]
    return Ecg(signals, inside)


def _train(
    wave: _Wave, times: np.ndarray, centres: np.ndarray, units: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """Repeat a wave at each beat: `[n, 8, samples]`.

    Each sample only has the wave of the nearest beat, so the cost does not grow with the number of
    beats.

    Args:
        wave: the wave of each patient.
        times: s, of the samples.
        centres: `[n, beats]`, times 0 of the wave, s, ascending.
        units: `[n, beats]`, the wave's unit of time, s.
        gains: `[n, beats]`.
    """
    count, step = len(times), times[1] - times[0]
    middles = (centres[:, 1:] + centres[:, :-1]) / 2
    first = np.clip(np.ceil((middles - times[0]) / step), 0, count).astype(int)
    edges = np.concatenate(
        [np.zeros((len(first), 1), int), first, np.full((len(first), 1), count)], axis=1
    )
    nearest = np.repeat(np.arange(centres.size), np.diff(edges).ravel()).reshape(
        len(centres), count
    )
    since = ((times - centres.ravel()[nearest]) / units.ravel()[nearest]).astype(np.float32)
    centre, slope = (
        part[..., None].astype(np.float32) for part in (wave.centres, np.sqrt(0.5) / wave.widths)
    )
    kernels = (since[:, None] - centre) * slope
    np.exp(-np.square(kernels), out=kernels)
    leads = np.matmul(wave.leads.astype(np.float32).transpose(0, 2, 1), kernels)
    return leads * gains.astype(np.float32).ravel()[nearest][:, None]


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stack rows of unequal length. Padding continues from the last value in steps of 1,000 s, far
    outside any record.
    """
    longest = max(len(row) for row in rows)
    return np.array(
        [
            np.concatenate([row, row[-1] + 1e3 * np.arange(1, longest - len(row) + 1)])
            for row in rows
        ]
    )


def _qt(qt: np.ndarray, trains: list[Beats]) -> np.ndarray:
    """Return the QT of each beat, `[n, beats]` s. It varies around the patient's mean with a
    weighted mean of the RR intervals before the beat.
    """
    rows = []
    for mean, train in zip(qt, trains, strict=True):
        intervals = np.diff(train.times)
        typical = intervals.mean()
        past = np.concatenate([np.full(len(_MEMORY), typical), intervals])
        rows.append(mean * (np.convolve(past, _MEMORY, "valid") / typical) ** _QT_POWER)
    longest = max(len(row) for row in rows)
    return np.array([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])


def _sawtooth(phase: np.ndarray, harmonics: int) -> np.ndarray:
    """A band-limited sawtooth of unit size, slow rise and fast fall, at `phase` in cycles."""
    angle = (2 * np.pi * (phase % 1)).astype(np.float32)
    orders = np.arange(1, harmonics + 1, dtype=np.float32)
    return (-0.6 * (-1) ** orders / orders) @ np.sin(orders[:, None] * angle)


def _fibrillation(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fibrillatory waves of 4-9 Hz in three directions, `[3, samples]`, of about unit size.

    They are sawtooth waves with modulated frequency and amplitude, after Stridh & Sörnmo 2001 (IEEE
    Trans Biomed Eng 48:105).
    """
    rate = np.clip(rng.normal(6.3, 1.0), 4.3, 8.7)
    waves = []
    for _ in range(3):
        sway, slow = rng.uniform(0.3, 1.2), rng.uniform(0.1, 0.4)
        shift, phases = rng.normal(0, 0.25), rng.uniform(0, 1, 3)
        phase = (
            (rate + shift) * times
            + phases[0]
            + 0.15 * np.sin(2 * np.pi * (sway * times + phases[1]))
        )
        waves.append(
            _sawtooth(phase, 3) * (1 + 0.4 * np.sin(2 * np.pi * (slow * times + phases[2])))
        )
    return np.array(waves, dtype=np.float32)


def _flutter(
    wave: _Wave, row: int, times: np.ndarray, train: Beats, rng: np.random.Generator
) -> np.ndarray:
    """Flutter waves of a patient, in phase with the beats, with zero mean: `[8, samples]`."""
    phase = (times - train.times[len(train.times) // 2]) / train.cycle + rng.uniform()
    since = (phase - wave.centres[row][:, None] + 0.5) % 1 - 0.5
    kernels = np.exp(-0.5 * (since / wave.widths[row][:, None]) ** 2)
    rest = np.sqrt(2 * np.pi) * wave.widths[row][:, None]  # a kernel's mean over a cycle
    return (wave.leads[row].T @ (kernels - rest)).astype(np.float32)


@dataclass(frozen=True)
class _Shape:
    """The shapes of a patient's waves.

    Attributes:
        qrs, t, p: kernels, in units of `stretch`, of the time from T's peak to its end, and of a
            millisecond.
        stretch: s, the QRS's unit of time.
        onset, end: s from the R peak, of the QRS.
        p_delay: s from the R peak to the onset of P.
        atria: `[n, 8, 3]` mV, the directions of fibrillatory waves in the leads.
        flutter: kernels, in units of a flutter's cycle.
    """

    qrs: _Wave
    t: _Wave
    p: _Wave
    stretch: np.ndarray
    onset: np.ndarray
    end: np.ndarray
    p_delay: np.ndarray
    atria: np.ndarray
    flutter: _Wave

    @classmethod
    def draw(cls, patients: pd.DataFrame, rngs: Sequence[np.random.Generator]) -> _Shape:
        fields = np.stack([_lead_field(rng) for rng in rngs])
        rows = list(zip(patients.itertuples(), rngs, strict=True))
        qrs = _wave([_qrs_kernels(row, rng) for row, rng in rows], fields, rngs)
        t = _wave([_t_kernels(row, rng) for row, rng in rows], fields, rngs)
        far = fields * np.where(np.arange(8) < _CHEST.start, 1, _ATRIA_AFAR)[:, None]
        p = _wave([_p_kernels(row, rng) for row, rng in rows], far, rngs)
        first, last = _extent(qrs, np.arange(-120, 160, 0.5), _QRS_LIMIT)
        stretch = patients["qrs"].to_numpy() / 1000 / (last - first)
        _, fall = _extent(t, np.arange(-1, 3, 0.01), _T_LIMIT)
        t = _Wave(t.centres / fall[:, None], t.widths / fall[:, None], t.leads)
        onset, end = first * stretch, last * stretch
        p_delay = np.array(
            [_p_delay(row, begin, rng) for (row, rng), begin in zip(rows, onset, strict=True)]
        )
        atria = np.einsum("nlx,nxc->nlc", fields, np.stack([_atrial_vectors(rng) for rng in rngs]))
        flutter = _wave([_flutter_kernels(rng) for rng in rngs], far, rngs)
        return cls(qrs, t, p, stretch, onset, end, p_delay, atria.astype(np.float32), flutter)


def _lead_field(rng: np.random.Generator) -> np.ndarray:
    """A random lead field, `[8, 3]`: chests and electrode positions vary between patients."""
    field = _LEAD_FIELD.copy()
    field[_CHEST] *= 1 + rng.normal(0, 0.08, (6, 1))
    field[_CHEST] += rng.normal(0, 0.05, (6, 3))
    return field


def _extent(wave: _Wave, times: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """First and last of `times` at which a wave exceeds `limit` of its peak, `[n]` each."""
    size = wave.magnitude(times)
    above = size > limit * size.max(axis=1, keepdims=True)
    return times[above.argmax(axis=1)], times[len(times) - 1 - above[:, ::-1].argmax(axis=1)]


def _kernels(template: Sequence[_Kernel]) -> _Kernels:
    centres, widths, vectors = (np.array(part, dtype=float) for part in zip(*template, strict=True))
    return centres, widths, vectors


def _wave(
    kernels: list[_Kernels], fields: np.ndarray, rngs: Sequence[np.random.Generator]
) -> _Wave:
    """Project kernels to leads through the patients' lead fields. A tenth of each chest lead is a
    near-field part that follows no vector.
    """
    centres, widths, vectors = (np.stack(parts) for parts in zip(*kernels, strict=True))
    leads = np.einsum("nlx,nkx->nkl", fields, vectors)
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    leads[..., _CHEST] += (
        0.1 * size * np.stack([rng.standard_normal((vectors.shape[1], 6)) for rng in rngs])
    )
    return _Wave(centres, widths, leads)


def _rotated(vectors: np.ndarray, weights: np.ndarray, axis: float) -> np.ndarray:
    """Rotate vectors in the frontal plane until their weighted sum points along `axis`, in degrees
    from left to down.
    """
    total = weights @ vectors
    angle = np.deg2rad(axis) - np.arctan2(total[1], total[0])
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    return vectors @ turn


def _qrs_kernels(patient: Any, rng: np.random.Generator) -> _Kernels:
    centres, widths, vectors = _kernels(_QRS[patient.conduction])
    centres = centres + rng.normal(0, 1.5, len(centres))
    widths = widths * np.exp(rng.normal(0, 0.08, len(widths)))
    vectors = vectors * np.exp(rng.normal(0, 0.18, (len(vectors), 1))) + rng.normal(
        0, 0.04, vectors.shape
    )
    vectors[-1] += rng.normal(0, 0.11, 3)
    # Rotation about the long axis moves the transition between right and left chest leads.
    turn = np.deg2rad(rng.normal(0, 14))
    vectors = vectors @ np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    size = np.exp(rng.normal(0, 0.30)) * (0.5 if rng.uniform() < 0.06 else 1.0)
    return centres, widths, size * _rotated(vectors, widths, patient.r_axis)


def _t_kernels(patient: Any, rng: np.random.Generator) -> _Kernels:
    centres, widths, vectors = _kernels(_T)
    widths = widths * np.exp(rng.normal(0, 0.08, len(widths)))
    size = np.exp(rng.normal(0, 0.40))
    front = np.clip(rng.normal(1, 0.45), -0.6, 2)
    if patient.conduction == "rbbb":
        front -= 1.3
    vectors = vectors * [1, 1, front] * size + rng.normal(0, 0.02, vectors.shape)
    vectors[1:] = _rotated(vectors[1:], widths[1:], patient.t_axis)
    vectors[0] = rng.normal(0, 0.035, 3)
    if patient.rhythm == "SVT":
        vectors[0] -= _st_depression(patient, rng)
    return centres, widths, vectors


def _st_depression(patient: Any, rng: np.random.Generator) -> np.ndarray:
    """Return the vector, in mV, of the ST depression in re-entrant tachycardia, in most leads with
    an upright QRS.

    Most of these tachycardias have an ST depression of 0.1 mV or more without ischaemia (Riva et
    al. 1996, J Am Coll Cardiol 27:1480).
    """
    axis = np.deg2rad(patient.r_axis)
    return max(0.0, rng.normal(0.11, 0.07)) * np.array([np.cos(axis), np.sin(axis), 0.3])


def _p_kernels(patient: Any, rng: np.random.Generator) -> _Kernels:
    centres, widths, vectors = _kernels(_P_FROM_BELOW if patient.rhythm == "SVT" else _P)
    slow = np.exp(rng.normal(0, 0.12))
    size = np.exp(rng.normal(0, 0.25)) * (patient.rhythm not in ("AFIB", "AFLT"))
    vectors = vectors * np.exp(rng.normal(0, 0.2, (2, 1))) + rng.normal(0, 0.012, vectors.shape)
    return centres * slow, widths * slow, vectors * size


def _p_delay(patient: Any, onset: float, rng: np.random.Generator) -> float:
    """Return the time from the R peak to the onset of P, s. In re-entrant tachycardia, P is within
    or after the QRS.

    In nodal re-entry, P is in the QRS or at its end; with a bypass tract, it is in the ST segment.
    Their ratio is about 2:1 (Porter et al. 2004, Heart Rhythm 1:393). Focal tachycardia, with P
    before the QRS, is a separate rhythm in both datasets.
    """
    pr = np.clip(rng.normal(160, 22) - 0.25 * (patient.rate - 75), 100, 230) / 1000
    nodal, within, behind = rng.uniform() < 2 / 3, rng.uniform(0.0, 0.05), rng.uniform(0.09, 0.16)
    if patient.rhythm != "SVT":
        return onset - pr
    return onset + (within if nodal else behind)


def _atrial_vectors(rng: np.random.Generator) -> np.ndarray:
    """Heart vectors of the three fibrillatory waves, mostly towards V1: `[xyz, 3]` mV."""
    base = np.array([[-0.2, 0.1, 0.2], [0.3, 0.5, 0.2], [-0.8, 0.2, -0.4]])
    return (base + rng.normal(0, 0.15, (3, 3))) * 0.10 * np.exp(rng.normal(0, 0.3))


def _flutter_kernels(rng: np.random.Generator) -> _Kernels:
    """Kernels of a flutter wave. One in ten is clockwise, with reversed vectors and order (Saoudi
    et al.).
    """
    centres, widths, vectors = _kernels(_FLUTTER)
    clockwise = rng.uniform() < 0.1
    centres = centres + rng.normal(0, 0.02, len(centres))
    widths = widths * np.exp(rng.normal(0, 0.1, len(widths)))
    vectors = (
        vectors * np.exp(rng.normal(0, 0.15, (len(vectors), 1)))
        + rng.normal(0, 0.02, vectors.shape)
    ) * np.exp(rng.normal(0, 0.25))
    return (1 - centres, widths, -vectors) if clockwise else (centres, widths, vectors)
