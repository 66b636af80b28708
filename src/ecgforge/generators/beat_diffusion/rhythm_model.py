"""An autoregressive model of RR intervals by rhythm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.params import Positive, StrictConfig

LONGEST = 2.0  # s, of an RR interval
SHORTEST = 0.25  # s: 240 bpm
TYPICAL = math.log(0.8)  # log s, subtracted from the logarithms of intervals
FINEST = 0.004  # of an interval: the resolution of beat times in a record


class RhythmNetwork(StrictConfig):
    """Parameters: `width` hidden units, and `parts` Gaussians for each interval."""

    width: Positive
    parts: Annotated[int, Field(ge=1, le=32)]


class RhythmModel(nn.Module):
    """The distribution of each RR interval given the ones before it.

    A recurrent network predicts a mixture of Gaussians of the logarithm (Bishop 1994, "Mixture
    Density Networks"). The mean of each Gaussian starts between the last interval and the mean of
    all before, so that a regular rhythm keeps its rate.
    """

    def __init__(self, rhythms: int, network: RhythmNetwork) -> None:
        super().__init__()
        width, parts = network.width, network.parts
        self.label = nn.Embedding(rhythms, width)
        self.input = nn.Linear(5, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, 4 * parts)
        self.parts = parts

    def forward(
        self, past: Tensor, labels: Tensor, memory: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return logits, means and spreads of the parts of each interval, `[batch, intervals,
        parts]`, and the network's memory.

        Args:
            past: `[batch, intervals, 5]`, `history` of the intervals before each.
            labels: `[batch]`.
            memory: of the intervals before `past`.
        """
        last, mean = past[..., 0:1], past[..., 1:2]
        # bf16 is too coarse for the small variation of a regular rhythm
        with torch.autocast(past.device.type, enabled=False):
            hidden, memory = self.memory(self.input(past) + self.label(labels)[:, None], memory)
            logits, shift, weight, spread = self.output(hidden).chunk(4, dim=-1)
            means = torch.lerp(mean, last, torch.sigmoid(weight)) + shift
            return (logits, means, FINEST + nn.functional.softplus(spread - 3)), memory

    def loss(self, intervals: Tensor, labels: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of intervals `[batch, intervals]`, logarithms
        minus `TYPICAL`, NaN after the last.
        """
        (logits, means, spreads), _ = self(history(intervals)[:, :-1], labels)
        known = intervals.isfinite()
        distance = (intervals.where(known, 0.0)[..., None] - means) / spreads
        parts = (
            torch.log_softmax(logits, -1)
            - 0.5 * distance.square()
            - torch.log(spreads)
            - 0.5 * math.log(2 * math.pi)
        )
        return -(torch.logsumexp(parts, -1) * known).sum() / known.sum().clamp(min=1)

    def draw(self, labels: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Sample intervals in s, `[batch, intervals]`, from random numbers of that shape."""
        found, memory = normal[:, :0], None
        for step in range(normal.shape[1]):
            (logits, means, spreads), memory = self(history(found)[:, -1:], labels, memory)
            below = logits[:, 0].softmax(-1).cumsum(-1) < uniform[:, step, None]
            part = below.sum(-1, keepdim=True).clamp(max=self.parts - 1)
            interval = (
                means[:, 0].gather(1, part) + spreads[:, 0].gather(1, part) * normal[:, step, None]
            )
            found = torch.cat(
                [found, interval.clamp(math.log(SHORTEST) - TYPICAL, math.log(LONGEST) - TYPICAL)],
                dim=1,
            )
        return torch.exp(found + TYPICAL)


def history(intervals: Tensor) -> Tensor:
    """Summarise the intervals before each interval, and before the one after the last.

    Args:
        intervals: `[batch, intervals]`, NaN after the last.

    Returns:
        `[batch, intervals + 1, 5]`: the last interval; mean, spread and number of all before; and
            whether there are any.
    """
    known = intervals.isfinite()
    values = nn.functional.pad(intervals.where(known, 0.0), (1, 0))
    count = nn.functional.pad(known.float(), (1, 0)).cumsum(1)
    several = count.clamp(min=1)
    mean = values.cumsum(1) / several
    spread = (values.square().cumsum(1) / several - mean.square()).clamp(min=0).sqrt()
    return torch.stack(
        [values, mean, torch.log(spread + FINEST) / 3, count / 10, count.clamp(max=1)], dim=-1
    )


def log_intervals(found: Sequence[np.ndarray]) -> Tensor:
    """Return the logarithms of each record's RR intervals minus `TYPICAL`, `[batch, most
    intervals]`, NaN after the last.

    Args:
        found: beat times of each record, s.
    """
    rows = [
        torch.from_numpy(np.log(np.diff(times).clip(SHORTEST, LONGEST)) - TYPICAL).float()
        for times in found
    ]
    rows.append(torch.zeros(1))  # so that the result has at least one column
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)[:-1]
