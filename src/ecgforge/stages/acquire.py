"""Fill data/raw from a source."""

from __future__ import annotations

from pathlib import Path

from ecgforge.params import Params
from ecgforge.sources import registry


def acquire(params: Params, source: str, out: Path) -> None:
    """Write the raw WFDB records of `source` to `out`, in the layout in which they are published."""
    registry.acquire(params.source(source), out, params.preprocessing.sampling_rate)
