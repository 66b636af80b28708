"""Where networks run."""

from __future__ import annotations

import torch

from ecgforge.params import Compute

RECORDS = 0.5  # of the free memory of a GPU: record sets that need more stay on disk


def on_gpu(compute: Compute) -> bool:
    """Return whether networks run on a GPU: it is wanted, and there is one."""
    return compute.accelerator != "cpu" and torch.cuda.is_available()


def device(compute: Compute) -> torch.device:
    """Return the device of a training."""
    return torch.device("cuda:0" if on_gpu(compute) else "cpu")


def has_room(place: torch.device, size: int) -> bool:
    """Return whether a device should hold records of `size` bytes: it is a GPU, and they fit in
    half of its free memory.
    """
    return place.type == "cuda" and size <= RECORDS * torch.cuda.mem_get_info(place)[0]


def is_asynchronous(place: torch.device) -> bool:
    """Return whether the program waits for the device only where it reads a result."""
    return place.type != "cpu"
