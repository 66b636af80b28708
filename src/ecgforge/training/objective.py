"""What a training minimises and monitors; networks import this without loading the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mean_losses(outputs: list[dict[str, Tensor]]) -> dict[str, float]:
    """Return the mean of each loss over validation batches."""
    return {
        key: float(torch.stack([output[key].float() for output in outputs]).mean())
        for key in outputs[0]
    }


def named(metrics: dict[str, float], kind: str) -> dict[str, float]:
    """Return metrics with their names in MLflow, which folds charts by what is before the last `/`.

    The loss has a section of its own, `loss`, which is before the other sections.

    Args:
        kind: of records, `train` or `validation`.
    """
    return {f"loss/{kind}" if key == "loss" else f"{kind}/{key}": metrics[key] for key in metrics}


def in_phase(metrics: dict[str, float], phase: str) -> dict[str, float]:
    """Return metrics named by `named` with a phase of the training: `loss/<phase>/train`."""
    return {key.replace("/", f"/{phase}/", 1): value for key, value in metrics.items()}


@dataclass(frozen=True)
class Objective:
    """A module with its losses and its evaluation.

    Attributes:
        module: everything that a checkpoint must contain.
        parameters: the parameters of `module` that the optimiser changes.
        loss: (signals `[batch, 8, samples]`, labels `[batch]`, random generator) -> losses; `loss`
            is minimised.
        validate: the same arguments -> outputs of a validation batch.
        summarise: outputs of all validation batches -> metrics.
        monitor: the metric for early stopping and for the choice of weights.
        higher_is_better: the direction of `monitor`.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]
    validate: Callable[[Tensor, Tensor, torch.Generator], dict[str, Tensor]]
    summarise: Callable[[list[dict[str, Tensor]]], dict[str, float]]
    monitor: str
    higher_is_better: bool
