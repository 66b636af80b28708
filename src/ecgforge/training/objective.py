"""What a training minimises and is judged by; apart from the loop, so that networks can say it
without loading the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mean_losses(outputs: list[dict[str, Tensor]]) -> dict[str, float]:
    """Average what each validation batch returned."""
    return {
        key: float(torch.stack([output[key].float() for output in outputs]).mean())
        for key in outputs[0]
    }


@dataclass(frozen=True)
class Objective:
    """What is trained, and how well it does.

    Attributes:
        module: holds everything that a checkpoint must keep.
        parameters: those of `module` that the optimiser moves.
        loss: (signals `[batch, 8, samples]`, labels `[batch]`, source of randomness) -> losses;
            `loss` is minimised.
        validate: the same arguments -> what `summarise` needs of a validation batch.
        summarise: outputs of all validation batches -> figures.
        monitor: the figure that decides early stopping and which weights are kept.
        higher_is_better: the direction of `monitor`.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]
    validate: Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]
    summarise: Callable[[list[dict[str, Tensor]]], dict[str, float]]
    monitor: str
    higher_is_better: bool
