"""A transformer over patches of the record; each patch has all leads.

This is ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) in one dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ecgforge.classifiers.common.base import Classifier
from ecgforge.params import Dimension, Float, Positive, StrictConfig


class _Layer(nn.Module):
    """A pre-norm encoder layer (eq. 2 and 3).

    Dropout applies to the output of both sublayers (Vaswani et al. 2017, sec. 5.4). torch's own
    layer also applies it to attention and hidden units, and its training step takes 1.5 times as
    long on a CPU.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[batch, tokens, width]` to the same shape."""
        split = (
            self.inputs(self.first_norm(hidden))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = (
            scaled_dot_product_attention(split[0], split[1], split[2]).transpose(1, 2).flatten(2)
        )
        hidden = hidden + self.dropout(self.mixed(mixed))
        return hidden + self.dropout(self.inner(self.second_norm(hidden)))


def patches(signals: Tensor, samples: int) -> Tensor:
    """Cut signals into patches of all leads; zeros fill the last patch.

    Args:
        signals: `[batch, leads, samples]`.
        samples: length of a patch.

    Returns:
        `[batch, patches, leads * samples of a patch]`.
    """
    whole = pad(signals, (0, -signals.shape[-1] % samples))
    return whole.unflatten(-1, (-1, samples)).transpose(1, 2).flatten(2)


def positions(tokens: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return sines and cosines of the token positions, `[tokens, width]` (Vaswani et al. 2017, sec.
    3.5).

    Their periods are 6 to 60000 tokens. They set no limit on the length of a record.
    """
    speed = 10000.0 ** (-torch.arange(width // 2, device=device) / (width // 2))
    angle = torch.arange(tokens, device=device)[:, None] * speed
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class Transformer(Classifier):
    """Patches as tokens, encoder layers, and a linear head on the mean over tokens."""

    class Network(StrictConfig):
        """Parameters of the network.

        Attributes:
            patch: samples of a token.
            width: channels of a token.
            layers: number of encoder layers.
            heads: attention heads of a layer.
            dropout: in the layers and before the head.
        """

        patch: Positive
        width: Annotated[int, Field(ge=2, multiple_of=2)]
        layers: Positive
        heads: Positive = 4
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.width % self.heads:
                raise ValueError(f"width must be a multiple of heads, {self.heads}")
            return self

    space: ClassVar[Mapping[str, Dimension]] = {
        **Classifier.space,
        "network.dropout": Float(low=0, high=0.6),
    }

    def __init__(self, network: Transformer.Network, rhythms: Sequence[str], scale: Tensor) -> None:
        super().__init__(network, rhythms, scale)
        width, dropout = network.width, network.dropout
        self.patch = network.patch
        self.token = nn.Linear(len(scale) * network.patch, width)
        self.layers = nn.Sequential(
            *[_Layer(width, network.heads, dropout) for _ in range(network.layers)]
        )
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, len(rhythms))
        )

    @property
    def parts(self) -> list[nn.Module]:
        return [self.head, *reversed(self.layers), self.token]

    def features(self, signals: Tensor) -> Tensor:
        tokens = self.token(patches(signals, self.patch))
        places = positions(tokens.shape[1], tokens.shape[2], tokens.device)
        return self.layers(tokens + places).mean(1)


BACKBONE = Transformer
