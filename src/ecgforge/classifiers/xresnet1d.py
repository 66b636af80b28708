"""XResNet-1D: a residual network with a deep stem and bottleneck blocks.

Its family is among the best in the PTB-XL benchmark (Strodthoff et al. 2021, arXiv 2004.13701).
The stem, the blocks and their initialisation follow He et al. 2019 (arXiv 1812.01187, "Bag of
Tricks"), over time instead of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ecgforge.classifiers.common.base import Classifier
from ecgforge.classifiers.common.convolution import Kernel, convolution
from ecgforge.params import Categorical, Dimension, Float, Positive, StrictConfig

EXPANSION = 4  # output channels of a bottleneck per inner channel


class _Block(nn.Module):
    """A bottleneck of `width` channels with a shortcut; `stride` shortens the record.

    No sample is skipped: the convolution over time has the stride, and the shortcut averages (sec.
    4.2, ResNet-B and -D). The last normalisation starts with a scale of zero, so that the block
    starts as its shortcut (sec. 3.1).
    """

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        narrow, over_time, widen = (
            convolution(inputs, width, 1),
            convolution(width, width, kernel, stride),
            convolution(width, outputs, 1),
        )
        nn.init.zeros_(widen.get_parameter("1.weight"))
        self.body = nn.Sequential(narrow, nn.ReLU(), over_time, nn.ReLU(), widen)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d((1, stride), ceil_mode=True, count_include_pad=False))
        if inputs != outputs:
            self.shortcut.append(convolution(inputs, outputs, 1))

    def forward(self, signals: Tensor) -> Tensor:
        return torch.relu(self.body(signals) + self.shortcut(signals))


class XResNet1d(Classifier):
    """A deep stem, stages of bottleneck blocks, and a linear head on mean and maximum over time."""

    class Network(StrictConfig):
        """Parameters of the network.

        Attributes:
            widths: bottleneck channels of each stage; its output has four times as many.
            depths: blocks of each stage.
            stem_stride: of the first convolution, samples.
            kernel: samples at the resolution of each convolution.
            dropout: before the head.
        """

        widths: Annotated[list[Positive], Field(min_length=1)]
        depths: list[Positive]
        stem_stride: Annotated[int, Field(ge=1, le=8)] = 4
        kernel: Kernel = 9
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if len(self.depths) != len(self.widths):
                raise ValueError(f"depths must have as many values as widths: {len(self.widths)}")
            if self.stem_stride > self.kernel:
                raise ValueError(
                    f"stem_stride must not be above kernel ({self.kernel}), or samples are skipped"
                )
            return self

    space: ClassVar[Mapping[str, Dimension]] = {
        **Classifier.space,
        "network.dropout": Float(low=0, high=0.6),
        "network.kernel": Categorical(choices=[5, 9, 17]),
    }

    def __init__(self, network: XResNet1d.Network, rhythms: Sequence[str], scale: Tensor) -> None:
        super().__init__(network, rhythms, scale)
        first, kernel = network.widths[0], network.kernel
        half = (first + 1) // 2
        self.stem = nn.Sequential(
            *(convolution(len(scale), half, kernel, network.stem_stride), nn.ReLU()),
            *(convolution(half, half, kernel), nn.ReLU()),
            *(convolution(half, first, kernel), nn.ReLU()),
            nn.MaxPool2d((1, 3), (1, 2), (0, 1)),
        )
        self.blocks = nn.Sequential()
        channels = first
        for stage, (width, depth) in enumerate(zip(network.widths, network.depths, strict=True)):
            for number in range(depth):
                # the pooling of the stem has already halved the input of the first stage
                halves = stage > 0 and number == 0
                self.blocks.append(_Block(channels, width, kernel, 2 if halves else 1))
                channels = EXPANSION * width
        self.head = nn.Sequential(
            nn.Dropout(network.dropout), nn.Linear(2 * channels, len(rhythms))
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out

    @property
    def parts(self) -> list[nn.Module]:
        return [self.head, *reversed(self.blocks), self.stem]

    def features(self, signals: Tensor) -> Tensor:
        rows = signals.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        found = self.blocks(self.stem(rows)).squeeze(2)
        return torch.cat([found.mean(-1), found.amax(-1)], dim=1)


BACKBONE = XResNet1d
