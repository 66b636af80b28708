"""The work of a profile: cells, trainings and records to generate."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ecgforge import grid
from ecgforge.params import Params
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.study import mixtures
from ecgforge.sweeps.common import cells as sweep_cells
from ecgforge.sweeps.common import registry as sweeps

Rhythms = Mapping[str, int]  # training records by rhythm
Counts = Mapping[str, Rhythms]  # by dataset


@dataclass
class Work:
    """The work of all cells of a stage."""

    cells: int = 0  # of DVC
    steps: Counter[str] = field(default_factory=Counter)  # of classifiers, by backbone
    trainings: Counter[str] = field(default_factory=Counter)  # of generators and their variations
    records_generated: Counter[str] = field(default_factory=Counter)  # by generator
    scored: float = 0.0  # record sets with quality scores; one without intervals is a third
    searched: list[tuple[int, int]] = field(default_factory=list)  # synthetic, real: for copies


def workload(params: Params, real: Counts) -> dict[str, Work]:
    """Return the work by stage, in the order of the study, as if no trial were pruned.

    Args:
        params: the parameters.
        real: training records by dataset and rhythm, known or expected.
    """
    works, tuning = defaultdict[str, Work](Work), params.classifier.tuning
    works["resolve"].cells = 1
    works["acquire"].cells = len(params.sources)
    works["prepare, merge"].cells = len(params.sources) + bool(params.merged)
    works["cross_fit"].cells = len(params.rounds)
    steps = tuning.n_trials * tuning.repeats * params.classifier.training.steps
    for dataset in params.record_sets:
        works["tune_classifier"].cells += 1
        works["tune_classifier"].steps[params.backbone] += steps
        for generator in params.generators:
            _count_generator(works, params, generator, real[dataset])
    for item in sweep_cells.of_variations(params):
        works[sweep_cells.VARIATIONS].cells += 1
        for source in sweeps.get(item["sweep"]).variations(params, item):
            works[sweep_cells.VARIATIONS].trainings[source.generator] += 1
    for cell in grid.cells(params):
        work = works[cell.sweep.name if cell.sweep else cell.stage]
        _count_cell(work, params, cell, real[cell.item.get("trained_on", cell.item["dataset"])])
    works["report"].cells = 1
    return works


def _count_generator(works: dict[str, Work], params: Params, name: str, real: Rhythms) -> None:
    """Count a generator of a dataset: tuning, training, records and their scores."""
    tuning, tuned = params.generator(name).tuning, works["tune_generator"]
    # trials that change the sampling alone share a training
    several = params.generator(name).tunes_training
    tuned.trainings[name] += tuning.n_trials if several else min(tuning.n_trials, 1)
    tuned.records_generated[name] += tuning.n_trials * tuning.records * len(RHYTHMS)
    # The stage takes up the training of the best trial.
    works["train_generator"].trainings[name] += not tuning.n_trials
    wanted = mixtures.requested(tuple(real), params.active.synthesis, sum(real.values()))
    works["synthesize"].records_generated[name] += _total(wanted)
    works["quality"].scored += 1
    works["quality"].searched.append((sum(wanted["train"].values()), sum(real.values())))
    for stage in ("tune_generator", "train_generator", "synthesize", "quality"):
        works[stage].cells += 1


def _count_cell(work: Work, params: Params, cell: grid.Cell, real: Rhythms) -> None:
    work.cells += 1
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
            wanted = cell.sweep.wanted(params, real, source)
            work.records_generated[source.generator] += _total(wanted)
            work.scored += cell.sweep.scored / 3


def _total(wanted: Mapping[str, Rhythms]) -> int:
    return sum(sum(counts.values()) for counts in wanted.values())
