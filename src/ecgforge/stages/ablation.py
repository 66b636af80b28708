"""The sweep `ablation`: its variations of the generator are also scored."""

from __future__ import annotations

from pathlib import Path

from ecgforge.params import Params
from ecgforge.quality import assess
from ecgforge.stages import sweep
from ecgforge.sweeps.common.base import Item


def ablation(params: Params, item: Item, data: Path, models: Path, out: Path) -> None:
    """Run one cell of the ablations: see `stages.sweep.sweep`.

    Also writes `out`/variations.csv: the scores of each variation's records over all rhythms, and
    milliseconds for each generated record.
    """
    sweep.sweep(params, "ablation", item, data, models, out, assess.overall)
