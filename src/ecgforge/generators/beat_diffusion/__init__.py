"""BeatDiffusion: see `model`."""

from ecgforge.generators.beat_diffusion.model import BeatDiffusion as GENERATOR

__all__ = ["GENERATOR"]
