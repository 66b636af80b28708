"""DiffWave (Kong et al. 2021, arXiv 2009.09761): diffusion with gated dilated convolutions."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ecgforge.generators.diffusion.attention import GROUPS, Attention
from ecgforge.generators.diffusion.diffusion import (
    PatientDiffusion,
    PatientNetwork,
    step_embedding,
)
from ecgforge.params import Positive, StrictConfig

STEP_EMBEDDING, STEP_HIDDEN, LABEL_EMBEDDING = 128, 512, 128  # the paper's sizes


class DiffWaveNetwork(PatientNetwork):
    """Parameters of the network.

    Attributes:
        layers: number of residual layers.
        channels: of each layer.
        dilation_cycle: layers after which the dilation, which doubles, restarts at 1.
        patch: samples of a position.
        global_features: whether each layer sees the means of its inputs over the whole record, as
            in squeeze-and-excitation (Hu et al. 2018). They carry what all beats of a patient have
            in common.
    """

    layers: Positive
    channels: Positive
    dilation_cycle: Annotated[int, Field(ge=1, le=12)]
    patch: Positive
    global_features: bool = True
    self_conditioning: bool = True
    attention_heads: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        heads = self.attention_heads
        if heads and self.channels % math.lcm(GROUPS, heads):
            raise ValueError(f"channels must be a multiple of {GROUPS} and of the heads, {heads}")
        return self


class ResidualLayer(nn.Module):
    """A gated dilated convolution with residual and skip outputs (paper, fig. 2a and sec. 3.1).

    The embedding of the step is added to the input. The embedding of the label is a bias of the
    convolution, equal at all positions (global conditioning, sec. 3.3).
    """

    def __init__(self, channels: int, dilation: int, global_features: bool) -> None:
        super().__init__()
        self.step = nn.Linear(STEP_HIDDEN, channels)
        self.label = nn.Linear(LABEL_EMBEDDING, 2 * channels)
        self.dilated = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.output = nn.Conv1d(channels, 2 * channels, 1)
        self.pooled = nn.Linear(channels, 2 * channels) if global_features else None
        if self.pooled is not None:
            nn.init.zeros_(self.pooled.weight)
            nn.init.zeros_(self.pooled.bias)

    def forward(self, hidden: Tensor, step: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden `[batch, channels, positions]` to the next layer's input and a part of the
        skip sum, both of the same shape.
        """
        bias = self.label(label)
        if self.pooled is not None:
            bias = bias + self.pooled(hidden.mean(dim=2))
        gate, value = (self.dilated(hidden + self.step(step)[:, :, None]) + bias[:, :, None]).chunk(
            2, dim=1
        )
        residual, skip = self.output(torch.sigmoid(gate) * torch.tanh(value)).chunk(2, dim=1)
        return (hidden + residual) / math.sqrt(2), skip


class DiffWaveDenoiser(nn.Module):
    """The paper's network with two changes.

    The first and the last convolution map `patch` samples to and from one position. The skip sum
    starts with the input, so that the waveform has a path around the gates.
    """

    def __init__(
        self, leads: int, rhythms: int, network: DiffWaveNetwork, estimate: int = 0
    ) -> None:
        super().__init__()
        channels = network.channels
        self.patch = network.patch
        self.input = nn.Conv1d(leads + estimate, channels, network.patch, stride=network.patch)
        self.step = nn.Sequential(
            nn.Linear(STEP_EMBEDDING, STEP_HIDDEN),
            nn.SiLU(),
            nn.Linear(STEP_HIDDEN, STEP_HIDDEN),
            nn.SiLU(),
        )
        self.label = nn.Embedding(rhythms + 1, LABEL_EMBEDDING)
        self.layers = nn.ModuleList(
            ResidualLayer(channels, 2 ** (i % network.dilation_cycle), network.global_features)
            for i in range(network.layers)
        )
        self.cycle = network.dilation_cycle
        cycles = network.layers // self.cycle if network.attention_heads else 0
        self.attention = nn.ModuleList(
            Attention(channels, network.attention_heads) for _ in range(cycles)
        )
        self.skip = nn.Conv1d(channels, channels, 1)
        self.output = nn.ConvTranspose1d(channels, leads, network.patch, stride=network.patch)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.output.weight)
        size = network.patient_size
        self.patient = nn.Linear(size, LABEL_EMBEDDING) if size else None

    def forward(
        self, noisy: Tensor, times: Tensor, labels: Tensor, patient: Tensor | None = None
    ) -> Tensor:
        samples = noisy.shape[-1]
        hidden = torch.relu(self.input(nn.functional.pad(noisy, (0, -samples % self.patch))))
        step, label = self.step(step_embedding(times, STEP_EMBEDDING)), self.label(labels)
        if self.patient is not None:
            label = label + self.patient(patient)
        skips = hidden
        for index, layer in enumerate(self.layers):
            hidden, skip = layer(hidden, step, label)
            skips = skips + skip
            if self.attention and (index + 1) % self.cycle == 0:
                hidden = self.attention[index // self.cycle](hidden)
        return self.output(torch.relu(self.skip(skips / math.sqrt(len(self.layers)))))[
            ..., :samples
        ]


class DiffWave(PatientDiffusion):
    """Class-conditional DiffWave, with guidance and a schedule that ends in pure noise. The
    schedule of the public code ends at alpha 0.28 (50 steps) or 0.13 (200).
    """

    Network: ClassVar[type[StrictConfig]] = DiffWaveNetwork

    def build(self) -> nn.Module:
        shape = (self.shape.leads, self.shape.rhythms)
        return DiffWaveDenoiser(*shape, self.network, self.estimate_channels)
