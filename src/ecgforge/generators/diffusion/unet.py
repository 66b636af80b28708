"""A 1-D U-Net with FiLM by time and rhythm, and attention at the coarse levels.

It follows Ho et al. 2020 ("Denoising Diffusion Probabilistic Models", app. B), in one dimension,
with a stem that maps several samples to one position.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ecgforge.generators.diffusion.attention import GROUPS, Attention
from ecgforge.generators.diffusion.diffusion import DiffusionNetwork, step_embedding
from ecgforge.params import Positive

EMBEDDING = 256  # of time and rhythm together


class UNetNetwork(DiffusionNetwork):
    """Parameters of the U-Net.

    Attributes:
        channels: of each level, from fine to coarse; each level has half the positions of the one
            before.
        attention_levels: number of the coarsest levels with attention; the middle always has it.
        heads: attention heads.
        patch: samples of a position.
        global_features: whether each block sees the means of its features over the whole record,
            as in squeeze-and-excitation (Hu et al. 2018). They carry what all beats of a patient
            have in common.
    """

    channels: Annotated[
        list[Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)]], Field(min_length=1)
    ]
    attention_levels: Annotated[int, Field(ge=0)]
    heads: Positive = 4
    patch: Positive
    global_features: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(width % self.heads for width in self.channels[-max(1, self.attention_levels) :]):
            raise ValueError(
                f"channels of levels with attention must be multiples of heads, {self.heads}"
            )
        return self


class ResidualBlock(nn.Module):
    """Two convolutions with a skip; time and rhythm scale and shift the hidden channels (FiLM;
    Nichol & Dhariwal 2021, sec. 3.1), and so do the means of the features, if they are used.
    """

    def __init__(self, inputs: int, outputs: int, global_features: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv1d(inputs, outputs, 3, padding=1)
        )
        self.norm = nn.GroupNorm(GROUPS, outputs)
        self.film = nn.Linear(EMBEDDING, 2 * outputs)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)
        self.pooled = nn.Linear(outputs, 2 * outputs) if global_features else None
        if self.pooled is not None:
            nn.init.zeros_(self.pooled.weight)
            nn.init.zeros_(self.pooled.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        inner, film = self.first(hidden), self.film(condition)
        if self.pooled is not None:
            film = film + self.pooled(nn.functional.silu(inner).mean(dim=2))
        scale, shift = film[:, :, None].chunk(2, dim=1)
        inner = self.norm(inner) * (1 + scale) + shift
        return self.skip(hidden) + self.second(nn.functional.silu(inner))


class Level(nn.Module):
    """A residual block, and attention if the level has it."""

    def __init__(self, inputs: int, outputs: int, heads: int | None, global_features: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, global_features)
        self.attention = Attention(outputs, heads) if heads else nn.Identity()

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        return self.attention(self.block(hidden, condition))


class UNet(nn.Module):
    """A U-Net over `[batch, leads + context, samples]`.

    Args:
        leads: channels of a record.
        rhythms: number of classes.
        network: parameters.
        context: additional input channels.
        patient_size: of the vector of the patient; 0 without it.
    """

    def __init__(
        self,
        leads: int,
        rhythms: int,
        network: UNetNetwork,
        context: int = 0,
        patient_size: int = 0,
    ) -> None:
        super().__init__()
        widths, depth = network.channels, len(network.channels)
        heads = [
            network.heads if depth - level <= network.attention_levels else None
            for level in range(depth)
        ]
        self.patch = network.patch
        self.input = nn.Conv1d(leads + context, widths[0], network.patch, stride=network.patch)
        self.time = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING)
        )
        self.label = nn.Embedding(rhythms + 1, EMBEDDING)
        inputs = [widths[0], *widths[:-1]]
        seen = network.global_features
        self.down = nn.ModuleList(
            Level(*sizes, seen) for sizes in zip(inputs, widths, heads, strict=True)
        )
        self.coarser = nn.ModuleList(
            nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1]
        )
        self.middle = Level(widths[-1], widths[-1], network.heads, seen)
        self.up = nn.ModuleList(
            Level(2 * width, inner, head, seen)
            for width, inner, head in zip(widths, inputs, heads, strict=True)
        )
        self.output = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]),
            nn.SiLU(),
            nn.ConvTranspose1d(widths[0], leads, network.patch, stride=network.patch),
        )
        self.patient = nn.Linear(patient_size, EMBEDDING) if patient_size else None

    def forward(
        self, noisy: Tensor, times: Tensor, labels: Tensor, patient: Tensor | None = None
    ) -> Tensor:
        samples = noisy.shape[-1]
        condition = self.time(step_embedding(times, EMBEDDING)) + self.label(labels)
        if self.patient is not None:
            condition = condition + self.patient(patient)
        condition = nn.functional.silu(condition)
        hidden = self.input(nn.functional.pad(noisy, (0, -samples % self.patch)))
        kept = []
        for depth, level in enumerate(self.down):
            if depth:
                hidden = self.coarser[depth - 1](hidden)
            hidden = level(hidden, condition)
            kept.append(hidden)
        hidden = self.middle(hidden, condition)
        for level, finer in zip(reversed(self.up), reversed(kept), strict=True):
            hidden = nn.functional.interpolate(hidden, size=finer.shape[-1])
            hidden = level(torch.cat([hidden, finer], dim=1), condition)
        return self.output(hidden)[..., :samples]
