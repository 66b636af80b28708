"""A model of RR intervals: the mean interval by rhythm, and each interval given the mean."""

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
ALIKE = 0.1  # initial standard deviation of the embeddings of laws
SHARES = torch.linspace(0, 1, 101)  # of the quantiles of mean intervals


class RhythmNetwork(StrictConfig):
    """Parameters of the model of RR intervals.

    Attributes:
        width: hidden units.
        parts: Gaussians for each interval.
        shared_law: whether SR, SB and ST have one law of intervals given the mean interval.
    """

    width: Positive
    parts: Annotated[int, Field(ge=1, le=32)]
    shared_law: bool = True


class RhythmModel(nn.Module):
    """The distribution of each RR interval given the ones before it and the record's mean interval.

    A recurrent network predicts a mixture of Gaussians of the logarithm (Bishop 1994, "Mixture
    Density Networks"). The mean of each Gaussian starts between the last interval and the mean
    interval, so that a regular rhythm keeps its rate.

    In training, the mean interval is that of a bootstrap sample of the record's intervals. The
    exact mean would tell the network the last interval of a record, and the network would learn to
    compensate for earlier ones.

    Attributes:
        laws: `[rhythms]`; rhythms with the same number share a law of intervals.
        means: `[rhythms, quantiles]`, of the mean logarithm of a record's intervals, minus
            `TYPICAL`.
    """

    laws: Tensor
    means: Tensor

    def __init__(self, rhythms: int, network: RhythmNetwork) -> None:
        super().__init__()
        width, parts = network.width, network.parts
        self.label = nn.Embedding(rhythms, width)
        # Laws start nearly alike, so that a rare one learns what it has in common with others.
        nn.init.normal_(self.label.weight, std=ALIKE)
        self.input = nn.Linear(6, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, 4 * parts)
        self.parts = parts
        self.register_buffer("laws", torch.arange(rhythms))
        self.register_buffer("means", torch.zeros(rhythms, len(SHARES)))

    def forward(
        self, past: Tensor, means: Tensor, labels: Tensor, memory: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return logits, centres and spreads of the parts of each interval, `[batch, intervals,
        parts]`, and the network's memory. Intervals are relative to the mean interval.

        Args:
            past: `[batch, intervals, 5]`, `history` of the intervals before each.
            means: `[batch]`, mean logarithms of intervals, minus `TYPICAL`.
            labels: `[batch]`.
            memory: of the intervals before `past`.
        """
        rate = means[:, None, None].expand(-1, past.shape[1], 1)
        # bf16 is too coarse for the small variation of a regular rhythm
        with torch.autocast(past.device.type, enabled=False):
            inputs = self.input(torch.cat([past, rate], dim=-1))
            hidden, memory = self.memory(inputs + self.label(self.laws[labels])[:, None], memory)
            logits, shift, weight, spread = self.output(hidden).chunk(4, dim=-1)
            centres = torch.sigmoid(weight) * past[..., :1] + shift
            return (logits, centres, FINEST + nn.functional.softplus(spread - 3)), memory

    def loss(self, intervals: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        """Return the mean negative log-likelihood of intervals given their mean.

        Args:
            intervals: `[batch, intervals]`, see `log_intervals`.
            labels: `[batch]`.
            noise: of the bootstrap samples.
        """
        means = resampled_means(intervals, noise)
        return -self.log_likelihood(intervals, means, labels).sum() / (
            intervals.isfinite().sum().clamp(min=1)
        )

    def log_likelihood(self, intervals: Tensor, means: Tensor, labels: Tensor) -> Tensor:
        """Return the log-likelihood of each record's intervals given `means`, `[batch]`."""
        relative, known = intervals - means[:, None], intervals.isfinite()
        (logits, centres, spreads), _ = self(history(relative)[:, :-1], means, labels)
        distance = (relative.where(known, 0.0)[..., None] - centres) / spreads
        parts = (
            torch.log_softmax(logits, -1)
            - 0.5 * distance.square()
            - torch.log(spreads)
            - 0.5 * math.log(2 * math.pi)
        )
        return (torch.logsumexp(parts, -1) * known).sum(1)

    def share(self, labels: Sequence[int]) -> None:
        """Let these rhythms share a law of intervals."""
        self.laws[list(labels)] = min(labels, default=0)

    def measure(self, intervals: Tensor, labels: Tensor) -> None:
        """Measure the mean intervals of each rhythm's records. A rhythm without intervals gets
        those of all records.

        Args:
            intervals: `[records, intervals]`, see `log_intervals`.
            labels: `[records]`.
        """
        means = intervals.nanmean(1)
        known = means.isfinite()
        for label in labels.new_tensor(range(len(self.means))):
            own = means[known & (labels == label)]
            found = own if len(own) else means[known]
            if len(found):
                self.means[label] = found.quantile(SHARES).to(self.means)

    def draw_means(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Sample mean intervals, `[batch]`, from random numbers of that shape."""
        place = uniform * (len(SHARES) - 1)
        below = place.long().clamp(max=len(SHARES) - 2)
        return torch.lerp(
            self.means[labels, below], self.means[labels, below + 1], place - below.to(place)
        )

    def draw(self, labels: Tensor, means: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Sample intervals in s, `[batch, intervals]`, from random numbers of that shape.

        Args:
            labels: `[batch]`.
            means: `[batch]`, mean logarithms of the intervals, minus `TYPICAL`.
        """
        found, memory = normal[:, :0], None
        limits = [math.log(limit) - TYPICAL - means for limit in (SHORTEST, LONGEST)]
        for step in range(normal.shape[1]):
            (logits, centres, spreads), memory = self(history(found)[:, -1:], means, labels, memory)
            below = logits[:, 0].softmax(-1).cumsum(-1) < uniform[:, step, None]
            part = below.sum(-1, keepdim=True).clamp(max=self.parts - 1)
            centre, spread = (values[:, 0].gather(1, part)[:, 0] for values in (centres, spreads))
            interval = (centre + spread * normal[:, step]).clamp(*limits)
            found = torch.cat([found, interval[:, None]], dim=1)
        return torch.exp(found + means[:, None] + TYPICAL)


def resampled_means(intervals: Tensor, noise: torch.Generator) -> Tensor:
    """Return the mean of a bootstrap sample of each record's intervals, `[batch]`; 0 without any.

    Args:
        intervals: `[batch, intervals]`, NaN after the last.
        noise: on the device of `intervals`.
    """
    known = intervals.isfinite()
    count = known.sum(1)
    uniform = torch.rand(intervals.shape, generator=noise, device=intervals.device)
    drawn = intervals.gather(1, (uniform * count[:, None]).long())
    return drawn.where(known, 0.0).sum(1) / count.clamp(min=1)


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
