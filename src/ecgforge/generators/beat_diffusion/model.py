"""Beat-Diffusion, ours: the rhythm first, then the beat, then the record.

What others' generators get wrong on ten-second records is the rhythm: RR intervals irregular where
they should be regular; and their records crowd about a mean patient. So the parts that differ
between patients are drawn on their own: a small recurrent model draws the beat times of a rhythm,
interval by interval; a diffusion model draws the patient's typical beat, and how much of drift and
noise lies on each lead; a second one draws the eight leads given that beat laid out at those times
(a cascade: Ho et al. 2022, "Cascaded Diffusion Models for High Fidelity Image Generation"). It is
left with what varies from beat to beat, and needs few steps.

A denoiser of a thousand beats that does not learn them by heart leans towards their mean, and what
it draws varies too little (three quarters of the standard deviation on real records). So drawn
beats are stretched about their rhythm's mean until they vary as training beats do, by as much along
each principal axis as was measured once after training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ecgforge.generators.beat_diffusion import beat_layout
from ecgforge.generators.beat_diffusion.rhythm_model import (
    SHORTEST,
    RhythmModel,
    RhythmNetwork,
    log_intervals,
)
from ecgforge.generators.common.base import Shape, draw
from ecgforge.generators.diffusion.diffusion import Diffusion, DiffusionSampling
from ecgforge.generators.diffusion.unet import UNet, UNetNetwork
from ecgforge.params import Positive, StrictConfig
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.training.batches import in_order

DRIFT = 0.5  # s, of the moving average that parts drift from noise
# columns that say each: how much drift a lead has beside its typical beat, and how much noise
LEVELS = 4
QUIET = 0.01  # of a standard deviation, added to levels, of which logarithms are taken
PART = 0.5  # of a record, that a step of training sees
BATCH = 256  # records whose beats are measured at a time
REMEMBERED = 8192  # records whose beats are kept, some 30 MB
TYPICAL_LEVEL = 1.5  # minus the logarithm of a common level
# principal axes along which beats are stretched; on real records they hold 98 % of the variance
AXES = 96
LEVEL_WEIGHT = 3.0  # of a level beside a column of a beat, in finding the axes
MOST_STRETCH = 2.0
# training records, and calls of the beat's network, that stretches are measured with
MEASURED, MEASURED_STEPS = 4096, 12


class BeatDiffusionNetwork(UNetNetwork):
    """The record's U-Net, and the networks of what it is given: the beat's U-Net and the model of
    RR intervals.
    """

    rhythm: RhythmNetwork
    beat: UNetNetwork


class BeatDiffusionSampling(DiffusionSampling):
    """`beat_steps` is the calls of the beat's network."""

    beat_steps: Positive


class TypicalBeats(Diffusion):
    """Typical beats with their levels, `[batch, leads, columns]`, in standard deviations, by rhythm
    and mean RR interval.
    """

    def build(self) -> nn.Module:
        return UNet(self.shape.leads, self.shape.rhythms, self.network, context=1)


class BeatDiffusion(Diffusion):
    """Beat times by rhythm, a typical beat by rhythm and rate, and records by both.

    Guidance acts on the records alone.
    """

    phases: ClassVar[tuple[str, ...]] = ("rhythm", "beat", "denoiser")
    Network: ClassVar[type[StrictConfig]] = BeatDiffusionNetwork
    Sampling: ClassVar[type[StrictConfig]] = BeatDiffusionSampling
    beat_means: Tensor
    beat_axes: Tensor
    beat_stretches: Tensor

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        self.rhythm = RhythmModel(shape.rhythms, network.rhythm)
        self.columns = beat_layout.columns(shape.sampling_rate)
        form = Shape(shape.leads, self.columns + 2 * LEVELS, shape.rhythms, shape.sampling_rate)
        self.beat = TypicalBeats(form, network.beat, torch.ones(shape.leads))
        size = shape.leads * (self.columns + 2)
        self.register_buffer("beat_means", torch.zeros(shape.rhythms, size))
        self.register_buffer("beat_axes", torch.zeros(AXES, size))
        self.register_buffer("beat_stretches", torch.ones(AXES))
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def build(self) -> nn.Module:
        return UNet(self.shape.leads, self.shape.rhythms, self.network, context=self._channels)

    @property
    def _channels(self) -> int:
        return beat_layout.CHANNELS + 3 * self.shape.leads

    def trainable(self, phase: str) -> list[nn.Parameter]:
        part = {"rhythm": self.rhythm, "beat": self.beat, "denoiser": self.denoiser}[phase]
        return list(part.parameters())

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Of the rhythm, the negative log likelihood of RR intervals; of beat and record,
        `Diffusion.denoising_loss`.
        """
        clean = signals / self.scale
        times, typical = zip(*self._beats(clean.cpu().numpy()), strict=True)
        intervals = log_intervals(times).to(signals.device)
        if phase == "rhythm":
            return {"loss": self.rhythm.loss(intervals, labels)}
        maps, shown = self._layout(times)
        beat = self._with_levels(
            torch.from_numpy(np.stack(typical)).to(signals.device), clean, shown
        )
        if phase == "beat":
            return self.beat.denoising_loss(beat, labels, noise, self._rate(intervals))
        context = self._context(maps, shown, beat)
        if self.training:
            part = self._window(noise)
            signals, context = signals[..., part], context[..., part]
        return self.denoising_loss(signals, labels, noise, context)

    @torch.no_grad()
    def finish(self, records: RecordSet) -> None:
        """Draw a beat of the rhythm and rate of each training record, and measure along each axis
        of the training beats, about the means of their rhythms, how much less the drawn ones vary.
        """
        device = self.scale.device
        found, drawn = [], []
        for index in in_order(min(len(records), MEASURED), BATCH):
            clean = torch.from_numpy(records.signals(index)).to(device) / self.scale
            labels, seeds = (
                torch.from_numpy(records.labels[index]).to(device),
                torch.from_numpy(index),
            )
            times, typical = zip(*self._beats(clean.cpu().numpy()), strict=True)
            beat = self._with_levels(
                torch.from_numpy(np.stack(typical)).to(device), clean, self._layout(times)[1]
            )
            white = draw(
                seeds,
                lambda source: torch.randn(
                    self.beat.shape.leads, self.beat.shape.samples, generator=source
                ),
            ).to(device)
            found.append(self._flat(beat).cpu())
            drawn.append(self._flat(self._drawn_beats(white, labels, times, MEASURED_STEPS)).cpu())
        labels = torch.from_numpy(records.labels[: sum(map(len, found))])
        (_, own), (means, made) = (
            _about_means(torch.cat(rows).double(), labels, self.shape.rhythms)
            for rows in (found, drawn)
        )
        _, axes = torch.linalg.eigh(own.T @ own)
        axes = axes.flip(1)[:, :AXES]
        spread, other = ((rows @ axes).square().mean(0).sqrt() for rows in (own, made))
        self.beat_means.copy_(means)
        self.beat_axes[: axes.shape[1]] = axes.T.to(self.beat_axes)
        # Axes beyond the rank of few records say nothing: nothing is ever drawn together.
        self.beat_stretches[: axes.shape[1]] = (
            (spread / other).nan_to_num(1.0).clamp(1, MOST_STRETCH).to(self.beat_axes)
        )

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        device, most, leads = self.scale.device, self._most_intervals(), self.shape.leads
        sizes = [1 + most, most, leads * self.beat.shape.samples, leads * self.shape.samples]

        def noise(source: torch.Generator) -> Tensor:
            return torch.cat(
                [
                    torch.rand(sizes[0], generator=source),
                    torch.randn(sum(sizes[1:]), generator=source),
                ]
            )

        uniform, normal, beat_noise, record_noise = (
            draw(seeds, noise).to(device).split(sizes, dim=1)
        )
        labels = labels.to(device)
        intervals = self.rhythm.draw(labels, uniform[:, 1:], normal).cpu().double().numpy()
        # The record begins anywhere in the first interval.
        times = intervals.cumsum(1) - intervals[:, :1] * uniform[:, :1].cpu().double().numpy()
        times = [row[row < self.shape.samples / self.shape.sampling_rate] for row in times]
        maps, shown = self._layout(times)
        beat = self._stretched(
            self._drawn_beats(
                beat_noise.reshape(len(labels), leads, -1), labels, times, sampling.beat_steps
            ),
            labels,
        )
        return self.denoise(
            record_noise.reshape(len(labels), leads, -1),
            labels,
            sampling,
            self._context(maps, shown, beat),
        )

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        records = torch.zeros(2, self.shape.leads + self._channels, self.shape.samples)
        return self.denoiser, (
            records,
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, self.shape.rhythms]),
        )

    def _window(self, noise: torch.Generator) -> slice:
        """A part of the record to learn from, another one each time: what lies between beats is the
        same at any of them, and few records last longer so.
        """
        size = math.ceil(PART * self.shape.samples)
        start = int(torch.randint(self.shape.samples - size + 1, (1,), generator=noise))
        return slice(start, start + size)

    def _most_intervals(self) -> int:
        return math.ceil(self.shape.samples / self.shape.sampling_rate / SHORTEST) + 1

    def _beats(self, clean: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Beat times in s and the typical beat of each record, `[batch, leads, samples]`; those
        last seen are remembered, since finding them costs a fifth of a step and a training comes by
        each record often.
        """
        rate, keys = self.shape.sampling_rate, [hash(one.tobytes()) for one in clean]
        new = [place for place, key in enumerate(keys) if key not in self._seen]
        for place, peaks in zip(new, beats.detect(clean[new], rate), strict=True):
            self._seen[keys[place]] = (
                peaks / rate,
                beat_layout.typical_beat(clean[place], peaks, rate),
            )
        found = [self._seen[key] for key in keys]
        for key in list(self._seen)[: max(0, len(self._seen) - REMEMBERED)]:
            del self._seen[key]
        return found

    def _layout(self, times: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return maps `[batch, CHANNELS, samples]`, and the columns of the typical beat that are
        shown, `[batch, samples]`.
        """
        maps, shown = zip(
            *[
                beat_layout.layout(row, self.shape.samples, self.shape.sampling_rate)
                for row in times
            ],
            strict=True,
        )
        return torch.from_numpy(np.stack(maps)).to(self.scale.device), torch.from_numpy(
            np.stack(shown)
        ).to(self.scale.device)

    def _rate(self, intervals: Tensor) -> Tensor:
        """The mean RR interval, `[batch, 1, columns and levels]`, from logarithms; the typical one
        where there is none.
        """
        return (
            intervals.nanmean(dim=1)
            .nan_to_num(0.0)[:, None, None]
            .expand(-1, 1, self.beat.shape.samples)
        )

    def _drawn_beats(
        self, white: Tensor, labels: Tensor, times: Sequence[np.ndarray], steps: int
    ) -> Tensor:
        """Turn noise into typical beats with their levels, `[batch, leads, columns and levels]`, of
        records with these beat times.
        """
        rate = self._rate(log_intervals(times).to(white.device))
        return self.beat.denoise(white, labels, DiffusionSampling(steps=steps, guidance=1), rate)

    def _stretched(self, beat: Tensor, labels: Tensor) -> Tensor:
        """Move beats with their levels away from their rhythm's mean, as `finish` measured."""
        away = self._flat(beat) - self.beat_means[labels]
        more = ((away @ self.beat_axes.T) * (self.beat_stretches - 1)) @ self.beat_axes
        columns, *levels = more.reshape(len(beat), self.shape.leads, -1).split(
            [self.columns, 1, 1], dim=2
        )
        return beat + torch.cat(
            [columns, *(level.expand(-1, -1, LEVELS) / LEVEL_WEIGHT for level in levels)], dim=2
        )

    def _flat(self, beat: Tensor) -> Tensor:
        """Typical beats with each level once, `[batch, leads * (columns + 2)]`."""
        columns, *levels = beat.split([self.columns, LEVELS, LEVELS], dim=2)
        return torch.cat(
            [columns, *(LEVEL_WEIGHT * level.mean(2, keepdim=True) for level in levels)], dim=2
        ).flatten(1)

    def _laid_out(self, beat: Tensor, shown: Tensor) -> Tensor:
        """Typical beats `[batch, leads, columns]` at the samples that show them, `[batch, leads,
        samples]`.
        """
        return beat.gather(2, shown[:, None].expand(-1, self.shape.leads, -1))

    def _with_levels(self, beat: Tensor, clean: Tensor, shown: Tensor) -> Tensor:
        """Append to each typical beat how much drift and noise its record has beside it."""
        rest = clean - self._laid_out(beat, shown)
        width = round(DRIFT * self.shape.sampling_rate) | 1
        drift = nn.functional.avg_pool1d(
            rest, width, stride=1, padding=width // 2, count_include_pad=False
        )
        parts = (drift, rest - drift)
        levels = [
            torch.log(part.square().mean(2, keepdim=True).sqrt() + QUIET) + TYPICAL_LEVEL
            for part in parts
        ]
        return torch.cat([beat, *(level.expand(-1, -1, LEVELS) for level in levels)], dim=2)

    def _context(self, maps: Tensor, shown: Tensor, beat: Tensor) -> Tensor:
        """What the record's network is given, `[batch, channels, samples]`: the map, the beat laid
        out, and the levels.
        """
        beat, *levels = beat.split([self.columns, LEVELS, LEVELS], dim=2)
        constant = [
            level.mean(2, keepdim=True).expand(-1, -1, self.shape.samples) for level in levels
        ]
        return torch.cat([maps, self._laid_out(beat, shown), *constant], dim=1)


def _about_means(rows: Tensor, labels: Tensor, rhythms: int) -> tuple[Tensor, Tensor]:
    """Return the mean of each rhythm's rows, `[rhythms, features]`, and the rows less their own."""
    kinds = nn.functional.one_hot(labels, rhythms).to(rows)
    means = (kinds.T @ rows) / kinds.sum(0).clamp(min=1)[:, None]
    return means, rows - means[labels]
