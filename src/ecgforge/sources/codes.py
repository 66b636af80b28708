"""Published label codes, from the data file rhythms.yaml."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def _tree() -> dict[str, Any]:
    # By path, not as `ecgforge.records`, since a source must not import that package.
    text = (resources.files("ecgforge") / "records" / "rhythms.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def rhythm_codes(*systems: str) -> dict[str, str]:
    """Map the codes of systems (`scp`, `snomed`, `plain`) to rhythms of the vocabulary."""
    return {
        code: rhythm
        for system in systems
        for code, rhythm in _tree()["codes"][system]["rhythms"].items()
    }


def other_rhythms(*systems: str) -> set[str]:
    """Return the codes of systems for rhythms outside the vocabulary."""
    return {code for system in systems for code in _tree()["codes"][system]["others"]}


def synonyms() -> dict[str, str]:
    """Map labels in words, in lower case, to codes."""
    return dict(_tree()["labels"]["synonyms"])


def ambiguous() -> dict[str, str]:
    """Map labels that sources use for several rhythms, in lower case, to the question."""
    return dict(_tree()["labels"]["ambiguous"])
