"""TimeDiffusion: see `model`."""

from ecgforge.generators.time_diffusion.model import TimeDiffusion as GENERATOR

__all__ = ["GENERATOR"]
