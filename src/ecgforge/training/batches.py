"""Batches of records that depend on seed and step only, so that a training resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ecgforge.records.record_set import RecordSet
from ecgforge.training import devices

Batch = tuple[torch.Tensor, torch.Tensor]


class Records(Dataset[Batch]):
    """Record sets, concatenated, as a torch dataset; an item is a batch, read from disk by indices.

    Args:
        sets: record sets with equal shape, units and rhythms.
    """

    def __init__(self, sets: Sequence[RecordSet]) -> None:
        for other in sets[1:]:
            for fact in ("sampling_rate", "samples", "units", "rhythms"):
                if getattr(other.about, fact) != getattr(sets[0].about, fact):
                    raise ValueError(f"{other.folder} and {sets[0].folder} differ in {fact}")
        self.sets = list(sets)
        self.labels = np.concatenate([records.labels for records in sets])
        self._ends = np.cumsum([len(records) for records in sets])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: np.ndarray) -> Batch:
        """Return signals `[batch, 8, samples]` and labels `[batch]` at `index`, `[batch]`."""
        about = self.sets[0].about
        signals = np.empty((len(index), 8, about.samples), dtype=np.float32)
        owner = np.searchsorted(self._ends, index, side="right")
        for number, records in enumerate(self.sets):
            chosen = owner == number
            if chosen.any():
                signals[chosen] = records.signals(
                    index[chosen] - (self._ends[number] - len(records))
                )
        return torch.from_numpy(signals), torch.from_numpy(self.labels[index])

    def scale(self, batch_size: int = 1024) -> torch.Tensor:
        """Return each lead's standard deviation over all records, `[8]`, in the sets' units."""
        sums, squares, count = np.zeros(8), np.zeros(8), 0
        for index in in_order(len(self), batch_size):
            signals = self[index][0].double().numpy()
            sums, squares = sums + signals.sum((0, 2)), squares + (signals**2).sum((0, 2))
            count += signals.shape[0] * signals.shape[2]
        return torch.from_numpy(np.sqrt(squares / count - (sums / count) ** 2)).float()


class DeviceRecords(Dataset[Batch]):
    """Records in the memory of a device; an item is a batch there, at the same indices.

    Args:
        records: all of them are copied.
        device: for example a GPU.
        chunk: records on the way at a time.
    """

    def __init__(self, records: Records, device: torch.device, chunk: int = 1024) -> None:
        shape = (len(records), 8, records.sets[0].about.samples)
        self._signals = torch.empty(shape, device=device)
        self._labels = torch.from_numpy(records.labels).to(device)
        for index in in_order(len(records), chunk):
            self._signals[int(index[0]) : int(index[-1]) + 1] = records[index][0]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: np.ndarray) -> Batch:
        """Return signals `[batch, 8, samples]` and labels `[batch]` at `index`, `[batch]`."""
        chosen = torch.from_numpy(index).to(self._labels.device, non_blocking=True)
        return self._signals[chosen], self._labels[chosen]

    def release(self) -> None:
        """Free the memory. Lightning's cycles of references hold these records for a while."""
        self._signals = self._signals.new_empty(0)


def near(records: Records, device: torch.device) -> Dataset[Batch]:
    """Return the records in the memory of a device if it has room for them, and unchanged if not.

    A GPU would wait for the batches that the CPU reads from disk and sends.
    """
    size = 4 * len(records) * 8 * records.sets[0].about.samples
    return DeviceRecords(records, device) if devices.has_room(device, size) else records


class Draws(Sampler[np.ndarray]):
    """Endless training batches, drawn with replacement; each is a function of (seed, step).

    Args:
        labels: `[records]` class indices.
        class_balance_power: the weight of a record is n^-class_balance_power, where n is the number
            of records with its rhythm.

    Attributes:
        step: where iteration starts.
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, class_balance_power: float, seed: int
    ) -> None:
        counts = np.bincount(labels)
        weights = counts[labels].astype(float) ** -class_balance_power
        self._cumulative = np.cumsum(weights / weights.sum())
        self._batch_size = batch_size
        self._seed = seed
        self.step = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        step = self.step
        while True:
            draws = np.random.default_rng([self._seed, step]).random(self._batch_size)
            yield np.searchsorted(self._cumulative, draws, side="right").clip(
                max=len(self._cumulative) - 1
            )
            step += 1


def in_order(count: int, batch_size: int) -> list[np.ndarray]:
    """Return batches of indices that visit `count` records once, in order."""
    return [
        np.arange(first, min(first + batch_size, count)) for first in range(0, count, batch_size)
    ]
