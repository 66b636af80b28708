"""Where networks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ecgforge.params import Compute

RECORDS = 0.5  # of the free memory of a GPU: record sets that need more stay on disk


def on_gpu(compute: Compute) -> bool:
    """Return whether networks run on a GPU: it is wanted, and there is one."""
    return compute.accelerator != "cpu" and torch.cuda.is_available()


def device(compute: Compute, gpu: int = 0) -> torch.device:
    """Return the device of networks: the CPU, or a GPU by its number."""
    return torch.device(f"cuda:{gpu}" if on_gpu(compute) else "cpu")


def set_up(compute: Compute) -> None:
    """Set the number of threads, and on a GPU the precision of products of float32 (TF32)."""
    torch.set_num_threads(compute.threads)
    if on_gpu(compute):
        torch.set_float32_matmul_precision("high")


def precision(compute: Compute) -> str:
    """Return the floating-point format of a training, in Lightning's terms."""
    if compute.precision != "auto":
        return compute.precision
    return "bf16-mixed" if on_gpu(compute) else "32-true"


def autocast(compute: Compute) -> torch.autocast:
    """Return a context with the precision of a training on a GPU, and without effect on a CPU."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision(compute))
    return torch.autocast(device(compute).type, kind, enabled=on_gpu(compute) and kind is not None)


@contextmanager
def placed(module: nn.Module, compute: Compute) -> Iterator[None]:
    """Move a module to the device of trainings, with their precision on a GPU, and back to the CPU
    at the end of the block.
    """
    module.to(device(compute))
    try:
        with autocast(compute):
            yield
    finally:
        module.cpu()


def has_room(place: torch.device, size: int) -> bool:
    """Return whether a device should hold records of `size` bytes: it is a GPU, and they fit in
    half of its free memory. Memory that torch keeps for later is free.
    """
    if place.type != "cuda":
        return False
    kept = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return size <= RECORDS * (torch.cuda.mem_get_info(place)[0] + kept)


def is_asynchronous(place: torch.device) -> bool:
    """Return whether the program waits for the device only where it reads a result."""
    return place.type != "cpu"
