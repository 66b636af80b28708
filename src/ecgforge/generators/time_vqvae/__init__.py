"""TimeVQVAE: see `model`."""

from ecgforge.generators.time_vqvae.model import TimeVQVAE as GENERATOR

__all__ = ["GENERATOR"]
