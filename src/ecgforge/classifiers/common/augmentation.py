"""Classical augmentation of training records, the usual alternative to synthetic records."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ecgforge.params import Augmentation

WANDER = (0.05, 0.5)  # Hz, baseline wander from respiration and electrodes


def augmented(
    signals: Tensor, settings: Augmentation, sampling_rate: int, random: torch.Generator
) -> Tensor:
    """Return randomly changed records: shift, gain, noise, baseline wander and lead dropout.

    These changes helped most in comparisons for ECG (Raghu et al., CHIL 2022, "Data Augmentation
    for Electrocardiograms", sec. 4; Iwana & Uchida, PLoS ONE 16:e0254841, 2021). Shift and gain
    are drawn for each record; noise, wander and dropout for each lead. The shift is circular.

    Args:
        signals: `[batch, leads, samples]`.
        settings: the strength of each change.
        sampling_rate: Hz.
        random: a random generator on the device of `signals`.

    Returns:
        `[batch, leads, samples]`.
    """
    batch, leads, samples = signals.shape

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=random, device=signals.device)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, device=signals.device)

    spread = signals.std(dim=2, keepdim=True)
    moved = torch.round(
        (2 * uniform(batch, 1, 1) - 1) * settings.max_time_shift * sampling_rate
    ).long()
    places = (torch.arange(samples, device=signals.device) - moved) % samples
    changed = signals.gather(2, places.expand(-1, leads, -1)) * torch.exp(
        settings.gain * normal(batch, 1, 1)
    )
    low, high = WANDER
    turns = (
        (low + (high - low) * uniform(batch, 1, 1))
        * torch.arange(samples, device=signals.device)
        / sampling_rate
    )
    wander = normal(batch, leads, 1) * torch.sin(2 * math.pi * (turns + uniform(batch, 1, 1)))
    changed = changed + spread * (
        settings.wander * wander + settings.noise * normal(batch, leads, samples)
    )
    return changed * (uniform(batch, leads, 1) >= settings.lead_dropout)
