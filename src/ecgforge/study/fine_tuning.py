"""Methods of fine-tuning: which parts of a classifier each phase trains."""

from __future__ import annotations

from typing import Literal

Method = Literal["full", "linear_probe", "gradual_unfreezing", "early_layers_frozen"]
UNFREEZINGS = 3  # phases of gradual unfreezing


def phases(method: Method, depth: int) -> list[int]:
    """Return how many parts of a classifier each phase trains, counted from the head down.

    Gradual unfreezing: Howard & Ruder, ACL 2018, sec. 3.3.

    Args:
        depth: the number of parts, head included.
    """
    if method == "linear_probe":
        return [1]
    if method == "gradual_unfreezing":
        return sorted({1, -(-depth // 2), depth})
    if method == "early_layers_frozen":
        return [-(-depth // 2)]
    return [depth]
