"""DiffWave: see `model`."""

from ecgforge.generators.diffwave.model import DiffWave as GENERATOR

__all__ = ["GENERATOR"]
