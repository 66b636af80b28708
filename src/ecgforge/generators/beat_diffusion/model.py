"""Beat-Diffusion, our own generator: it samples the rhythm, then a typical beat, then the record.

The other generators have two faults on records of ten seconds: regular rhythms get irregular RR
intervals, and the records vary too little between patients. Beat-Diffusion therefore has a cascade
of three models (Ho et al. 2022, "Cascaded Diffusion Models for High Fidelity Image Generation"):

1. The mean RR interval is drawn from those of the rhythm's training records, or asked for. A small
   recurrent model then samples the intervals, one after the other. SR, SB and ST differ only in
   their rate, and share it: so the rare ST learns regularity from SR.
2. A diffusion model samples the typical beat of a patient, and the drift and noise of each lead.
3. A diffusion model samples the eight leads, given this beat at the sampled beat times. It only
   models the differences between beats, and needs few steps.

A denoiser trained on a thousand beats, without memorising them, samples beats that vary too little:
on real records, their standard deviation is three quarters of that of training beats. Sampled beats
are therefore stretched away from their rhythm's mean along principal axes. The stretches are
measured once, after training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.generators.beat_diffusion import beat_layout
from ecgforge.generators.beat_diffusion.rhythm_model import (
    SHORTEST,
    TYPICAL,
    RhythmModel,
    RhythmNetwork,
    log_intervals,
)
from ecgforge.generators.common.base import Shape, draw, random_sources
from ecgforge.generators.diffusion.diffusion import Diffusion, DiffusionSampling
from ecgforge.generators.diffusion.unet import UNet, UNetNetwork
from ecgforge.params import Dimension, Int, Positive, StrictConfig
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.records.rhythms import BY_RATE, SINUS
from ecgforge.training.batches import in_order

DRIFT = 0.5  # s, the moving average that separates drift from noise
LEVELS = 4  # columns for each level: the drift of a lead, and its noise
QUIET = 0.01  # standard deviations, added to a level before its logarithm
PART = 0.5  # share of a record in a training step
BATCH = 256  # records whose beats are measured at a time
# records whose beats are cached, 200 MB at most: all training records of PTB-XL and Chapman
CACHED = 65_536
TYPICAL_LEVEL = 1.5  # minus the logarithm of a common level
AXES = 96  # principal axes of the stretches; on real records they have 98 % of the variance
LEVEL_WEIGHT = 3.0  # weight of a level against a column of a beat, to find the axes
MOST_STRETCH = 2.0
# training records and network calls to measure the stretches
MEASURED, MEASURED_STEPS = 4096, 12


class BeatDiffusionNetwork(UNetNetwork):
    """Parameters of the record's U-Net, the beat's U-Net and the model of RR intervals."""

    rhythm: RhythmNetwork
    beat: UNetNetwork


class BeatDiffusionSampling(DiffusionSampling):
    """Sampling parameters. Guidance and `eta` apply only to the records.

    Attributes:
        beat_steps: number of calls of the beat's network.
        sinus_beats: whether a record of a sinus rhythm gets a typical beat of any sinus rhythm, in
            proportion to the training records. So a rare sinus rhythm gets beats as varied as
            those of a frequent one.
        heart_rate: mean heart rate of each record, beats/min; by default, a rate of the training
            records of its rhythm.
    """

    beat_steps: Positive
    sinus_beats: bool = False
    heart_rate: Annotated[float, Field(gt=0)] | None = None


class TypicalBeats(Diffusion):
    """A generator of typical beats with their levels, `[batch, leads, columns]`, in standard
    deviations. Its conditions are the rhythm and the mean RR interval.
    """

    def build(self) -> nn.Module:
        return UNet(
            self.shape.leads, self.shape.rhythms, self.network, context=1 + self.estimate_channels
        )


class BeatDiffusion(Diffusion):
    """The cascade: beat times by rhythm, a typical beat by rhythm and rate, a record by both.

    Guidance applies only to the records.
    """

    phases: ClassVar[tuple[str, ...]] = ("rhythm", "beat", "denoiser")
    Network: ClassVar[type[StrictConfig]] = BeatDiffusionNetwork
    Sampling: ClassVar[type[StrictConfig]] = BeatDiffusionSampling
    space: ClassVar[Mapping[str, Dimension]] = {
        **Diffusion.space,
        "sampling.beat_steps": Int(kind="int", low=2, high=100, log=True),
    }
    beat_means: Tensor
    beat_axes: Tensor
    beat_stretches: Tensor
    sinus_counts: Tensor

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
        self.register_buffer("sinus_counts", torch.zeros(shape.rhythms))
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def build(self) -> nn.Module:
        context = self._channels + self.estimate_channels
        return UNet(self.shape.leads, self.shape.rhythms, self.network, context=context)

    @property
    def _channels(self) -> int:
        return beat_layout.CHANNELS + 3 * self.shape.leads

    def trainable(self, phase: str) -> list[nn.Parameter]:
        part = {"rhythm": self.rhythm, "beat": self.beat, "denoiser": self.denoiser}[phase]
        return list(part.parameters())

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the negative log-likelihood of RR intervals for the phase `rhythm`, and
        `Diffusion.denoising_loss` for the others.
        """
        clean = signals / self.scale
        times, typical = zip(*self._beats(clean.cpu().numpy()), strict=True)
        intervals = log_intervals(times).to(signals.device)
        if phase == "rhythm":
            return {"loss": self.rhythm.loss(intervals, labels, noise)}
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

    def start(self, records: RecordSet) -> None:
        """Let the rhythms that differ only in their rate share a law of intervals."""
        if self.network.rhythm.shared_law:
            names = enumerate(records.about.rhythms)
            self.rhythm.share([label for label, name in names if name in BY_RATE])

    @torch.no_grad()
    def finish(self, records: RecordSet) -> None:
        """Count the training records of sinus rhythms, and measure their rates and the stretches.

        A stretch is the ratio of the standard deviations of training beats and sampled beats, along
        a principal axis of the training beats, around the means of their rhythms. One beat is
        sampled for the rhythm and rate of each training record.
        """
        device = self.scale.device
        counts = np.bincount(records.labels, minlength=self.shape.rhythms)
        sinus = np.isin(records.about.rhythms, SINUS)
        self.sinus_counts.copy_(torch.from_numpy(counts * sinus))
        self.rhythm.measure(
            log_intervals(self._all_times(records)), torch.from_numpy(records.labels)
        )
        found, sampled = [], []
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
            sampled.append(
                self._flat(self._sampled_beats(white, labels, times, MEASURED_STEPS)).cpu()
            )
        labels = torch.from_numpy(records.labels[: sum(map(len, found))])
        (_, own), (means, made) = (
            _about_means(torch.cat(rows).double(), labels, self.shape.rhythms)
            for rows in (found, sampled)
        )
        _, axes = torch.linalg.eigh(own.T @ own)
        axes = axes.flip(1)[:, :AXES]
        spread, other = ((rows @ axes).square().mean(0).sqrt() for rows in (own, made))
        self.beat_means.copy_(means)
        self.beat_axes[: axes.shape[1]] = axes.T.to(self.beat_axes)
        # With few records, the axes beyond their rank are undefined; beats are never shrunk.
        self.beat_stretches[: axes.shape[1]] = (
            (spread / other).nan_to_num(1.0).clamp(1, MOST_STRETCH).to(self.beat_axes)
        )

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        device, most, leads = self.scale.device, self._most_intervals(), self.shape.leads
        sizes = [2 + most, most, leads * self.beat.shape.samples, leads * self.shape.samples]

        def first(source: torch.Generator) -> Tensor:
            return torch.cat(
                [
                    torch.rand(sizes[0], generator=source),
                    torch.randn(sum(sizes[1:]), generator=source),
                ]
            )

        sources = random_sources(seeds)
        drawn = torch.stack([first(source) for source in sources]).to(device)
        uniform, normal, beat_noise, record_noise = drawn.split(sizes, dim=1)
        labels = labels.to(device)
        times = self._sampled_times(labels, uniform, normal, sampling.heart_rate)
        maps, shown = self._layout(times)
        white, kinds = beat_noise.reshape(len(labels), leads, -1), labels
        if sampling.sinus_beats:
            kinds = self._sinus_labels(labels, sources)
        beat = self._stretched(self._sampled_beats(white, kinds, times, sampling.beat_steps), kinds)
        return self.denoise(
            chain([record_noise.reshape(len(labels), leads, -1)], self.noise(sources)),
            labels,
            sampling,
            self._context(maps, shown, beat),
        )

    def heart_rates(self, label: int) -> tuple[float, float]:
        """Return the lowest and the highest rate of the rhythm's training records, beats/min."""
        slowest, fastest = (float(self.rhythm.means[label, place]) for place in (-1, 0))
        return 60 / math.exp(slowest + TYPICAL), 60 / math.exp(fastest + TYPICAL)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        channels = self.shape.leads + self._channels + self.estimate_channels
        records = torch.zeros(2, channels, self.shape.samples)
        return self.denoiser, (
            records,
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, self.shape.rhythms]),
        )

    def _window(self, noise: torch.Generator) -> slice:
        """Return a random part of the record to train on. The part varies from step to step, which
        delays overfitting to few records.
        """
        size = math.ceil(PART * self.shape.samples)
        most = self.shape.samples - size
        start = int(torch.randint(most + 1, (1,), generator=noise, device=noise.device))
        return slice(start, start + size)

    def _most_intervals(self) -> int:
        return math.ceil(self.shape.samples / self.shape.sampling_rate / SHORTEST) + 1

    def _beats(self, clean: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the beat times in s and the typical beat `[leads, columns]` of each record.

        Recent results are cached, since the detection takes a fifth of a training step, and
        training uses each record many times.

        Args:
            clean: `[batch, leads, samples]`.
        """
        rate, keys = self.shape.sampling_rate, [hash(one.tobytes()) for one in clean]
        new = [place for place, key in enumerate(keys) if key not in self._seen]
        for place, peaks in zip(new, beats.detect(clean[new], rate), strict=True):
            self._seen[keys[place]] = (
                peaks / rate,
                beat_layout.typical_beat(clean[place], peaks, rate),
            )
        found = [self._seen[key] for key in keys]
        while len(self._seen) > CACHED:
            del self._seen[next(iter(self._seen))]
        return found

    def _all_times(self, records: RecordSet) -> list[np.ndarray]:
        """Return the beat times of each record, s."""
        scale = self.scale.cpu().numpy()
        return [
            times
            for index in in_order(len(records), BATCH)
            for times, _ in self._beats(records.signals(index) / scale)
        ]

    def _sampled_times(
        self, labels: Tensor, uniform: Tensor, normal: Tensor, rate: float | None
    ) -> list[np.ndarray]:
        """Sample the beat times of each record, s, from its random numbers.

        Args:
            labels: `[batch]`.
            uniform: `[batch, 2 + intervals]`, for the start, the rate and the intervals.
            normal: `[batch, intervals]`.
            rate: mean heart rate, beats/min; None for one of the rhythm.
        """
        means = self.rhythm.draw_means(labels, uniform[:, 1])
        if rate is not None:
            means = torch.full_like(means, math.log(60 / rate) - TYPICAL)
        intervals = self.rhythm.draw(labels, means, uniform[:, 2:], normal).cpu().double().numpy()
        # The record starts at a random time of the first interval.
        times = intervals.cumsum(1) - intervals[:, :1] * uniform[:, :1].cpu().double().numpy()
        return [row[row < self.shape.samples / self.shape.sampling_rate] for row in times]

    def _layout(self, times: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return maps `[batch, CHANNELS, samples]`, and the column of the typical beat at each
        sample, `[batch, samples]`.
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
        """Return the mean of the log RR intervals, `[batch, 1, columns and levels]`; 0 for records
        without intervals.
        """
        return (
            intervals.nanmean(dim=1)
            .nan_to_num(0.0)[:, None, None]
            .expand(-1, 1, self.beat.shape.samples)
        )

    def _sampled_beats(
        self, white: Tensor, labels: Tensor, times: Sequence[np.ndarray], steps: int
    ) -> Tensor:
        """Turn noise into typical beats with their levels, `[batch, leads, columns and levels]`,
        for records with these beat times.
        """
        rate = self._rate(log_intervals(times).to(white.device))
        sampling = DiffusionSampling(steps=steps, guidance=1)
        return self.beat.denoise(iter([white]), labels, sampling, rate)

    def _sinus_labels(self, labels: Tensor, sources: list[torch.Generator]) -> Tensor:
        """Replace each sinus rhythm by a random one, in proportion to the training records."""
        uniform = torch.cat([torch.rand(1, generator=source) for source in sources])
        below = (self.sinus_counts / self.sinus_counts.sum()).cumsum(0).cpu() < uniform[:, None]
        drawn = below.sum(1).clamp(max=self.shape.rhythms - 1).to(labels)
        return torch.where(self.sinus_counts[labels] > 0, drawn, labels)

    def _stretched(self, beat: Tensor, labels: Tensor) -> Tensor:
        """Move beats and levels away from their rhythm's mean by the stretches of `finish`."""
        away = self._flat(beat) - self.beat_means[labels]
        more = ((away @ self.beat_axes.T) * (self.beat_stretches - 1)) @ self.beat_axes
        columns, *levels = more.reshape(len(beat), self.shape.leads, -1).split(
            [self.columns, 1, 1], dim=2
        )
        return beat + torch.cat(
            [columns, *(level.expand(-1, -1, LEVELS) / LEVEL_WEIGHT for level in levels)], dim=2
        )

    def _flat(self, beat: Tensor) -> Tensor:
        """Return typical beats with one column per level, `[batch, leads * (columns + 2)]`."""
        columns, *levels = beat.split([self.columns, LEVELS, LEVELS], dim=2)
        return torch.cat(
            [columns, *(LEVEL_WEIGHT * level.mean(2, keepdim=True) for level in levels)], dim=2
        ).flatten(1)

    def _laid_out(self, beat: Tensor, shown: Tensor) -> Tensor:
        """Place typical beats `[batch, leads, columns]` in time, `[batch, leads, samples]`."""
        return beat.gather(2, shown[:, None].expand(-1, self.shape.leads, -1))

    def _with_levels(self, beat: Tensor, clean: Tensor, shown: Tensor) -> Tensor:
        """Append the levels of the record's drift and noise to each typical beat."""
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
        """Return the context of the record's network, `[batch, channels, samples]`: the map, the
        placed beats and the levels.
        """
        beat, *levels = beat.split([self.columns, LEVELS, LEVELS], dim=2)
        constant = [
            level.mean(2, keepdim=True).expand(-1, -1, self.shape.samples) for level in levels
        ]
        return torch.cat([maps, self._laid_out(beat, shown), *constant], dim=1)


def _about_means(rows: Tensor, labels: Tensor, rhythms: int) -> tuple[Tensor, Tensor]:
    """Return the mean of each rhythm's rows, `[rhythms, features]`, and the rows minus it."""
    kinds = nn.functional.one_hot(labels, rhythms).to(rows)
    means = (kinds.T @ rows) / kinds.sum(0).clamp(min=1)[:, None]
    return means, rows - means[labels]
