"""Classes that are found by the name of their module: generators, backbones and sweeps."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ecgforge.errors import EcgforgeError


def load(path: str) -> Any:
    """Return the attribute of "module:ATTRIBUTE"; the module is imported now.

    Raises:
        EcgforgeError: the module does not have it.
    """
    module, attribute = path.split(":")
    try:
        return getattr(import_module(module), attribute)
    except AttributeError:
        raise EcgforgeError(f"{module} has no {attribute}: end it with {attribute} = ...") from None
