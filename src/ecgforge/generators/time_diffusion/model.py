"""Time-Diffusion: a class-conditional 1-D U-Net under a diffusion process.

The study (arXiv 2411.18456) calls its second generator so and describes it, as far as can be read,
as "an adaptation of the U-Net architecture under a diffusion framework, conditioned on certain
input features". That this is the network meant, a U-Net in the manner of Ho et al. 2020 in one
dimension, is our inference and not the authors' word.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ecgforge.generators.diffusion.diffusion import Diffusion
from ecgforge.generators.diffusion.unet import UNet, UNetNetwork
from ecgforge.params import StrictConfig


class TimeDiffusion(Diffusion):
    """Class-conditional 1-D U-Net:

    FiLM by time and rhythm, attention at the coarse levels, guidance, DDIM.
    """

    Network: ClassVar[type[StrictConfig]] = UNetNetwork

    def build(self) -> nn.Module:
        return UNet(self.shape.leads, self.shape.rhythms, self.network)
