"""Shared parts of the diffusion generators: process, training loss, guidance and sampler.

Time t runs from 0 (record) to 1 (noise). The variance-preserving process is x_t = alpha x_0 + sigma
e with alpha = cos(phi), sigma = sin(phi) and phi from 0 to pi/2. It ends in pure noise, with zero
terminal SNR (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", sec.
3.1).

The networks predict the record x_0. The loss is the squared error of v = alpha e - sigma x_0
(Salimans & Ho 2022, "Progressive Distillation for Fast Sampling", sec. 4). The error of v is the
error of x_0 divided by sigma. The networks do not predict v or e, since their stem maps many
samples to one position: it cannot carry the noise, but records lie near a space of few dimensions
(Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720). On real
records, after 500 steps each, a network that predicts v gave noisier beats: the squared error of
the record was 1.2 to 1.6 times as large at angles from 0.6 to 1.2, where beats get their shape.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.generators.common.base import Generator, Shape, random_sources
from ecgforge.generators.common.patients import DIVERGENCE, Patients, PatientSampling
from ecgforge.params import Dimension, Float, Int, Positive, Share, StrictConfig
from ecgforge.records.record_set import RecordSet

MAX_WEIGHT = (
    # of a record's squared error; without it, small sigmas would dominate the loss (Hang et al.
    # 2023, min-SNR, gamma 5)
    6.0
)
ESTIMATED = 0.5  # share of training records that are shown a prediction, as in Chen et al.
PATIENT_WIDTH = 64  # channels of the encoder of patient vectors


class DiffusionSampling(StrictConfig):
    """Sampling parameters of diffusion generators.

    Attributes:
        steps: network calls per record.
        guidance: weight of the conditional prediction against the unconditional one. 1 is the
            conditional prediction; larger values give clearer, less varied records.
        eta: the noise that each step adds, relative to ancestral sampling. 0 adds none (DDIM), 1
            that of ancestral sampling (DDPM). Added noise needs more steps.
        second_order: whether a step also uses the previous prediction, see `extrapolation`, with
            steps that are shorter near both ends. Few steps then keep the amplitudes of records.
    """

    steps: Positive
    guidance: Annotated[float, Field(ge=1, le=10)]
    eta: Share = 0.0
    second_order: bool = False


class DiffusionNetwork(StrictConfig):
    """Parameters of all diffusion networks.

    Attributes:
        label_dropout: share of training records whose rhythm is hidden.
        timestep_shift: moves the schedule towards noise, since long signals show their beats even
            at high noise. 1 is the plain cosine schedule.
        self_conditioning: whether the network also sees its last prediction of the record (Chen,
            Zhang & Hinton 2023, "Analog Bits", arXiv 2208.04202). It then keeps to one patient.
    """

    label_dropout: Share = 0.1
    timestep_shift: Annotated[float, Field(gt=0, le=10)] = 3.0
    self_conditioning: bool = False


class PatientNetwork(DiffusionNetwork):
    """Parameters of diffusion networks that see a patient vector.

    Attributes:
        patient_size: of the patient vector; 0 is a network without it.
    """

    patient_size: Annotated[int, Field(ge=0)] = 0


class PatientDiffusionSampling(DiffusionSampling, PatientSampling):
    """Sampling parameters of diffusion generators with a patient vector."""


class Diffusion(Generator):
    """A generator that learns to remove noise; subclasses build the network."""

    phases: ClassVar[tuple[str, ...]] = ("denoiser",)
    Sampling: ClassVar[type[StrictConfig]] = DiffusionSampling
    space: ClassVar[Mapping[str, Dimension]] = {
        "sampling.guidance": Float(low=1, high=5),
        "sampling.steps": Int(kind="int", low=2, high=100, log=True),
    }

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        self.denoiser = self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the network: (x_t `[batch, leads, samples]`, t `[batch]`, labels `[batch]`, and
        vectors of patients `[batch, size]`, if it sees them) -> x_0, of the shape of x_t. The label
        `shape.rhythms` is a hidden rhythm. The channels of a context, if any, follow the leads of
        x_t, and then those of the last prediction, see `estimate_channels`.
        """

    @property
    def estimate_channels(self) -> int:
        """Channels of the network's last prediction; 0 without self-conditioning."""
        return self.shape.leads if self.network.self_conditioning else 0

    def trainable(self, phase: str) -> list[nn.Parameter]:
        return list(self.denoiser.parameters())

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        return self.denoising_loss(signals, labels, noise)

    def denoising_loss(
        self,
        signals: Tensor,
        labels: Tensor,
        noise: torch.Generator,
        context: Tensor | None = None,
        patient: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean squared error of v as "loss", and that of the record as "clean".

        The times of a batch are evenly spaced, which lowers the variance of the loss (Kingma et
        al. 2021, "Variational Diffusion Models", app. I.1).
        """
        batch, device = len(signals), signals.device
        spaced = torch.arange(batch, device=device) / batch
        times = (torch.rand(1, generator=noise, device=device) + spaced) % 1
        white = torch.randn(signals.shape, generator=noise, device=device)
        hidden = torch.rand(batch, generator=noise, device=device) < self.network.label_dropout
        if self.training:
            labels = labels.masked_fill(hidden, self.shape.rhythms)
        clean, seen = signals / self.scale, () if patient is None else (patient,)
        alpha, sigma = self.process(times[:, None, None])
        inputs = concat_channels(alpha * clean + sigma * white, context)
        if self.network.self_conditioning:
            inputs = self._with_estimate(inputs, (times, labels, *seen), noise)
        error = (self.denoiser(inputs, times, labels, *seen).float() - clean).square()
        return {"loss": (error * sigma.pow(-2).clamp(max=MAX_WEIGHT)).mean(), "clean": error.mean()}

    def _with_estimate(
        self, inputs: Tensor, conditions: tuple[Tensor, ...], noise: torch.Generator
    ) -> Tensor:
        """Append the network's own prediction of the record; zeros for half of the training
        records, as in the first step of sampling.
        """
        blank = inputs.new_zeros(len(inputs), self.shape.leads, inputs.shape[-1])
        drawn = torch.rand(len(inputs), generator=noise, device=inputs.device) < ESTIMATED
        chosen = drawn if self.training else torch.ones_like(drawn)
        estimate = blank.clone()
        if chosen.any():
            with torch.no_grad():
                first = torch.cat([inputs, blank], dim=1)[chosen]
                shown = [condition[chosen] for condition in conditions]
                estimate[chosen] = self.denoiser(first, *shown).float()
        return torch.cat([inputs, estimate], dim=1)

    def process(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors alpha of the signal and sigma of the noise, each of the shape of
        `times`: 1 and 0 at time 0, 0 and 1 at time 1.
        """
        angle = torch.atan(self.network.timestep_shift * torch.tan(times * math.pi / 2))
        end = times >= 1
        return torch.cos(angle).masked_fill(end, 0), torch.sin(angle).masked_fill(end, 1)

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        noise = self.noise(random_sources(seeds))
        return self.denoise(noise, labels.to(self.scale.device), sampling)

    def noise(self, sources: list[torch.Generator]) -> Iterator[Tensor]:
        """Yield noise without end, `[batch, leads, samples]`. Each record has its own random
        generator, so that its noise does not depend on the other records of the batch.
        """
        size = (self.shape.leads, self.shape.samples)
        while True:
            drawn = [torch.randn(size, generator=source) for source in sources]
            yield torch.stack(drawn).to(self.scale.device)

    def denoise(
        self,
        noise: Iterator[Tensor],
        labels: Tensor,
        sampling: Any,
        context: Tensor | None = None,
        patient: Tensor | None = None,
    ) -> Tensor:
        """Turn noise into records, `[batch, leads, samples]`, in the units of the record set.

        The sampler is DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12). Their
        alpha is the square of ours. So the standard deviation of the added noise (eq. 16) is, with
        alpha' and sigma' at the next time,

            eta * sigma' / sigma * sqrt(1 - alpha^2 / alpha'^2)

        and the predicted noise has the rest of the variance sigma'^2. The last step adds no noise,
        since its sigma' is 0. With `second_order`, an extrapolation replaces the prediction.

        Args:
            noise: yields the noise at time 1, and then, if `eta` is above 0, that of each step.
            labels: `[batch]` int64.
            sampling: parameters.
            context: additional channels of the network's input.
            patient: vectors of the patients, `[batch, size]`, if the network sees them.
        """
        current = next(noise)
        last = torch.zeros_like(current)
        times = torch.linspace(1, 0, sampling.steps + 1, device=current.device)
        weights = torch.zeros_like(times[1:])
        if sampling.second_order:
            times = torch.sin(times * math.pi / 2).square()
            weights = self.extrapolation(times)
        for (now, then), weight in zip(pairwise(times), weights, strict=True):
            (alpha, sigma), (next_alpha, next_sigma) = self.process(now), self.process(then)
            estimate = last if self.network.self_conditioning else None
            inputs = concat_channels(current, context, estimate)
            spread = now.expand(len(labels))
            predicted = self.predict(inputs, spread, labels, sampling.guidance, patient)
            clean = predicted + weight * (predicted - last)
            last = predicted
            added = sampling.eta * next_sigma / sigma * (1 - (alpha / next_alpha) ** 2).sqrt()
            kept = (next_sigma**2 - added**2).sqrt()
            current = next_alpha * clean + kept * (current - alpha * clean) / sigma
            if sampling.eta > 0:
                current = current + added * next(noise)
        return current * self.scale

    def extrapolation(self, times: Tensor) -> Tensor:
        """Return the weight of the last change of the prediction in each step, `[steps]`.

        A step of first order uses the prediction at its start, but predictions grow during a step.
        So records get too small. A step of second order extrapolates the prediction to its middle.
        The weight is half the ratio of the step to the previous one, in log(alpha / sigma) (Lu et
        al. 2022, "DPM-Solver++", arXiv 2211.01095: 2M and, with added noise, its SDE form). The
        first two steps and the last one stay of first order, since the logarithm is infinite at
        both ends.
        """
        alpha, sigma = self.process(times)
        sizes = (alpha / sigma).log().diff()
        weights = torch.zeros_like(sizes)
        weights[1:-1] = sizes[1:-1] / (2 * sizes[:-2])
        return weights

    def predict(
        self,
        current: Tensor,
        times: Tensor,
        labels: Tensor,
        guidance: float,
        patient: Tensor | None = None,
    ) -> Tensor:
        """Return the predicted records, `[batch, leads, samples]`, from one network call.

        Classifier-free guidance doubles the batch (Ho & Salimans 2022, eq. 6; our guidance is
        their w + 1). Both predictions see the same patient vector.
        """
        seen = () if patient is None else (patient,)
        if guidance == 1:
            return self.denoiser(current, times, labels, *seen).float()
        hidden = torch.full_like(labels, self.shape.rhythms)
        both = self.denoiser(
            torch.cat([current, current]),
            torch.cat([times, times]),
            torch.cat([labels, hidden]),
            *(torch.cat([vector, vector]) for vector in seen),
        ).float()
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        channels = self.shape.leads + self.estimate_channels
        records = torch.zeros(2, channels, self.shape.samples)
        return self.denoiser, (
            records,
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, self.shape.rhythms]),
        )


class PatientDiffusion(Diffusion):
    """Diffusion whose network also sees a vector of the patient, see `generators.common.patients`.

    The vector says what all beats of a record have in common, so that the network needs not guess
    it from noise. Training takes it from the record (Preechakul et al. 2022, "Diffusion
    Autoencoders"), and sampling from a small model of its own (Li, Katabi & He 2024, "Return of
    Unconditional Generation").
    """

    Sampling: ClassVar[type[StrictConfig]] = PatientDiffusionSampling

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        self.patients: Patients | None = None
        if network.patient_size:
            self.patients = Patients(shape.leads, PATIENT_WIDTH, network.patient_size, shape)

    def trainable(self, phase: str) -> list[nn.Parameter]:
        return list(self.parameters())

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `denoising_loss`; the weighted divergence of the patient vector is added to it."""
        if self.patients is None:
            return self.denoising_loss(signals, labels, noise)
        patient, divergence = self.patients(signals / self.scale, noise)
        losses = self.denoising_loss(signals, labels, noise, patient=patient)
        total = losses["loss"] + DIVERGENCE * divergence
        return losses | {"loss": total, "patient_divergence": divergence}

    def finish(self, records: RecordSet) -> None:
        if self.patients is not None:
            self.patients.fit(records, self.scale, lambda clean: clean)

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        labels, sources = labels.to(self.scale.device), random_sources(seeds)
        noise = self.noise(sources)
        if self.patients is None:
            return self.denoise(noise, labels, sampling)
        drawn, levels = self.patients.draw(labels, sources)
        patient = self.patients.spread(drawn, labels, sampling.patient_spread)
        white = next(noise)
        made = self.denoise(noise, labels, sampling, patient=patient)
        return made + self.scale * self.patients.lacking_noise(made / self.scale, levels, white)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        network, inputs = super().exportable()
        patient = [torch.zeros(2, self.network.patient_size)] if self.patients else []
        return network, (*inputs, *patient)


def concat_channels(noisy: Tensor, *others: Tensor | None) -> Tensor:
    """Append channels, if any, to noisy records `[batch, leads, samples]`."""
    return torch.cat([noisy, *(one for one in others if one is not None)], dim=1)


def step_embedding(times: Tensor, size: int) -> Tensor:
    """Embed diffusion times as sines and cosines with frequencies of 10^0 to 10^4 rad, `[batch,
    size]` (Kong et al. 2021, sec. 3.1, eq. 8).
    """
    frequencies = torch.logspace(0, 4, size // 2, device=times.device)
    phase = times[:, None] * frequencies
    return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
