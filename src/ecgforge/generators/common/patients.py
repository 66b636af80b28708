"""Patient vectors: what all beats of a record have in common, as a few numbers.

An encoder maps a record to a normal distribution over its vector, and learns together with the
network that sees the vector, as in a variational autoencoder (Kingma & Welling 2014, "Auto-Encoding
Variational Bayes"). After training, a normal distribution is fitted to the vectors of the training
records: a mean for each rhythm, and one covariance. Sampling draws vectors from it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

DIVERGENCE = 1e-4  # weight in the loss of the vector's divergence from a standard normal, in nats
JITTER = 0.01  # added to the variances of the vectors, so that their factor exists


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
    """The encoder of patient vectors, and the distribution that sampling draws them from.

    Args:
        inputs: channels of the encoder's signals.
        width: channels of the encoder's features.
        size: of the vector.
        rhythms: number of classes.
        measured: further numbers of a record that are drawn together with its vector.
    """

    means: Tensor
    factor: Tensor

    def __init__(self, inputs: int, width: int, size: int, rhythms: int, measured: int = 0) -> None:
        super().__init__()
        self.size = size
        self.encoder = PatientEncoder(inputs, width, size)
        self.register_buffer("means", torch.zeros(rhythms, size + measured))
        self.register_buffer("factor", torch.eye(size + measured))

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
    def fit(self, encoded: Tensor, labels: Tensor, measured: Tensor | None = None) -> None:
        """Fit the distribution to training records. A rhythm without records gets the common mean.

        Args:
            encoded: their means and logarithms of variances, `[records, 2, size]`.
            labels: `[records]`.
            measured: their further numbers, `[records, measured]`.
        """
        rows, log_variances = encoded.unbind(1)
        variances = log_variances.exp().mean(0)
        if measured is not None:
            rows = torch.cat([rows, measured], dim=1)
            variances = pad(variances, (0, measured.shape[1]))
        chosen = one_hot(labels, len(self.means)).to(rows)
        counts = chosen.sum(0)[:, None]
        centres = torch.where(counts > 0, chosen.T @ rows / counts.clamp(min=1), rows.mean(0))
        left = rows - centres[labels]
        covariance = left.T @ left / len(left) + torch.diag(variances + JITTER)
        self.means.copy_(centres)
        self.factor.copy_(torch.linalg.cholesky(covariance))

    def draw(self, labels: Tensor, sources: list[torch.Generator], spread: float = 1.0) -> Tensor:
        """Draw the vector of each record, and its further numbers, from its own random generator:
        `[batch, size + measured]`. `spread` multiplies the standard deviations of the vector.
        """
        count = len(self.factor)
        white = torch.stack([torch.randn(count, generator=source) for source in sources])
        left = white.to(labels.device) @ self.factor.T
        left[:, : self.size] *= spread
        return self.means[labels] + left
