"""The work of a profile: cells, trainings and records to generate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ecgforge import grid
from ecgforge.params import Params
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.study import mixtures

Counts = Mapping[str, Mapping[str, int]]  # training records by dataset and rhythm


@dataclass
class Work:
    """The work of all cells of a stage."""

    stage: str
    cells: int = 0  # of DVC
    steps: Counter[str] = field(default_factory=Counter)  # of classifiers, by backbone
    trainings: Counter[str] = field(default_factory=Counter)  # of generators and their variations
    records_generated: Counter[str] = field(default_factory=Counter)  # by generator
    scored: float = 0.0  # record sets with quality scores; one without intervals is a third
    searched: list[tuple[int, int]] = field(default_factory=list)  # synthetic, real: for copies


class _Works(dict[str, Work]):
    def cell(self, stage: str, count: int = 1) -> Work:
        """Count a cell, and return the work of its stage."""
        self.setdefault(stage, Work(stage)).cells += count
        return self[stage]


def workload(params: Params, real: Counts) -> Iterable[Work]:
    """Return the work of each stage, in the order of the study, as if no trial were pruned.

    Args:
        params: the parameters.
        real: training records by dataset and rhythm, known or expected.
    """
    works, tuning = _Works(), params.classifier.tuning
    works.cell("resolve")
    works.cell("acquire", len(params.sources))
    works.cell("prepare, merge", len(params.sources) + bool(params.merged))
    works.cell("cross_fit", len(params.rounds))
    steps = tuning.n_trials * tuning.repeats * params.classifier.training.steps
    for dataset in params.record_sets:
        works.cell("tune_classifier").steps[params.backbone] += steps
        for generator in params.generators:
            _count_generator(works, params, generator, real[dataset])
    for cell in grid.cells(params):
        work = works.cell(cell.sweep.name if cell.sweep else cell.stage)
        _count_cell(work, params, cell, real[cell.item.get("trained_on", cell.item["dataset"])])
    works.cell("report")
    return works.values()


def _count_generator(works: _Works, params: Params, name: str, real: Mapping[str, int]) -> None:
    """Count a generator of a dataset: tuning, training, records and their scores."""
    tuning, tuned = params.generator(name).tuning, works.cell("tune_generator")
    # Trials that differ only in sampling share a training.
    shared = all(key.startswith("sampling.") for key in tuning.space)
    tuned.trainings[name] += min(tuning.n_trials, 1) if shared else tuning.n_trials
    tuned.records_generated[name] += tuning.n_trials * tuning.records * len(RHYTHMS)
    # The stage takes up the training of the best trial.
    works.cell("train_generator").trainings[name] += not tuning.n_trials
    wanted = mixtures.requested(tuple(real), params.active.synthesis, sum(real.values()))
    works.cell("synthesize").records_generated[name] += _total(wanted)
    quality = works.cell("quality")
    quality.scored += 1
    quality.searched.append((sum(wanted["train"].values()), sum(real.values())))


def _count_cell(work: Work, params: Params, cell: grid.Cell, real: Mapping[str, int]) -> None:
    for row in cell.experiments:
        if row.trains:
            own = cell.sweep.settings(params, row) if cell.sweep else params.classifier
            work.steps[row.backbone] += own.training.steps
    if cell.sweep and (pretraining := cell.sweep.pretraining(params)):
        # once for each seed, with two views of each record; in steps of the classifier's batch
        views = 2 * pretraining.batch_size * pretraining.steps
        seeds = len({row.seed for row in cell.experiments})
        work.steps[params.backbone] += seeds * views // params.classifier.training.batch_size
    for source in cell.sources:
        if cell.sweep and source.settings:
            work.trainings[source.generator] += source.needs_training(params)
            wanted = cell.sweep.wanted(params, real, source)
            work.records_generated[source.generator] += _total(wanted)
            work.scored += cell.sweep.scored / 3


def _total(wanted: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(counts.values()) for counts in wanted.values())
