"""Time-Diffusion: a class-conditional 1-D U-Net under a diffusion process.

The paper (arXiv 2411.18456) describes its second generator, of this name, as "an adaptation of the
U-Net architecture under a diffusion framework, conditioned on certain input features". Our network
is a one-dimensional U-Net after Ho et al. 2020. This choice is our inference; the authors do not
confirm it.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ecgforge.generators.diffusion.diffusion import PatientDiffusion, PatientNetwork
from ecgforge.generators.diffusion.unet import UNet, UNetNetwork
from ecgforge.params import StrictConfig


class TimeDiffusionNetwork(PatientNetwork, UNetNetwork):
    """Parameters of the U-Net, whose beats come from one patient by default."""

    self_conditioning: bool = True
    global_features: bool = True


class TimeDiffusion(PatientDiffusion):
    """A class-conditional 1-D U-Net with FiLM by time and rhythm, attention at the coarse levels,
    guidance and DDIM.
    """

    Network: ClassVar[type[StrictConfig]] = TimeDiffusionNetwork

    def build(self) -> nn.Module:
        shape = (self.shape.leads, self.shape.rhythms)
        return UNet(
            *shape, self.network, self.estimate_channels, patient_size=self.network.patient_size
        )
