"""The typical beat of a record, and the position of each sample relative to the beats."""

from __future__ import annotations

import numpy as np

BEFORE, AFTER = 0.36, 0.6  # s of a typical beat before and after the R peak
# share of an RR interval that belongs to the beat before; the rest has the P wave of the next beat
PART_AFTER = 0.62
WIDTH = 0.03  # s, width of a beat's mark
FAR = 2.0  # s, limit of the times to the nearest beats
CHANNELS = 5  # of a map


def columns(sampling_rate: int) -> int:
    """Return the number of samples of a typical beat."""
    return round(BEFORE * sampling_rate) + round(AFTER * sampling_rate)


def typical_beat(signals: np.ndarray, peaks: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return the median over a record's complete beats, `[leads, columns]`; zeros without any.

    Args:
        signals: `[leads, samples]`.
        peaks: positions of the R peaks, in samples.
        sampling_rate: Hz.
    """
    first = round(BEFORE * sampling_rate)
    window = np.rint(peaks).astype(int)[:, None] + np.arange(columns(sampling_rate)) - first
    whole = (
        window[(window[:, 0] >= 0) & (window[:, -1] < signals.shape[-1])] if len(peaks) else window
    )
    if not len(whole):
        return np.zeros((len(signals), columns(sampling_rate)), dtype=np.float32)
    return np.median(signals[:, whole], axis=1).astype(np.float32)


def layout(times: np.ndarray, samples: int, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Describe each sample by its position relative to the beats.

    Args:
        times: beat times, s.
        samples: length of the record.
        sampling_rate: Hz.

    Returns:
        The map, `[CHANNELS, samples]`: a mark at each beat, the time since the last beat and until
            the next one, the relative position between them, and 1; all zeros with fewer than two
            beats. And the column of the typical beat at each sample, `[samples]`.
    """
    if len(times) < 2:
        return np.zeros((CHANNELS, samples), dtype=np.float32), np.zeros(samples, dtype=np.int64)
    now = np.arange(samples) / sampling_rate
    around = np.concatenate([[2 * times[0] - times[1]], times, [2 * times[-1] - times[-2]]])
    following = np.searchsorted(around, now, side="right").clip(1, len(around) - 1)
    since, until = now - around[following - 1], around[following] - now
    mark = np.exp(-0.5 * (np.minimum(abs(since), abs(until)) / WIDTH) ** 2)
    place = (since / (since + until).clip(min=1e-3)).clip(0, 1)
    # Beats start at whole samples, as in `typical_beat`.
    whole = np.rint(around * sampling_rate).astype(int)
    shown = np.arange(samples) - np.where(
        place < PART_AFTER, whole[following - 1], whole[following]
    )
    column = (shown + round(BEFORE * sampling_rate)).clip(0, columns(sampling_rate) - 1)
    found = np.stack([mark, since.clip(0, FAR), until.clip(0, FAR), place, np.ones(samples)])
    return found.astype(np.float32), column
