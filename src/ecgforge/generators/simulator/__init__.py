"""Simulator: see `model`."""

from ecgforge.generators.simulator.model import Simulator as GENERATOR

__all__ = ["GENERATOR"]
