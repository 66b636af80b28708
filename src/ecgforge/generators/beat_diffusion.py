"""Beat-Diffusion, ours: the rhythm first, then the waves.

What others' generators get wrong on ten-second records is the rhythm: RR intervals irregular where they should be regular. Here a
small recurrent model draws the beat times of a rhythm, interval by interval, and a diffusion U-Net draws the
eight leads given where the beats are, so that it has to learn what a beat looks like and not how to count. It needs few steps,
since a record's layout is settled before the first.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.generators.base import Shape, draw
from ecgforge.generators.diffusion import Diffusion
from ecgforge.generators.unet import UNet, UNetNetwork
from ecgforge.params import Positive, Section
from ecgforge.records import beats

CHANNELS = 5  # of a beat map
WIDTH = 0.03  # s, of the mark of a beat
LONGEST = 2.0  # s, beyond which a beat is far
SHORTEST = 0.25  # s, of an RR interval that is drawn: 240 bpm
TYPICAL = math.log(0.8)  # log s, about which intervals are counted
FINEST = 0.004  # of an interval: the spread below which beats of a record cannot be told


class BeatDiffusionNetwork(UNetNetwork):
    """The U-Net's parameters, and those of the model of RR intervals: `rhythm_width` units and as many as `rhythm_parts`
    Gaussians for each interval."""

    rhythm_width: Positive
    rhythm_parts: Annotated[int, Field(ge=1, le=32)]


class RhythmModel(nn.Module):
    """The law of each RR interval given those before it: a mixture of Gaussians of its logarithm (Bishop 1994, "Mixture Density
    Networks") by a recurrent network. Each part lies between the last interval and the mean of all before, so that a regular
    rhythm keeps its rate and does not wander."""

    def __init__(self, rhythms: int, width: int, parts: int) -> None:
        super().__init__()
        self.label = nn.Embedding(rhythms, width)
        self.input = nn.Linear(5, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, 4 * parts)
        self.parts = parts

    def forward(self, past: Tensor, labels: Tensor, memory: Tensor | None = None) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return logits, means and spreads of the parts of each interval, `[batch, intervals, parts]`, and the network's memory.

        Args:
            past: `[batch, intervals, 5]`, what `history` says of the intervals before each.
        """
        last, mean = past[..., 0:1], past[..., 1:2]
        with torch.autocast(past.device.type, enabled=False):  # bf16 is coarser than a regular rhythm
            hidden, memory = self.memory(self.input(past) + self.label(labels)[:, None], memory)
            logits, shift, weight, spread = self.output(hidden).chunk(4, dim=-1)
            means = torch.lerp(mean, last, torch.sigmoid(weight)) + shift
            return (logits, means, FINEST + nn.functional.softplus(spread - 3)), memory

    def loss(self, intervals: Tensor, labels: Tensor) -> Tensor:
        """Return the mean negative log likelihood of intervals `[batch, intervals]`, logarithms over `TYPICAL`, NaN after the last."""
        (logits, means, spreads), _ = self(history(intervals)[:, :-1], labels)
        known = intervals.isfinite()
        distance = (intervals.where(known, 0.0)[..., None] - means) / spreads
        parts = torch.log_softmax(logits, -1) - 0.5 * distance.square() - torch.log(spreads) - 0.5 * math.log(2 * math.pi)
        return -(torch.logsumexp(parts, -1) * known).sum() / known.sum().clamp(min=1)

    def draw(self, labels: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw intervals in s, `[batch, intervals]`, from random numbers of that shape."""
        found, memory = normal[:, :0], None
        for step in range(normal.shape[1]):
            (logits, means, spreads), memory = self(history(found)[:, -1:], labels, memory)
            below = logits[:, 0].softmax(-1).cumsum(-1) < uniform[:, step, None]
            part = below.sum(-1, keepdim=True).clamp(max=self.parts - 1)
            interval = means[:, 0].gather(1, part) + spreads[:, 0].gather(1, part) * normal[:, step, None]
            found = torch.cat([found, interval.clamp(math.log(SHORTEST) - TYPICAL, math.log(LONGEST) - TYPICAL)], dim=1)
        return torch.exp(found + TYPICAL)


def history(intervals: Tensor) -> Tensor:
    """Return what is known before each of some intervals, and before the one after them: `[batch, intervals]` to
    `[batch, intervals + 1, 5]`, the last interval, the mean and the spread of all, how many, and whether there are any."""
    known = intervals.isfinite()
    values = nn.functional.pad(intervals.where(known, 0.0), (1, 0))
    count = nn.functional.pad(known.float(), (1, 0)).cumsum(1)
    several = count.clamp(min=1)
    mean = values.cumsum(1) / several
    spread = (values.square().cumsum(1) / several - mean.square()).clamp(min=0).sqrt()
    return torch.stack([values, mean, torch.log(spread + FINEST) / 3, count / 10, count.clamp(max=1)], dim=-1)


class BeatDiffusion(Diffusion):
    """Beat times by rhythm, and records by beat times and rhythm. Guidance acts on the records alone."""

    phases: ClassVar[tuple[str, ...]] = ("rhythm", "denoiser")
    Network: ClassVar[type[Section]] = BeatDiffusionNetwork

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        self.rhythm = RhythmModel(shape.rhythms, network.rhythm_width, network.rhythm_parts)

    def build(self) -> nn.Module:
        return UNet(self.shape.leads, self.shape.rhythms, self.network, CHANNELS)

    def trainable(self, phase: str) -> list[nn.Parameter]:
        return list((self.rhythm if phase == "rhythm" else self.denoiser).parameters())

    def loss(self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator) -> dict[str, Tensor]:
        """Of the rhythm, the negative log likelihood of RR intervals; of the records, `Diffusion.denoising_loss` given their beats."""
        rate = self.shape.sampling_rate
        found = [peaks / rate for peaks in beats.detect(signals.cpu().numpy(), rate)]
        if phase == "rhythm":
            return {"loss": self.rhythm.loss(_log_intervals(found).to(signals.device), labels)}
        return self.denoising_loss(signals, labels, noise, self._maps(found))

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        device, most = self.scale.device, self._most_intervals()
        sizes = [1 + most, most, self.shape.leads * self.shape.samples]

        def noise(source: torch.Generator) -> Tensor:
            return torch.cat([torch.rand(sizes[0], generator=source), torch.randn(sizes[1] + sizes[2], generator=source)])

        uniform, normal, white = draw(seeds, noise).to(device).split(sizes, dim=1)
        labels = labels.to(device)
        intervals = self.rhythm.draw(labels, uniform[:, 1:], normal).cpu().double().numpy()
        # The record begins anywhere in the first interval.
        times = intervals.cumsum(1) - intervals[:, :1] * uniform[:, :1].cpu().double().numpy()
        duration = self.shape.samples / self.shape.sampling_rate
        context = self._maps([row[row < duration] for row in times])
        return self.denoise(white.reshape(len(labels), self.shape.leads, -1), labels, sampling, context)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        records = torch.zeros(2, self.shape.leads + CHANNELS, self.shape.samples)
        return self.denoiser, (records, torch.tensor([0.0, 1.0]), torch.tensor([0, self.shape.rhythms]))

    def _most_intervals(self) -> int:
        return math.ceil(self.shape.samples / self.shape.sampling_rate / SHORTEST) + 1

    def _maps(self, found: list[np.ndarray]) -> Tensor:
        maps = np.stack([beat_map(times, self.shape.samples, self.shape.sampling_rate) for times in found])
        return torch.from_numpy(maps).to(self.scale.device)


def beat_map(times: np.ndarray, samples: int, sampling_rate: int) -> np.ndarray:
    """Return what a record's beat times, in s, say at every sample, `[CHANNELS, samples]`: a mark at each beat, the time since
    the last one and until the next, the place between them, and that beats are known; zeros where there are fewer than two."""
    if len(times) < 2:
        return np.zeros((CHANNELS, samples), dtype=np.float32)
    now = np.arange(samples) / sampling_rate
    around = np.concatenate([[2 * times[0] - times[1]], times, [2 * times[-1] - times[-2]]])
    following = np.searchsorted(around, now, side="right").clip(1, len(around) - 1)
    since, until = now - around[following - 1], around[following] - now
    mark = np.exp(-0.5 * (np.minimum(abs(since), abs(until)) / WIDTH) ** 2)
    since, until = since.clip(0, LONGEST), until.clip(0, LONGEST)
    return np.stack([mark, since, until, since / (since + until).clip(min=1e-3), np.ones(samples)]).astype(np.float32)


def _log_intervals(found: list[np.ndarray]) -> Tensor:
    """Logarithms over `TYPICAL` of the RR intervals of each record, `[batch, most intervals]`, NaN after the last."""
    rows = [torch.from_numpy(np.log(np.diff(times).clip(SHORTEST, LONGEST)) - TYPICAL).float() for times in found]
    rows.append(torch.zeros(1))  # so that there is an interval to be unknown
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)[:-1]
