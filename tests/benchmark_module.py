"""Imports a file of benchmarks/, which is not a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """Import benchmarks/<name>.py as a module with another name."""
    known = f"benchmark_{name}"
    spec = importlib.util.spec_from_file_location(known, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[known] = importlib.util.module_from_spec(spec)  # dataclasses look for it
    spec.loader.exec_module(module)
    return module
