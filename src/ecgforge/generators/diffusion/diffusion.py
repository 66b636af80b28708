"""What the diffusion generators share: the process, the training loss, guidance and the sampler.

Time t runs from 0, a record, to 1, noise. The variance-preserving process x_t = alpha x_0 + sigma e
has alpha = cos(phi) and sigma = sin(phi), with the angle phi from 0 to pi/2, so that it ends in
pure noise: zero terminal SNR (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps
are Flawed", sec. 3.1). The networks predict the record x_0 itself and are judged by the error of v
= alpha e - sigma x_0 (Salimans & Ho 2022, "Progressive Distillation for Fast Sampling", sec. 4),
which is the record's divided by sigma. Behind a stem that takes many samples as one position there
is no room for the noise that v and e ask for, while records lie near few dimensions (Li & He 2025,
"Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720). Measured on real
records after 500 equal steps: a network that predicts v gave beats drowned in noise, with 1.2 to
1.6 times the squared error of the record at angles from 0.6 to 1.2, where beats take their shape.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.generators.common.base import Generator, Shape, draw
from ecgforge.params import Positive, Share, StrictConfig

MAX_WEIGHT = (
    # of a record's squared error: where sigma is small the error of v would drown all else (Hang et
    # al. 2023, min-SNR, gamma 5)
    6.0
)


class DiffusionSampling(StrictConfig):
    """Network calls per record, and how far to go from the unconditional towards the conditional
    prediction: 1 is the conditional one, more is clearer and less varied.
    """

    steps: Positive
    guidance: Annotated[float, Field(ge=1, le=10)]


class DiffusionNetwork(StrictConfig):
    """What all diffusion networks have:

    `label_dropout` is the share of training records whose rhythm is hidden, and `timestep_shift`
    moves the schedule towards noise, where long signals still show their beats (1 is the plain
    cosine).
    """

    label_dropout: Share = 0.1
    timestep_shift: Annotated[float, Field(gt=0, le=10)] = 3.0


class Diffusion(Generator):
    """A generator that learns to remove noise; a subclass says with which network."""

    phases: ClassVar[tuple[str, ...]] = ("denoiser",)
    Sampling: ClassVar[type[StrictConfig]] = DiffusionSampling

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        self.denoiser = self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the network: (x_t `[batch, leads, samples]`, t `[batch]`, labels `[batch]`) ->
        x_0, of the shape of x_t. The label `shape.rhythms` stands for a hidden rhythm. Where there
        is a context, its channels follow the leads of x_t.
        """

    def trainable(self, phase: str) -> list[nn.Parameter]:
        return list(self.denoiser.parameters())

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        return self.denoising_loss(signals, labels, noise)

    def denoising_loss(
        self, signals: Tensor, labels: Tensor, noise: torch.Generator, context: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Mean squared error of v, and under "clean" that of the record.

        The times of a batch are spread evenly (Kingma et al. 2021, "Variational Diffusion Models",
        app. I.1), which calms the loss.
        """
        batch, device = len(signals), signals.device
        times = ((torch.rand(1, generator=noise) + torch.arange(batch) / batch) % 1).to(device)
        white = torch.randn(signals.shape, generator=noise).to(device)
        hidden = (torch.rand(batch, generator=noise) < self.network.label_dropout).to(device)
        if self.training:
            labels = labels.masked_fill(hidden, self.shape.rhythms)
        clean = signals / self.scale
        alpha, sigma = self.process(times[:, None, None])
        error = (
            self.denoiser(beside(alpha * clean + sigma * white, context), times, labels).float()
            - clean
        ).square()
        return {"loss": (error * sigma.pow(-2).clamp(max=MAX_WEIGHT)).mean(), "clean": error.mean()}

    def process(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at `times`, of their shape: of signal and noise, 1 and 0 at time
        0, 0 and 1 at time 1.
        """
        angle = torch.atan(self.network.timestep_shift * torch.tan(times * math.pi / 2))
        end = times >= 1
        return torch.cos(angle).masked_fill(end, 0), torch.sin(angle).masked_fill(end, 1)

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        size = (self.shape.leads, self.shape.samples)
        white = draw(seeds, lambda source: torch.randn(size, generator=source)).to(
            self.scale.device
        )
        return self.denoise(white, labels.to(self.scale.device), sampling)

    def denoise(
        self, white: Tensor, labels: Tensor, sampling: Any, context: Tensor | None = None
    ) -> Tensor:
        """Turn noise into records, in the units of the record set, by DDIM without added noise
        (Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12).
        """
        current = white
        times = torch.linspace(1, 0, sampling.steps + 1, device=white.device)
        for now, then in pairwise(times):
            (alpha, sigma), (next_alpha, next_sigma) = self.process(now), self.process(then)
            clean = self.predict(
                beside(current, context), now.expand(len(labels)), labels, sampling.guidance
            )
            current = next_alpha * clean + next_sigma * (current - alpha * clean) / sigma
        return current * self.scale

    def predict(self, current: Tensor, times: Tensor, labels: Tensor, guidance: float) -> Tensor:
        """Return the predicted records, `[batch, leads, samples]`: one call of the network, on a
        doubled batch with classifier-free guidance (Ho & Salimans 2022, eq. 6, where our guidance
        is their w + 1).
        """
        if guidance == 1:
            return self.denoiser(current, times, labels).float()
        hidden = torch.full_like(labels, self.shape.rhythms)
        both = self.denoiser(
            torch.cat([current, current]), torch.cat([times, times]), torch.cat([labels, hidden])
        ).float()
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        records = torch.zeros(2, self.shape.leads, self.shape.samples)
        return self.denoiser, (
            records,
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, self.shape.rhythms]),
        )


def beside(noisy: Tensor, context: Tensor | None) -> Tensor:
    """Return noisy records, `[batch, leads, samples]`, with the channels of what is known of them,
    if anything is.
    """
    return noisy if context is None else torch.cat([noisy, context], dim=1)


def step_embedding(times: Tensor, size: int) -> Tensor:
    """Embed diffusion times in sines and cosines of 10^0 to 10^4 rad, `[batch, size]` (Kong et al.
    2021, sec. 3.1, eq. 8).
    """
    frequencies = torch.logspace(0, 4, size // 2, device=times.device)
    phase = times[:, None] * frequencies
    return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
