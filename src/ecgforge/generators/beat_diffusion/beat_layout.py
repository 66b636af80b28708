"""Records as beats laid out in time: the typical beat of a record, and where beats put every
sample.
"""

from __future__ import annotations

import numpy as np

BEFORE, AFTER = 0.36, 0.6  # s about an R peak, of a typical beat
# of an RR interval, that belongs to the beat before it: the P wave is the next beat's
PART_AFTER = 0.62
WIDTH = 0.03  # s, of the mark of a beat
FAR = 2.0  # s, beyond which a beat is far
CHANNELS = 5  # of a map


def columns(sampling_rate: int) -> int:
    """Return the samples of a typical beat."""
    return round(BEFORE * sampling_rate) + round(AFTER * sampling_rate)


def typical_beat(signals: np.ndarray, peaks: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return the median over a record's beats, `[leads, columns]`; zeros where no beat lies whole
    in the record.

    Args:
        signals: `[leads, samples]`.
        peaks: places of the R peaks, in samples.
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
    """Return what a record's beat times, in s, say at every sample.

    Returns:
        The map, `[CHANNELS, samples]`: a mark at each beat, the time since the last one and until
            the next, the place between them, and that beats are known; zeros where there are fewer
            than two. And the column of the typical beat that a sample shows, `[samples]`.
    """
    if len(times) < 2:
        return np.zeros((CHANNELS, samples), dtype=np.float32), np.zeros(samples, dtype=np.int64)
    now = np.arange(samples) / sampling_rate
    around = np.concatenate([[2 * times[0] - times[1]], times, [2 * times[-1] - times[-2]]])
    following = np.searchsorted(around, now, side="right").clip(1, len(around) - 1)
    since, until = now - around[following - 1], around[following] - now
    mark = np.exp(-0.5 * (np.minimum(abs(since), abs(until)) / WIDTH) ** 2)
    place = (since / (since + until).clip(min=1e-3)).clip(0, 1)
    # Beats are laid out on whole samples, as they were taken.
    whole = np.rint(around * sampling_rate).astype(int)
    shown = np.arange(samples) - np.where(
        place < PART_AFTER, whole[following - 1], whole[following]
    )
    column = (shown + round(BEFORE * sampling_rate)).clip(0, columns(sampling_rate) - 1)
    found = np.stack([mark, since.clip(0, FAR), until.clip(0, FAR), place, np.ones(samples)])
    return found.astype(np.float32), column
