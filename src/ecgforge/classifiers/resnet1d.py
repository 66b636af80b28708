"""ResNet-1D: residual blocks of one-dimensional convolutions over all leads, the kind of classifier that the study uses.

He et al. 2016 (arXiv 1512.03385) for the blocks; Wang, Yan and Oates 2017 (arXiv 1611.06455) for the form on time series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ecgforge.classifiers.base import Classifier
from ecgforge.params import Positive, Section


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd, so that a convolution keeps the beat where it is")
    return kernel


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the length."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False),
            nn.Conv1d(inputs, outputs, 1, bias=False),
            nn.BatchNorm1d(outputs),
        )

    def forward(self, signals: Tensor) -> Tensor:
        return torch.relu(self.body(signals) + self.shortcut(signals))


class ResNet1d(Classifier):
    """A strided stem, residual blocks, and a linear head on the mean and the maximum over time."""

    class Network(Section):
        """`widths`: channels of each block; `kernel`: samples at the block's resolution; `dropout`: before the head."""

        widths: Annotated[list[Positive], Field(min_length=1)]
        stem_stride: Annotated[int, Field(ge=1, le=8)]
        kernel: Annotated[int, Field(ge=3, le=31), AfterValidator(_odd)]
        dropout: Annotated[float, Field(ge=0, lt=1)]

    def __init__(self, network: ResNet1d.Network, rhythms: Sequence[str], scale: Tensor) -> None:
        super().__init__(network, rhythms, scale)
        leads, first = len(scale), network.widths[0]
        self.stem = nn.Sequential(
            nn.Conv1d(leads, first, 15, stride=network.stem_stride, padding=7, bias=False), nn.BatchNorm1d(first), nn.ReLU()
        )
        steps = zip([first, *network.widths], network.widths, strict=False)
        self.blocks = nn.Sequential(*[_Block(inputs, outputs, network.kernel) for inputs, outputs in steps])
        self.head = nn.Sequential(nn.Dropout(network.dropout), nn.Linear(2 * network.widths[-1], len(rhythms)))

    def logits(self, signals: Tensor) -> Tensor:
        features = self.blocks(self.stem(signals))
        return self.head(torch.cat([features.mean(-1), features.amax(-1)], dim=1))
