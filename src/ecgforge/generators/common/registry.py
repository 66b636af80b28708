"""The registry of generators by name.

A generator is a package in `ecgforge.generators`; its `GENERATOR` is a `base.Generator`.
"""

from __future__ import annotations

import pkgutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ecgforge.generators
from ecgforge import plugins
from ecgforge.errors import EcgforgeError
from ecgforge.params import GeneratorSettings, checked

if TYPE_CHECKING:
    from torch import Tensor

    from ecgforge.generators.common.base import Generator, Shape
    from ecgforge.training.saved import Build

DESCRIPTION = "generator.json"
SHARED = ("common", "diffusion")  # packages that several generators use
GENERATORS = {
    found.name: f"ecgforge.generators.{found.name}:GENERATOR"
    for found in pkgutil.iter_modules(ecgforge.generators.__path__)
    if found.ispkg and found.name not in SHARED
}


def generator_class(name: str) -> type[Generator]:
    """Import the class of a generator, and torch with it.

    Raises:
        EcgforgeError: the generator is unknown.
    """
    if name not in GENERATORS:
        raise EcgforgeError(f"unknown generator '{name}': use one of {', '.join(GENERATORS)}")
    return plugins.load(GENERATORS[name])


def generator_name(kind: type[Generator]) -> str:
    """Return the name of a generator's class."""
    return next(
        name for name, path in GENERATORS.items() if kind.__module__.startswith(path.split(":")[0])
    )


def check_settings(name: str, settings: GeneratorSettings, where: str) -> GeneratorSettings:
    """Check parameters against the schema of the generator.

    Returns:
        The settings, with the defaults of its network, sampling and search space.

    Raises:
        EcgforgeError: the generator is unknown, or a parameter is invalid; the message has its key.
    """
    try:
        kind = generator_class(name)
    except EcgforgeError as error:
        raise EcgforgeError(f"{where}: {error}") from None
    network = checked(kind.Network, settings.network, f"{where}.network")
    sampling = checked(kind.Sampling, settings.sampling, f"{where}.sampling")
    if set(settings.training) != set(kind.phases):
        raise EcgforgeError(
            f"{where}.training: {name} has the phases {', '.join(kind.phases)}, not "
            f"{', '.join(settings.training)}"
        )
    tuning = settings.tuning.model_copy(update={"space": settings.tuning.space or {**kind.space}})
    parts = {"network": network.model_dump(), "sampling": sampling.model_dump(), "tuning": tuning}
    return settings.model_copy(update=parts)


def create(name: str, shape: Shape, network: dict[str, Any], scale: Tensor, seed: int) -> Generator:
    """Build the generator `name` with weights initialised from `seed`.

    Raises:
        EcgforgeError: the name is unknown, or a network parameter is invalid.
    """
    import torch

    kind = generator_class(name)
    settings = checked(kind.Network, network, f"generators.{name}.network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(shape, settings, scale)


def save(generator: Generator, folder: Path) -> None:
    """Write the weights and the description to `folder`; equal weights give equal bytes."""
    from ecgforge.training import saved

    description = {
        "name": generator_name(type(generator)),
        "shape": asdict(generator.shape),
        "network": generator.network.model_dump(mode="json"),
    }
    saved.write(generator, description, folder, DESCRIPTION)


def load(folder: Path, label: str = "") -> Generator:
    """Read a generator that `save` wrote, on the CPU and in evaluation mode.

    Args:
        folder: the folder of its files.
        label: name of the model version, for messages.

    Raises:
        EcgforgeError: the folder has no generator, or an incomplete one.
    """
    from ecgforge.generators.common.base import Shape
    from ecgforge.training import saved

    def described(about: Any, where: str) -> Build[Generator]:
        kind, shape = generator_class(about["name"]), Shape(**about["shape"])
        network = checked(kind.Network, about["network"], where)
        return lambda weights: kind(shape, network, weights["scale"])

    return saved.read(Path(folder), DESCRIPTION, "generator", described, label)
