"""Time-VQVAE (Lee, Malacarne & Aune 2023, "Vector Quantized Time Series Generation with a
Bidirectional Prior Model", AISTATS).

The short-time Fourier transform of a record is split into a low band (the lowest bin) and a high
band (all others). The transform is linear, so the two bands sum to the record in the time domain.
Each band has an autoencoder with its own codebook (stage 1). Two bidirectional transformers learn
the distribution of the low tokens, and of the high tokens given the low ones (stage 2). Iterative
decoding samples from them (Chang et al. 2022, MaskGIT).

The patient vector is an addition to the paper. A third encoder maps the whole record to a Gaussian
vector (Kingma & Welling 2014, "Auto-Encoding Variational Bayes"). It scales and shifts the hidden
states of both decoders, and both priors are conditioned on it. It carries what the beats of a
record have in common. Without it, the tokens of each beat carry all of its shape, and the beats of
a sampled record look like those of several patients.

There are two differences from the paper's text. First, frequencies and leads are channels of
one-dimensional convolutions, so that a token covers a time span with all frequencies. Second, a
high token gets the low token of the same time; the public code stretches low tokens over flattened
(frequency, time) indices, which pairs tokens of different times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot, pad

from ecgforge.generators.common.base import Generator, Shape, random_sources
from ecgforge.generators.common.patients import (
    DIVERGENCE,
    Patients,
    PatientSampling,
    ResidualBlock,
)
from ecgforge.params import Dimension, Float, Positive, Share, StrictConfig
from ecgforge.records.record_set import RecordSet

CODEBOOK_DECAY = 0.95  # of the running means of the codes
REVIVAL = 0.05  # share of the uniform usage below which a code is dead
COMMITMENT = 0.25  # weight of the commitment loss (van den Oord et al. 2017, sec. 3.2)


class BandNetwork(StrictConfig):
    """Parameters of a band's autoencoder and codebook; a token covers `2 ** halvings` frames."""

    channels: Positive
    blocks: Positive
    halvings: Annotated[int, Field(ge=1, le=6)]
    codes: Annotated[int, Field(ge=2)]
    code_size: Positive = 16


class PriorNetwork(StrictConfig):
    """Parameters of a band's transformer.

    Attributes:
        width: of its hidden states.
        layers: their number.
        heads: attention heads.
        dropout: share of hidden values that are set to 0 in training.
        order: `masked` is the paper's prior, which decodes many tokens at a time (MaskGIT).
            `autoregressive` samples one token after the other, so that each depends on all before.
    """

    width: Positive
    layers: Positive
    heads: Positive = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    order: Literal["masked", "autoregressive"] = "masked"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice the heads, {2 * self.heads}")
        return self


class TimeVQVAENetwork(StrictConfig):
    """Parameters of the networks.

    Attributes:
        fft: samples of a frame; the hop is a quarter of it.
        low: autoencoder of the low band.
        high: autoencoder of the high band.
        low_prior: transformer of the low band.
        high_prior: transformer of the high band.
        patient_size: of the patient vector; 0 is the paper's network, without it.
        time_shift: training records are moved by up to so many samples, so that the priors see
            beats at all positions within a token. The edge is filled by reflection.
        label_dropout: share of training records whose rhythm is hidden from the priors.
    """

    fft: Annotated[int, Field(ge=4, multiple_of=4)] = 8
    low: BandNetwork
    high: BandNetwork
    low_prior: PriorNetwork
    high_prior: PriorNetwork
    patient_size: Annotated[int, Field(ge=0)] = 0
    time_shift: Annotated[int, Field(ge=0)] = 0
    label_dropout: Share = 0.1

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.high.halvings > self.low.halvings:
            raise ValueError(
                "high.halvings must not exceed low.halvings: a low token covers full high tokens"
            )
        return self


class TimeVQVAESampling(PatientSampling):
    """Sampling parameters; an autoregressive prior does not use the first three.

    The spread of patient vectors applies only to the decoders. The priors see vectors like those of
    training records; others would make their rhythms irregular.

    Attributes:
        low_steps: decoding steps of the low band.
        high_steps: decoding steps of the high band.
        temperature: randomness of the order in which tokens are fixed. At 0 the most confident
            tokens come first, which favours the flat segments between beats.
        guidance: weight of the conditional prediction against the unconditional one; 1 is the
            conditional prediction.
        token_temperature: divides the logits of tokens of the low band. Below 1, likely tokens are
            sampled more often, and regular rhythms get more regular.
        high_token_temperature: that of the high band. Below 1, the beats of a record differ less.
    """

    low_steps: Positive
    high_steps: Positive
    temperature: Annotated[float, Field(ge=0)]
    guidance: Annotated[float, Field(ge=1, le=10)]
    token_temperature: Annotated[float, Field(gt=0, le=4)] = 1.0
    high_token_temperature: Annotated[float, Field(gt=0, le=4)] = 1.0


class Spectrum(nn.Module):
    """Splits records into bands, and transforms bands back to records."""

    window: Tensor

    def __init__(self, fft: int) -> None:
        super().__init__()
        self.fft, self.hop = fft, fft // 4
        self.register_buffer("window", torch.hann_window(fft), persistent=False)

    def split(self, records: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low and the high band of records `[batch, leads, samples]`, as channels over
        frames: `[batch, leads, frames]` (the lowest bin is real) and `[batch, leads * 2 * (fft /
        2), frames]`.
        """
        batch, leads, samples = records.shape
        flat = torch.stft(
            records.reshape(batch * leads, samples),
            self.fft,
            self.hop,
            window=self.window,
            normalized=True,
            return_complex=True,
        )
        low = flat[:, 0].real.reshape(batch, leads, -1)
        return low, torch.view_as_real(flat[:, 1:]).permute(0, 1, 3, 2).reshape(
            batch, -1, low.shape[-1]
        )

    def low_records(self, low: Tensor, samples: int) -> Tensor:
        """Return a low band as records, `[batch, leads, samples]`."""
        batch, leads, frames = low.shape
        spectrum = pad(low.reshape(-1, 1, frames), (0, 0, 0, self.fft // 2))
        return self._records(spectrum.to(torch.complex64), samples).reshape(batch, leads, samples)

    def high_records(self, high: Tensor, leads: int, samples: int) -> Tensor:
        """Return a high band as records, `[batch, leads, samples]`."""
        batch, _, frames = high.shape
        bins = (
            high.reshape(batch * leads, self.fft // 2, 2, frames).permute(0, 1, 3, 2).contiguous()
        )
        return self._records(pad(torch.view_as_complex(bins), (0, 0, 1, 0)), samples).reshape(
            batch, leads, samples
        )

    def _records(self, spectrum: Tensor, samples: int) -> Tensor:
        return torch.istft(
            spectrum, self.fft, self.hop, window=self.window, normalized=True, length=samples
        )


class Codebook(nn.Module):
    """Codes as running means of their latents (van den Oord et al. 2017, app. A.1).

    Dead codes are set to a random latent of the batch; at the start, all codes are dead.
    """

    codes: Tensor
    counts: Tensor

    def __init__(self, codes: int, size: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(codes, size))
        self.register_buffer("counts", torch.zeros(codes))

    def tokens(self, latents: Tensor) -> Tensor:
        """Return the nearest code of each latent: `[..., size]` to `[...]`."""
        # autocast keeps cdist at full precision, unlike a matrix product
        return torch.cdist(latents.float(), self.codes).argmin(-1)

    def latents(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.codes)

    @torch.no_grad()
    def update(self, latents: Tensor, noise: torch.Generator) -> None:
        """Move the codes towards the means of their latents, `[batch, positions, size]`, and revive
        the dead ones.
        """
        flat = latents.float().flatten(0, 1)
        usual = len(flat) / len(self.codes)
        chosen = one_hot(self.tokens(flat), len(self.codes)).float()
        counts = torch.lerp(chosen.sum(0), self.counts, CODEBOOK_DECAY)
        with torch.autocast(flat.device.type, enabled=False):
            sums = torch.lerp(chosen.T @ flat, self.codes * self.counts[:, None], CODEBOOK_DECAY)
        dead = counts < REVIVAL * usual
        size = (len(self.codes),)
        drawn = flat[torch.randint(len(flat), size, generator=noise, device=flat.device)]
        self.codes.copy_(torch.where(dead[:, None], drawn, sums / counts.clamp(min=1e-9)[:, None]))
        self.counts.copy_(counts.masked_fill(dead, usual))

    def perplexity(self, tokens: Tensor) -> Tensor:
        """Return the effective number of codes in `tokens`: the exponential of their entropy."""
        share = torch.bincount(tokens.flatten(), minlength=len(self.codes)) / tokens.numel()
        return torch.exp(-torch.xlogy(share, share).sum())


class BandDecoder(nn.Module):
    """Maps latents of a band to frames. A patient vector scales and shifts the input of each layer
    (FiLM; Perez et al. 2018, sec. 2).
    """

    def __init__(self, outputs: int, network: BandNetwork, patient_size: int) -> None:
        super().__init__()
        width = network.channels
        self.input = nn.Conv1d(network.code_size, width, 1)
        blocks: list[nn.Module] = [
            ResidualBlock(width, 2 ** (i % 3)) for i in range(network.blocks)
        ]
        finer: list[nn.Module] = [
            nn.Sequential(nn.GELU(), nn.ConvTranspose1d(width, size, 4, 2, 1))
            for size in [width] * (network.halvings - 1) + [outputs]
        ]
        self.layers = nn.ModuleList(blocks + finer)
        self.film = nn.Linear(patient_size, 2 * width * len(self.layers)) if patient_size else None

    def forward(self, latents: Tensor, patient: Tensor | None) -> Tensor:
        """Map latents `[batch, code_size, positions]` and patients `[batch, patient_size]`."""
        hidden = self.input(latents)
        films = [None] * len(self.layers)
        if self.film is not None and patient is not None:
            films = self.film(patient)[..., None].chunk(len(self.layers), dim=1)
        for layer, film in zip(self.layers, films, strict=True):
            if film is not None:
                scale, shift = film.chunk(2, dim=1)
                hidden = hidden * (1 + scale) + shift
            hidden = layer(hidden)
        return hidden


class Band(nn.Module):
    """The autoencoder of a band: frames `[batch, inputs, frames]` to tokens `[batch, positions]`
    and back.
    """

    def __init__(self, inputs: int, network: BandNetwork, patient_size: int) -> None:
        super().__init__()
        width, halvings = network.channels, network.halvings
        down = [
            layer
            for i in range(halvings)
            for layer in (nn.Conv1d(width if i else inputs, width, 4, 2, 1), nn.GELU())
        ]
        blocks = [ResidualBlock(width, 2 ** (i % 3)) for i in range(network.blocks)]
        self.encoder = nn.Sequential(*down, *blocks, nn.Conv1d(width, network.code_size, 1))
        self.decoder = BandDecoder(inputs, network, patient_size)
        self.codebook = Codebook(network.codes, network.code_size)

    def encode(self, frames: Tensor) -> Tensor:
        """Return latents, `[batch, positions, code_size]`."""
        return self.encoder(frames).transpose(1, 2)

    def decode(self, latents: Tensor, patient: Tensor | None) -> Tensor:
        """Return frames from latents `[batch, positions, code_size]`."""
        return self.decoder(latents.transpose(1, 2), patient).float()


class PriorLayer(nn.Module):
    """A pre-norm transformer layer with rotary position embedding (Su et al. 2021, RoFormer, eq.
    34). In a causal layer, a position sees itself and those before it.
    """

    def __init__(self, width: int, heads: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.dropout = nn.Dropout(dropout)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """Return the next hidden states.

        Args:
            hidden: `[batch, positions, width]`.
            past: keys and values of the positions before, `[batch, heads, positions, size]` each;
                those of `hidden`, one position, are appended. Empty at the first position.
        """
        split = (
            self.inputs(self.first_norm(hidden))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        start = past[0].shape[2] if past else 0
        query, key, value = rotate(split[0], start), rotate(split[1], start), split[2]
        if past is not None:
            before = past or [key[:, :, :0], value[:, :, :0]]
            past[:] = [torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True)]
            key, value = past
        causal = self.causal and past is None
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        hidden = hidden + self.dropout(self.mixed(mixed.transpose(1, 2).flatten(2)))
        return hidden + self.dropout(self.inner(self.second_norm(hidden)))


def rotate(vectors: Tensor, start: int = 0) -> Tensor:
    """Rotate pairs of `[..., positions, size]` by angles proportional to the position, with 1 to
    1/200 rad per position. The first position is `start`.
    """
    positions, pairs = vectors.shape[-2], vectors.shape[-1] // 2
    speed = 200.0 ** (-torch.arange(pairs, device=vectors.device) / pairs)
    angle = torch.arange(start, start + positions, device=vectors.device)[:, None] * speed
    cosine, sine = torch.cos(angle).to(vectors.dtype), torch.sin(angle).to(vectors.dtype)
    one, two = vectors.chunk(2, dim=-1)
    return torch.cat([one * cosine - two * sine, one * sine + two * cosine], dim=-1)


class Prior(nn.Module):
    """A transformer that predicts tokens from the rhythm and the tokens of another band at the same
    times: masked tokens from all others, or each token from those before it, see `PriorNetwork`.

    Its inputs and outputs are the codes of the tokens, so that tokens with similar codes are
    similar from the first step on.

    Args:
        codes: number of codes.
        code_size: of the band's codes.
        context_size: of the context; 0 without one.
        positions: tokens of a record.
        rhythms: number of classes.
        network: parameters.
    """

    def __init__(
        self,
        codes: int,
        code_size: int,
        context_size: int,
        positions: int,
        rhythms: int,
        network: PriorNetwork,
    ) -> None:
        super().__init__()
        width = network.width
        self.positions, self.mask_token = positions, codes
        self.causal = network.order == "autoregressive"
        self.token = nn.Linear(code_size, width)
        self.mask = nn.Parameter(torch.zeros(width))
        self.label = nn.Embedding(rhythms + 1, width)
        self.context = nn.Linear(context_size, width) if context_size else None
        self.layers = nn.ModuleList(
            PriorLayer(width, network.heads, self.causal, network.dropout)
            for _ in range(network.layers)
        )
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, code_size))
        self.bias = nn.Parameter(torch.zeros(codes))

    def forward(
        self, tokens: Tensor, labels: Tensor, codes: Tensor, context: Tensor | None
    ) -> Tensor:
        """Return logits `[batch, positions, codes]`.

        Args:
            tokens: `[batch, positions]`; `mask_token` is a masked token. A causal prior predicts
                each from those before it.
            labels: `[batch]`; the number of rhythms is a hidden rhythm.
            codes: `[codes, code_size]` of the band.
            context: `[batch, fewer positions, context_size]`: the patient vector, and codes of the
                other band at the same times.
        """
        codes = nn.functional.layer_norm(codes, codes.shape[1:])
        masked = (tokens == self.mask_token)[..., None]
        known = codes[tokens.clamp(max=self.mask_token - 1)]
        hidden = torch.where(masked, self.mask, self.token(known))
        if self.causal:
            hidden = torch.cat([self.mask.expand(len(tokens), 1, -1), hidden[:, :-1]], dim=1)
        hidden = hidden + self.label(labels)[:, None]
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context).repeat_interleave(
                self.positions // context.shape[1], dim=1
            )
        for layer in self.layers:
            hidden = layer(hidden)
        return self.output(hidden) @ codes.T + self.bias

    def draw(
        self,
        labels: Tensor,
        codes: Tensor,
        context: Tensor | None,
        random: Tensor,
        guidance: float,
        token_temperature: float = 1.0,
    ) -> Tensor:
        """Sample tokens one after the other with a causal prior, `[batch, positions]`.

        Args:
            labels, codes, context: see `forward`.
            random: `[batch, positions]`, uniform numbers.
            guidance, token_temperature: see `TimeVQVAESampling`.
        """
        codes = nn.functional.layer_norm(codes, codes.shape[1:])
        copies = 1 if guidance == 1 else 2  # with and without the rhythm
        if copies == 2:
            hidden_rhythm = torch.full_like(labels, self.label.num_embeddings - 1)
            labels = torch.cat([labels, hidden_rhythm])
        given = self.label(labels)[:, None].expand(-1, self.positions, -1)
        if self.context is not None and context is not None:
            stretched = self.context(context).repeat_interleave(
                self.positions // context.shape[1], dim=1
            )
            given = given + stretched.repeat(copies, 1, 1)
        past: list[list[Tensor]] = [[] for _ in self.layers]
        last, tokens = self.mask.expand(len(labels), 1, -1), []
        for place in range(self.positions):
            hidden = last + given[:, place : place + 1]
            for layer, kept in zip(self.layers, past, strict=True):
                hidden = layer(hidden, kept)
            logits = (self.output(hidden) @ codes.T + self.bias)[:, 0].float()
            if copies == 2:
                conditional, unconditional = logits.chunk(2)
                logits = unconditional + guidance * (conditional - unconditional)
            probability = (logits / token_temperature).softmax(-1)
            tokens.append(_drawn(probability, random[:, place]))
            last = self.token(codes[tokens[-1]])[:, None].repeat(copies, 1, 1)
        return torch.stack(tokens, dim=1)


class Decoder(nn.Module):
    """Maps tokens of both bands to records, in units of the scale."""

    def __init__(self, generator: TimeVQVAE) -> None:
        super().__init__()
        self.spectrum, self.low, self.high = generator.spectrum, generator.low, generator.high
        self.shape, self.frames = generator.shape, generator.frames

    def forward(
        self, low_tokens: Tensor, high_tokens: Tensor, patient: Tensor | None = None
    ) -> Tensor:
        low, high = (
            band.decode(band.codebook.latents(tokens), patient)[..., : self.frames]
            for band, tokens in ((self.low, low_tokens), (self.high, high_tokens))
        )
        samples = self.shape.samples
        return self.spectrum.low_records(low, samples) + self.spectrum.high_records(
            high, self.shape.leads, samples
        )


class TimeVQVAE(Generator):
    """Two vector-quantised autoencoders of STFT bands and two bidirectional priors, conditioned on
    the rhythm.
    """

    phases: ClassVar[tuple[str, ...]] = ("autoencoder", "prior")
    Network: ClassVar[type[StrictConfig]] = TimeVQVAENetwork
    Sampling: ClassVar[type[StrictConfig]] = TimeVQVAESampling
    space: ClassVar[Mapping[str, Dimension]] = {
        "sampling.guidance": Float(low=1, high=5),
        "sampling.token_temperature": Float(low=0.5, high=1.2),
    }

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        low, high, size = network.low, network.high, network.patient_size
        self.spectrum = Spectrum(network.fft)
        self.frames = 1 + shape.samples // self.spectrum.hop
        channels = shape.leads, shape.leads * network.fft
        self.low, self.high = Band(channels[0], low, size), Band(channels[1], high, size)
        inputs = sum(channels), high.channels
        self.patients = Patients(*inputs, size, shape) if size else None
        positions = math.ceil(self.frames / 2**low.halvings)
        self.low_prior = Prior(
            low.codes, low.code_size, size, positions, shape.rhythms, network.low_prior
        )
        positions *= 2 ** (low.halvings - high.halvings)
        context = low.code_size + size
        self.high_prior = Prior(
            high.codes, high.code_size, context, positions, shape.rhythms, network.high_prior
        )

    def trainable(self, phase: str) -> list[nn.Parameter]:
        autoencoders = [self.low, self.high, *([self.patients] if self.patients else [])]
        modules = autoencoders if phase == "autoencoder" else [self.low_prior, self.high_prior]
        return [parameter for module in modules for parameter in module.parameters()]

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the loss of stage 1 (paper, sec. 3.1): the squared error of each band in the time
        domain, commitment, and the divergence of the patient vector; or of stage 2 (sec. 3.2): the
        cross-entropy of masked tokens.
        """
        if self.training and self.network.time_shift:
            signals = moved(signals, self.network.time_shift, noise)
        bands = self.bands(signals / self.scale)
        return (
            self.autoencoder_loss(*bands, noise)
            if phase == "autoencoder"
            else self.prior_loss(*bands, labels, noise)
        )

    def bands(self, records: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames of both bands, padded at the end to full tokens."""
        low, high = self.spectrum.split(records.float())
        missing = -self.frames % 2**self.network.low.halvings
        return pad(low, (0, missing)), pad(high, (0, missing))

    def autoencoder_loss(
        self, low: Tensor, high: Tensor, noise: torch.Generator
    ) -> dict[str, Tensor]:
        samples, leads = self.shape.samples, self.shape.leads
        losses: dict[str, Tensor] = {}
        patient, divergence = self._patient(low, high, noise)
        decoded = []
        for name, band, frames in (("low", self.low, low), ("high", self.high, high)):
            latents = band.encode(frames).float()
            if self.training:
                band.codebook.update(latents, noise)
            tokens = band.codebook.tokens(latents)
            quantised = band.codebook.latents(tokens)
            losses[f"{name}_commitment"] = mse_loss(latents, quantised)
            losses[f"{name}_perplexity"] = band.codebook.perplexity(tokens)
            decoded.append(
                (band.decode(latents + (quantised - latents).detach(), patient) - frames)[
                    ..., : self.frames
                ]
            )
        losses["low_error"] = self.spectrum.low_records(decoded[0], samples).square().mean()
        losses["high_error"] = (
            self.spectrum.high_records(decoded[1], leads, samples).square().mean()
        )
        commitment = losses["low_commitment"] + losses["high_commitment"]
        losses["patient_divergence"] = divergence
        return {
            "loss": losses["low_error"]
            + losses["high_error"]
            + COMMITMENT * commitment
            + DIVERGENCE * divergence,
            **losses,
        }

    def _patient(
        self, low: Tensor, high: Tensor, noise: torch.Generator
    ) -> tuple[Tensor | None, Tensor]:
        """Return the patient vectors of a batch, if there are any, and their mean divergence."""
        if self.patients is None:
            return None, low.new_zeros(())
        return self.patients(torch.cat([low, high], dim=1), noise)

    def finish(self, records: RecordSet) -> None:
        if self.patients is not None:
            self.patients.fit(
                records, self.scale, lambda clean: torch.cat(self.bands(clean), dim=1)
            )

    def prior_loss(
        self, low: Tensor, high: Tensor, labels: Tensor, noise: torch.Generator
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            low_tokens, high_tokens = (
                band.codebook.tokens(band.encode(x))
                for band, x in ((self.low, low), (self.high, high))
            )
            patient, _ = self._patient(low, high, noise)
        drawn = torch.rand(len(labels), generator=noise, device=labels.device)
        hidden = drawn < self.network.label_dropout
        if self.training:
            labels = labels.masked_fill(hidden, self.shape.rhythms)
        losses = {
            f"{name}_loss": token_loss(prior, tokens, labels, band.codebook.codes, context, noise)
            for name, prior, tokens, band, context in (
                ("low", self.low_prior, low_tokens, self.low, with_patient(None, patient)),
                (
                    "high",
                    self.high_prior,
                    high_tokens,
                    self.high,
                    with_patient(self.low.codebook.latents(low_tokens), patient),
                ),
            )
        }
        return {"loss": losses["low_loss"] + losses["high_loss"], **losses}

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        device = self.scale.device
        labels = labels.to(device)
        positions = (self.low_prior.positions, self.high_prior.positions)
        steps = (sampling.low_steps, sampling.high_steps)
        sizes = [2 * count * size for count, size in zip(steps, positions, strict=True)]
        sources = random_sources(seeds)
        random = (
            torch.stack([torch.rand(sum(sizes), generator=source) for source in sources])
            .to(device)
            .split(sizes, dim=1)
        )
        patient = shown = levels = None
        if self.patients is not None:
            patient, levels = self.patients.draw(labels, sources)
            shown = self.patients.spread(patient, labels, sampling.patient_spread)
        low_random, high_random = (
            part.reshape(len(labels), 2, count, -1)
            for part, count in zip(random, steps, strict=True)
        )
        context = with_patient(None, patient)
        low = self._tokens("low", labels, context, low_random, sampling)
        context = with_patient(self.low.codebook.latents(low), patient)
        high = self._tokens("high", labels, context, high_random, sampling)
        made = Decoder(self)(low, high, shown)
        if self.patients is not None and levels is not None:
            white = [torch.randn(made.shape[1:], generator=source) for source in sources]
            made = made + self.patients.lacking_noise(made, levels, torch.stack(white).to(device))
        return made * self.scale

    def _tokens(
        self, band: str, labels: Tensor, context: Tensor | None, random: Tensor, sampling: Any
    ) -> Tensor:
        prior, codes, token_temperature = {
            "low": (self.low_prior, self.low.codebook.codes, sampling.token_temperature),
            "high": (self.high_prior, self.high.codebook.codes, sampling.high_token_temperature),
        }[band]
        settings = (sampling.guidance, token_temperature)
        if prior.causal:
            return prior.draw(labels, codes, context, random[:, 0, 0], *settings)
        return decode_iteratively(
            prior, labels, codes, context, random, sampling.temperature, *settings
        )

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        tokens = [
            torch.zeros(2, prior.positions, dtype=torch.int64)
            for prior in (self.low_prior, self.high_prior)
        ]
        patient = [torch.zeros(2, self.network.patient_size)] if self.patients else []
        return Decoder(self), (*tokens, *patient)


def moved(signals: Tensor, most: int, noise: torch.Generator) -> Tensor:
    """Move each record of `[batch, leads, samples]` by a random number of samples, up to `most`."""
    batch, leads, samples = signals.shape
    starts = torch.randint(2 * most + 1, (batch,), generator=noise, device=signals.device)
    chosen = starts[:, None] + torch.arange(samples, device=signals.device)
    padded = pad(signals, (most, most), mode="reflect")
    return padded.gather(2, chosen[:, None].expand(-1, leads, -1))


def with_patient(context: Tensor | None, patient: Tensor | None) -> Tensor | None:
    """Append patient vectors `[batch, size]` to each position of a context, if there is one."""
    if patient is None:
        return context
    if context is None:
        return patient[:, None]
    return torch.cat([context, patient[:, None].expand(-1, context.shape[1], -1)], dim=2)


def _drawn(probability: Tensor, uniform: Tensor) -> Tensor:
    """Return the tokens that uniform numbers `[...]` choose by probabilities `[..., codes]`."""
    below = probability.cumsum(-1) < uniform[..., None]
    return below.sum(-1).clamp(max=probability.shape[-1] - 1)


def token_loss(
    prior: Prior,
    tokens: Tensor,
    labels: Tensor,
    codes: Tensor,
    context: Tensor | None,
    noise: torch.Generator,
) -> Tensor:
    """Return the cross-entropy of masked tokens, or of all tokens for a causal prior.

    The share of masked tokens is the cosine of a uniform random number; these numbers are evenly
    spaced over the batch (MaskGIT, sec. 3.3).
    """
    if prior.causal:
        logits = prior(tokens, labels, codes, context)
        return cross_entropy(logits.float().flatten(0, 1), tokens.flatten())
    (batch, positions), device = tokens.shape, tokens.device
    spaced = torch.arange(batch, device=device) / batch
    share = torch.cos((torch.rand(1, generator=noise, device=device) + spaced) % 1 * math.pi / 2)
    count = torch.ceil(share * positions).clamp(min=1)
    rank = torch.rand(tokens.shape, generator=noise, device=device).argsort(1).argsort(1)
    masked = rank < count[:, None]
    logits = prior(tokens.masked_fill(masked, prior.mask_token), labels, codes, context)
    return cross_entropy(logits[masked].float(), tokens[masked])


def decode_iteratively(
    prior: Prior,
    labels: Tensor,
    codes: Tensor,
    context: Tensor | None,
    random: Tensor,
    temperature: float,
    guidance: float,
    token_temperature: float = 1.0,
) -> Tensor:
    """Sample tokens `[batch, positions]` in as many steps as `random` has (MaskGIT, sec. 3.2).

    Each step samples all masked tokens and fixes the most confident ones. The others stay masked
    for the next step; their share follows a cosine schedule.

    Args:
        prior: the transformer of the band.
        labels, codes, context: see `Prior.forward`.
        random: `[batch, 2, steps, positions]` uniform numbers: for the tokens, and for the order.
        temperature: the weight of Gumbel noise in the confidence of a token; it falls to 0 over
            the steps.
        guidance, token_temperature: see `TimeVQVAESampling`.
    """
    batch, _, steps, positions = random.shape
    tokens = torch.full((batch, positions), prior.mask_token, device=labels.device)
    for step in range(steps):
        logits = guided(prior, tokens, labels, codes, context, guidance)
        probability = (logits / token_temperature).softmax(-1)
        drawn = _drawn(probability, random[:, 0, step])
        gumbel = -torch.log(-torch.log(random[:, 1, step].clamp(1e-6, 1 - 1e-6)))
        surety = (
            torch.log(probability.gather(-1, drawn[..., None])[..., 0])
            + temperature * (1 - (step + 1) / steps) * gumbel
        )
        masked = tokens == prior.mask_token
        left = math.floor(positions * math.cos(math.pi / 2 * (step + 1) / steps))
        unsure = surety.masked_fill(~masked, math.inf).argsort(1).argsort(1) < left
        tokens = torch.where(masked, drawn, tokens).masked_fill(unsure, prior.mask_token)
    return tokens


def guided(
    prior: Prior,
    tokens: Tensor,
    labels: Tensor,
    codes: Tensor,
    context: Tensor | None,
    guidance: float,
) -> Tensor:
    """Return logits with classifier-free guidance: one call on a doubled batch, or on the plain
    batch if guidance is 1.
    """
    if guidance == 1:
        return prior(tokens, labels, codes, context).float()
    hidden = torch.full_like(labels, prior.label.num_embeddings - 1)
    contexts = None if context is None else context.repeat(2, 1, 1)
    conditional, unconditional = (
        prior(tokens.repeat(2, 1), torch.cat([labels, hidden]), codes, contexts).float().chunk(2)
    )
    return unconditional + guidance * (conditional - unconditional)
