"""Where networks run."""

from __future__ import annotations

import torch

from ecgforge.params import Compute


def on_gpu(compute: Compute) -> bool:
    """Return whether networks run on a GPU: it is wanted, and there is one."""
    return compute.accelerator != "cpu" and torch.cuda.is_available()
