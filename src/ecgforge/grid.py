"""The grid of the study: every cell of DVC that trains classifiers, and its experiments.

The stages, the plan, the claims, the report and the command line read the experiments from here.
An experiment is a row, see `study.experiment.Experiment`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ecgforge import folders
from ecgforge.params import Params
from ecgforge.study import settings
from ecgforge.study.experiment import KEYS, Experiment
from ecgforge.sweeps.common import cells as sweep_cells
from ecgforge.sweeps.common.base import Item, Source, Sweep
from ecgforge.sweeps.common.registry import get


@dataclass(frozen=True)
class Cell:
    """A cell of DVC that trains classifiers.

    Attributes:
        stage: its stage in dvc.yaml.
        item: its values of the stage's matrix.
        sources: sets of synthetic records with the experiments that use them.
        sweep: its sweep, or None for the settings.
    """

    stage: str
    item: Item
    sources: list[Source]
    sweep: Sweep | None = None

    @property
    def results(self) -> Path:
        """The folder of its predictions."""
        if self.sweep is None:
            place = self.item.get("generator", folders.REAL)
            return folders.RESULTS / "classify" / self.item["dataset"] / place
        return sweep_cells.results(self.sweep.name, self.item)

    @property
    def experiments(self) -> list[Experiment]:
        """Its rows of the grid."""
        return [row for source in self.sources for row in source.experiments]


def cells(params: Params) -> Iterator[Cell]:
    """Yield the cells in the order of the stages in dvc.yaml."""
    for dataset in params.record_sets:
        rows = list(settings.on_real(params, dataset))
        yield Cell("classify_real", {"dataset": dataset}, [Source(rows)])
    for item in sweep_cells.pairs(params.record_sets, params.generators):
        rows = list(settings.on_synthetic(params, item["dataset"], item["generator"]))
        yield Cell("classify", item, [Source(rows, item["generator"])])
    for stage, name, item in sweep_cells.cells(params):
        sweep = get(name)
        yield Cell(stage, item, sweep.sources_of(params, item), sweep)


def table(params: Params) -> pd.DataFrame:
    """Return the grid, a row for each experiment with the columns `KEYS`."""
    rows = [row.keys for cell in cells(params) for row in cell.experiments]
    return pd.DataFrame(rows, columns=KEYS)
