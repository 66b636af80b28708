"""The interface between the study's order of cells (`cells`) and the engines that run them.

`local` runs cells on this machine, `ray_cluster` on the nodes of a Ray cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ecgforge import folders

if TYPE_CHECKING:
    from ecgforge.params import Params, Tuning

TUNES = ("tune_classifier", "tune_generator")

# GPUs of a cell by stage: small classifiers share one. Other stages use the CPU alone.
GPUS = {
    "train_generator": 1.0,
    "train_variations": 1.0,
    "tune_generator": 1.0,
    "synthesize": 1.0,
    "ablation": 1.0,
    "sweep": 1.0,
    "tune_classifier": 0.25,
    "classify_real": 0.25,
    "classify": 0.25,
    "scratch": 0.25,
    "backbones": 0.25,
    "sweep_real": 0.25,
    "cross_dataset": 0.25,
    "equal_size": 0.25,
}


@dataclass(frozen=True)
class Cell:
    """A stage of dvc.yaml with the values of its matrix.

    Attributes:
        name: in DVC, such as `classify@ptbxl-diffwave`.
        above: the cells whose outputs it reads.
        waits: those of them that have to run first.
    """

    name: str
    above: frozenset[str] = frozenset()
    waits: frozenset[str] = frozenset()

    @property
    def stage(self) -> str:
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Needs:
    """What a cell occupies while it runs."""

    cores: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Ended:
    """The end of a cell.

    Attributes:
        succeeded: whether its outputs are complete.
        place: the machine or node that ran it; empty on this machine.
        output: the last lines that it printed, if they were not shown yet.
        entry: its entry for dvc.lock, if DVC has not written it here.
    """

    succeeded: bool
    place: str = ""
    output: str = ""
    entry: dict[str, Any] | None = None


class Engine(Protocol):
    """Runs cells.

    Attributes:
        slots: how many cells to submit at a time; None without a limit.
    """

    slots: int | None

    def submit(self, cell: Cell, needs: Needs) -> Future[Ended]:
        """Run a cell whose predecessors are done."""

    def news(self) -> Iterable[str]:
        """Return lines about what has started since the last call."""

    def start_no_more(self) -> None:
        """Let running cells finish, and start none of those that wait."""

    def interrupt(self) -> None:
        """End all running cells, and wait for their ends."""


def needs(cell: Cell, params: Params) -> Needs:
    """Return what a cell occupies, by its stage and the parameters in `compute`."""
    compute = params.active.compute
    gpus = 0.0 if compute.accelerator == "cpu" else GPUS.get(cell.stage, 0.0)
    return Needs(compute.threads if cell.stage in GPUS else 1, gpus)


def workers(cell: Cell, params: Params) -> int:
    """Return how many machines run the trials of a cell at a time; 0 if it has none.

    Trials of a generator that change only its sampling share a training, so one machine runs them.
    Others leave their trainings in `ECGFORGE_STATE`, for the stage that trains the best one.
    """
    if short(cell, params) or cell.stage not in TUNES:
        return 0
    if cell.stage == "tune_classifier":
        tuning: Tuning = params.classifier.tuning
        return min(tuning.workers, tuning.n_trials)
    settings = params.generator(cell.name.rpartition("-")[2])
    apart = settings.tunes_training and os.environ.get(folders.STATE)
    return min(settings.tuning.workers, settings.tuning.n_trials) if apart else 1


def short(cell: Cell, params: Params) -> bool:
    """Return whether a cell takes no longer than its transfer to another machine would, or reads
    the results of all cells.
    """
    if cell.stage == "tune_classifier":
        return not params.classifier.tuning.n_trials
    if cell.stage == "tune_generator":
        generator = cell.name.rpartition("-")[2]
        return not params.generator(generator).tuning.n_trials
    return cell.stage in ("resolve", "acquire", "report")
