"""ecgforge: does synthetic ECG help an arrhythmia classifier, on your data?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgforge.api import (
        EcgforgeError,
        RecordSet,
        classify,
        compare,
        draw,
        evaluate,
        load,
        load_params,
        load_records,
        save,
        score,
        simulate_records,
        synthesize,
        train_classifier,
        train_generator,
    )

__version__ = "0.1.0"

__all__ = [
    "EcgforgeError",
    "RecordSet",
    "classify",
    "compare",
    "draw",
    "evaluate",
    "load",
    "load_params",
    "load_records",
    "save",
    "score",
    "simulate_records",
    "synthesize",
    "train_classifier",
    "train_generator",
]


def __getattr__(name: str) -> Any:
    """Import the API at its first use: the command line needs no torch."""
    if name in __all__:
        return getattr(importlib.import_module("ecgforge.api"), name)
    raise AttributeError(f"module 'ecgforge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
