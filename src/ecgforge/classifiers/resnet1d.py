"""ResNet-1D: residual blocks of one-dimensional convolutions over all leads.

The paper uses this kind of classifier. The blocks follow He et al. 2016 (arXiv 1512.03385), their
form for time series Wang, Yan and Oates 2017 (arXiv 1611.06455).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.classifiers.common.base import Classifier
from ecgforge.classifiers.common.convolution import Kernel, convolution
from ecgforge.params import Categorical, Dimension, Float, Positive, StrictConfig


class _Block(nn.Module):
    """Two convolutions with a shortcut; halves the length."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, kernel, 2),
            nn.ReLU(),
            convolution(outputs, outputs, kernel),
        )
        halve = nn.AvgPool2d((1, 2), ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Sequential(halve, convolution(inputs, outputs, 1))

    def forward(self, signals: Tensor) -> Tensor:
        return torch.relu(self.body(signals) + self.shortcut(signals))


class ResNet1d(Classifier):
    """A stem with a stride, residual blocks, and a linear head on mean and maximum over time."""

    class Network(StrictConfig):
        """Parameters of the network.

        Attributes:
            widths: channels of each block.
            stem_stride: samples.
            kernel: samples at the block's resolution.
            dropout: before the head.
        """

        widths: Annotated[list[Positive], Field(min_length=1)]
        stem_stride: Annotated[int, Field(ge=1, le=8)] = 4
        kernel: Kernel = 9
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3

    space: ClassVar[Mapping[str, Dimension]] = {
        **Classifier.space,
        "network.dropout": Float(low=0, high=0.6),
        "network.kernel": Categorical(choices=[5, 9, 17]),
    }

    def __init__(self, network: ResNet1d.Network, rhythms: Sequence[str], scale: Tensor) -> None:
        super().__init__(network, rhythms, scale)
        leads, first = len(scale), network.widths[0]
        self.stem = nn.Sequential(convolution(leads, first, 15, network.stem_stride), nn.ReLU())
        steps = zip([first, *network.widths], network.widths, strict=False)
        self.blocks = nn.Sequential(
            *[_Block(inputs, outputs, network.kernel) for inputs, outputs in steps]
        )
        self.head = nn.Sequential(
            nn.Dropout(network.dropout), nn.Linear(2 * network.widths[-1], len(rhythms))
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out

    @property
    def parts(self) -> list[nn.Module]:
        return [self.head, *reversed(self.blocks), self.stem]

    def features(self, signals: Tensor) -> Tensor:
        rows = signals.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        found = self.blocks(self.stem(rows)).squeeze(2)
        return torch.cat([found.mean(-1), found.amax(-1)], dim=1)


BACKBONE = ResNet1d
