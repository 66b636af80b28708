"""Patient vectors: what all beats of a record have in common, as a few numbers.

An encoder maps a record to a normal distribution over its vector, and learns together with the
network that sees the vector, as in a variational autoencoder (Kingma & Welling 2014, "Auto-Encoding
Variational Bayes"). After training, a normal distribution is fitted to the vectors of the training
records: a mean for each rhythm, and one covariance. Sampling draws vectors from it.

Records also have noise of muscles and electrodes, and patients differ in its level. Networks that
map many samples to one position, or to one token, cannot carry it. So the level of noise in each
lead is drawn together with the vector, and the noise that a record lacks is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from ecgforge.generators.common.base import Shape
from ecgforge.params import StrictConfig
from ecgforge.records.record_set import RecordSet

CHUNK = 64  # records in memory at a time, when patient vectors are measured
TYPICAL = 0.6745  # median size of normal numbers with a standard deviation of 1
QUIET = 1e-3  # least level of noise, in standard deviations of the lead
DIVERGENCE = 1e-4  # weight in the loss of the vector's divergence from a standard normal, in nats
JITTER = 0.01  # added to the variances of the vectors, so that their factor exists


class PatientSampling(StrictConfig):
    """Sampling parameters of generators with a patient vector.

    Attributes:
        patient_spread: multiplies the deviation of patient vectors from the mean of their rhythm.
            1 is the spread of training records; larger values give more varied records.
    """

    patient_spread: Annotated[float, Field(ge=0, le=3)] = 1.0


class ResidualBlock(nn.Module):
    """A dilated convolution of width 3 and a pointwise one, with a skip."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.GELU(),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.layers(hidden)


class PatientEncoder(nn.Module):
    """Maps signals `[batch, inputs, positions]` to the mean and the logarithm of the variance of
    the patient vector, `[batch, 2, size]`: means and standard deviations of features over time.
    """

    def __init__(self, inputs: int, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.features = nn.Sequential(
            nn.Conv1d(inputs, width, 4, 2, 1),
            nn.GELU(),
            nn.Conv1d(width, width, 4, 2, 1),
            *(ResidualBlock(width, 2**i) for i in range(3)),
            nn.GELU(),
        )
        self.output = nn.Linear(2 * width, 2 * size)

    def forward(self, signals: Tensor) -> Tensor:
        features = self.features(signals)
        pooled = torch.cat([features.mean(2), features.std(2)], dim=1)
        return self.output(pooled).unflatten(1, (2, self.size))


class Patients(nn.Module):
    """The encoder of patient vectors, and the distribution that sampling draws them from, together
    with the level of noise in each lead.

    Args:
        inputs: channels of the encoder's signals.
        width: channels of the encoder's features.
        size: of the vector.
        shape: of the records.
    """

    means: Tensor
    factor: Tensor
    noise_spectrum: Tensor

    def __init__(self, inputs: int, width: int, size: int, shape: Shape) -> None:
        super().__init__()
        self.size = size
        self.encoder = PatientEncoder(inputs, width, size)
        self.register_buffer("means", torch.zeros(shape.rhythms, size + shape.leads))
        self.register_buffer("factor", torch.eye(size + shape.leads))
        self.register_buffer("noise_spectrum", torch.ones(shape.samples // 2 + 1))

    def forward(self, signals: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the vectors of a batch, `[batch, size]`, random in training, and the mean over the
        batch of their Kullback-Leibler divergence from a standard normal, in nats.
        """
        mean, log_variance = self.encoder(signals).float().unbind(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        if self.training:
            white = torch.randn(mean.shape, generator=noise, device=mean.device)
            mean = mean + white * (log_variance / 2).exp()
        return mean, divergence

    @torch.no_grad()
    def fit(self, records: RecordSet, scale: Tensor, inputs: Callable[[Tensor], Tensor]) -> None:
        """Fit the distribution of vectors and of levels of noise, and the spectrum of noise, to
        training records. A rhythm without records gets the common mean.

        Args:
            records: training records.
            scale: standard deviation of each lead, `[leads, 1]`.
            inputs: maps records `[batch, leads, samples]`, divided by the scale, to the encoder's
                signals.
        """
        encoded, levels, power = [], [], []
        for signals in torch.from_numpy(records.signals()).split(CHUNK):
            clean = signals.to(scale.device) / scale
            encoded.append(self.encoder(inputs(clean)).float())
            levels.append(noise_level(clean))
            power.append(torch.fft.rfft(clean / levels[-1][..., None]).abs().square().mean(1))
        vectors, log_variances = torch.cat(encoded).unbind(1)
        rows = torch.cat([vectors, torch.cat(levels).log()], dim=1)
        chosen = one_hot(torch.as_tensor(records.labels), len(self.means)).to(rows)
        counts = chosen.sum(0)[:, None]
        centres = torch.where(counts > 0, chosen.T @ rows / counts.clamp(min=1), rows.mean(0))
        left = rows - chosen @ centres
        variances = pad(log_variances.exp().mean(0), (0, rows.shape[1] - self.size))
        covariance = left.T @ left / len(left) + torch.diag(variances + JITTER)
        self.means.copy_(centres)
        self.factor.copy_(torch.linalg.cholesky(covariance))
        spectrum = torch.cat(power).median(0).values.sqrt()
        flat = len(spectrum) // 2  # waves have lower frequencies
        spectrum[:flat] = spectrum[flat]
        self.noise_spectrum.copy_(spectrum / spectrum[flat])

    def draw(self, labels: Tensor, sources: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Draw the vector of each record, `[batch, size]`, and its levels of noise, `[batch,
        leads]`, from its own random generator.
        """
        count = len(self.factor)
        white = torch.stack([torch.randn(count, generator=source) for source in sources])
        drawn = self.means[labels] + white.to(labels.device) @ self.factor.T
        vectors, levels = drawn.tensor_split([self.size], dim=1)
        return vectors, levels.exp()

    def spread(self, vectors: Tensor, labels: Tensor, factor: float) -> Tensor:
        """Multiply the deviation of vectors, `[batch, size]`, from the mean of their rhythm."""
        means = self.means[labels, : self.size]
        return means + factor * (vectors - means)

    def lacking_noise(self, clean: Tensor, levels: Tensor, white: Tensor) -> Tensor:
        """Return noise that brings records to their levels `[batch, leads]`, of the shape of the
        records. Its spectrum is flat up to a quarter of the sampling rate, and that of the training
        records above.

        Args:
            clean: records, divided by the scale.
            levels: from `draw`.
            white: white noise, of the shape of the records.
        """
        noise = torch.fft.irfft(torch.fft.rfft(white) * self.noise_spectrum, white.shape[-1])
        lacking = (levels.square() - noise_level(clean).square()).clamp(min=0).sqrt()
        return (lacking / noise_level(noise))[..., None] * noise


def noise_level(records: Tensor) -> Tensor:
    """Return the standard deviation of the white noise in records, `[..., samples]` to `[...]`.

    Its estimate is the median size of second differences, where most waves are small. It has a
    minimum, since its logarithm is used.
    """
    median = records.diff(n=2).abs().median(-1).values
    return (median / (TYPICAL * math.sqrt(6))).clamp(min=QUIET)
