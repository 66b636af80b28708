"""The sweeps by name: the modules of `ecgforge.sweeps`."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

import ecgforge.sweeps
from ecgforge import plugins
from ecgforge.errors import EcgforgeError

if TYPE_CHECKING:
    from ecgforge.sweeps.common.base import Sweep

SWEEPS = [
    found.name for found in pkgutil.iter_modules(ecgforge.sweeps.__path__) if found.name != "common"
]

# Sweeps with a stage of their own, since their cells or dependencies differ.
OWN_STAGE = (*("ablation", "backbones", "cross_dataset", "equal_size", "scratch"),)
# Sweeps of the stage `sweep_real`: a cell for each dataset.
ON_REAL = ("balanced_sampling", "self_supervised")
# Sweeps that train generators.
WITH_VARIATIONS = ("size", "ablation", "generator_seeds")
# Sweeps that read no trained classifiers, and need not wait for them.
WITHOUT_CLASSIFIERS = ("mixture",)
# Stages whose cells are split into `sweep_targets.parts`.
SPLIT = ("scratch", "backbones", "sweep", "sweep_real", "ablation", "cross_dataset")
# Sweeps of `sweep_targets.sweeps`: a cell of the stage `sweep` for each dataset and generator.
# `generator_seeds` is in that stage, too, and has generators of its own.
OF_GENERATORS = [name for name in SWEEPS if name not in (*OWN_STAGE, *ON_REAL, "generator_seeds")]


def stage(name: str) -> str:
    """Return the stage that runs the sweep `name`."""
    if name in OWN_STAGE:
        return name
    return "sweep_real" if name in ON_REAL else "sweep"


def get(name: str) -> Sweep:
    """Return the sweep `name`.

    Raises:
        EcgforgeError: there is no such sweep.
    """
    if name not in SWEEPS:
        raise EcgforgeError(f"unknown sweep '{name}': use one of {', '.join(SWEEPS)}")
    sweep: Sweep = plugins.load(f"ecgforge.sweeps.{name}:SWEEP")
    return sweep
