"""What every generator is: a torch module that learns records by rhythm in phases, and draws new
ones from seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecgforge.params import StrictConfig
from ecgforge.records.record_set import RecordSet


@dataclass(frozen=True)
class Shape:
    """What a record is.

    Attributes:
        leads: channels of a record.
        samples: per lead.
        rhythms: classes; labels count from 0.
        sampling_rate: Hz.
    """

    leads: int
    samples: int
    rhythms: int
    sampling_rate: int


class Generator(nn.Module, ABC):
    """A class-conditional generator of ECG records.

    It is trained phase by phase: for each of `phases`, `loss` is minimised over `trainable(phase)`.
    It computes in units of `scale`, one standard deviation per lead; records go in and come out in
    the units of the record set.

    Attributes:
        phases: the names of the training phases, in their order.
        Network: the parameters that shape the weights.
        Sampling: the parameters of `sample`; free to change after training.
        scale: `[leads, 1]`, per-lead standard deviation on the training split; stored with the
            weights.
    """

    phases: ClassVar[tuple[str, ...]]
    Network: ClassVar[type[StrictConfig]]
    Sampling: ClassVar[type[StrictConfig]]
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
        """Return the parameters that `phase` trains; all others stay as they are."""

    @abstractmethod
    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the loss of a batch under "loss", and beside it scalars that are only logged.

        Args:
            signals: `[batch, leads, samples]`, in the units of the record set.
            labels: `[batch]` int64.
            phase: one of `phases`.
            noise: the source of everything random in the step.
        """

    def finish(self, records: RecordSet) -> None:
        """Measure on training records what sampling needs to know of the trained weights, once all
        phases are over.
        """

    @abstractmethod
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        """Draw a record for each label and seed; a record depends on its own label and seed alone.

        Args:
            labels: `[batch]` int64.
            seeds: `[batch]` int64, not negative.
            sampling: an instance of `Sampling`.

        Returns:
            `[batch, leads, samples]`, in the units of the record set.
        """

    @abstractmethod
    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the network that `sample` calls, and example inputs of batch 2, for
        `torch.export`.

        The loop around it draws from seeds and is no graph, so it stays in `sample`.
        """


def draw(seeds: Tensor, draw_one: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Stack `draw_one` over generators seeded by `seeds`:

    CPU generators, so that every device gets the same numbers.
    """
    return torch.stack([draw_one(torch.Generator().manual_seed(int(seed))) for seed in seeds])
