"""The base class of generators: a torch module that trains in phases and samples from seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecgforge.params import Dimension, StrictConfig
from ecgforge.records.record_set import RecordSet


@dataclass(frozen=True)
class Shape:
    """The shape of records.

    Attributes:
        leads: channels of a record.
        samples: per lead.
        rhythms: number of classes; labels start at 0.
        sampling_rate: Hz.
    """

    leads: int
    samples: int
    rhythms: int
    sampling_rate: int


class Generator(nn.Module, ABC):
    """A class-conditional generator of ECG records.

    Training minimises `loss` over `trainable(phase)` for each of `phases`. The networks compute in
    units of `scale`, one standard deviation per lead; records that enter and leave the generator
    are in the units of the record set.

    Attributes:
        phases: the names of the training phases, in order.
        Network: the parameters of the networks.
        Sampling: the parameters of `sample`; they can change after training.
        space: ranges of sampling parameters, by dotted key, for a tuning that names none.
        scale: `[leads, 1]`, per-lead standard deviation on the training split; stored with the
            weights.
    """

    phases: ClassVar[tuple[str, ...]]
    Network: ClassVar[type[StrictConfig]]
    Sampling: ClassVar[type[StrictConfig]]
    space: ClassVar[Mapping[str, Dimension]] = {}
    scale: Tensor

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.network = network
        self.register_buffer(
            "scale", torch.as_tensor(scale, dtype=torch.float32).reshape(shape.leads, 1).clone()
        )

    @abstractmethod
    def trainable(self, phase: str) -> list[nn.Parameter]:
        """Return the parameters that `phase` trains; all others stay unchanged."""

    @abstractmethod
    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the loss of a batch as "loss", and further scalars to log.

        Args:
            signals: `[batch, leads, samples]`, in the units of the record set.
            labels: `[batch]` int64.
            phase: one of `phases`.
            noise: the only random generator of the step, on the device of `signals`.
        """

    def start(self, records: RecordSet) -> None:
        """Prepare for training on these records, before all phases."""

    def finish(self, records: RecordSet) -> None:
        """Measure values that sampling needs on training records, after all phases."""

    @abstractmethod
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        """Sample a record for each label and seed; it depends only on its own label and seed.

        Args:
            labels: `[batch]` int64.
            seeds: `[batch]` int64, not negative.
            sampling: an instance of `Sampling`.

        Returns:
            `[batch, leads, samples]`, in the units of the record set.
        """

    def heart_rates(self, label: int) -> tuple[float, float] | None:
        """Return the range of mean heart rates, beats/min, that `sampling.heart_rate` can ask of a
        rhythm. None if the generator has no such parameter.
        """
        return None

    @abstractmethod
    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the network that `sample` calls, and example inputs of batch 2, for
        `torch.export`. The sampling loop is not exported, since it draws from seeds.
        """


def draw(seeds: Tensor, draw_one: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Stack the results of `draw_one` with a random generator for each seed."""
    return torch.stack([draw_one(source) for source in random_sources(seeds)])


def random_sources(seeds: Tensor) -> list[torch.Generator]:
    """Return a random generator for each seed. They are on the CPU, so that every device gets the
    same numbers.
    """
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]
