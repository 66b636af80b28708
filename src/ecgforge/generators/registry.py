"""The generators by name. A new one is a file with a `base.Generator` in it, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ecgforge.errors import EcgforgeError
from ecgforge.params import GeneratorSettings, checked

if TYPE_CHECKING:
    from ecgforge.generators.base import Generator

GENERATORS = {
    "diffwave": "ecgforge.generators.diffwave:DiffWave",
    "time_diffusion": "ecgforge.generators.time_diffusion:TimeDiffusion",
    "time_vqvae": "ecgforge.generators.time_vqvae:TimeVQVAE",
    "beat_diffusion": "ecgforge.generators.beat_diffusion:BeatDiffusion",
}


def generator_class(name: str) -> type[Generator]:
    """Import the class of the generator `name`; the module, and torch with it, is loaded only now.

    Raises:
        EcgforgeError: no generator has that name.
    """
    if name not in GENERATORS:
        raise EcgforgeError(f"'{name}' is no generator: known are {', '.join(GENERATORS)}")
    module, attribute = GENERATORS[name].split(":")
    return getattr(import_module(module), attribute)


def generator_name(kind: type[Generator]) -> str:
    """Return the name under which a generator's class is registered."""
    return next(name for name, path in GENERATORS.items() if path == f"{kind.__module__}:{kind.__qualname__}")


def check_settings(name: str, settings: GeneratorSettings, where: str) -> None:
    """Check what only the generator itself knows of its parameters.

    Raises:
        EcgforgeError: the generator is unknown, or its network, phases or sampling are not what it takes; names the key.
    """
    try:
        kind = generator_class(name)
    except EcgforgeError as error:
        raise EcgforgeError(f"{where}: {error}") from None
    checked(kind.Network, settings.network, f"{where}.network")
    checked(kind.Sampling, settings.sampling, f"{where}.sampling")
    if set(settings.training) != set(kind.phases):
        raise EcgforgeError(f"{where}.training: {name} has the phases {', '.join(kind.phases)}, not {', '.join(settings.training)}")
