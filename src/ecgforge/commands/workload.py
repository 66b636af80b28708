"""The work of a profile: cells, trainings and records to generate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ecgforge import grid
from ecgforge.params import Params
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.study import mixtures
from ecgforge.sweeps.common import registry as sweeps
from ecgforge.sweeps.common.fine_tuning import FineTuning

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
    embedded: int = 0  # synthetic and real records, for the search of copies
    compared: int = 0  # pairs of a synthetic and a real record, for the search of copies


def workload(params: Params, real: Counts) -> Iterator[Work]:
    """Yield the work of each stage, in the order of the study.

    Args:
        params: the parameters.
        real: training records by dataset and rhythm, known or expected.
    """
    yield Work("resolve", 1)
    yield Work("acquire", len(params.sources))
    yield Work("prepare, merge", len(params.sources) + bool(params.merged))
    yield Work("cross_fit", len(params.rounds))
    yield from _tuning(params)
    yield from _generators(params, real)
    yield from _classifiers(params, real)
    yield Work("report", 1)


def _tuning(params: Params) -> Iterator[Work]:
    """Count all trials, since pruning is not predictable."""
    sets, tuning = len(params.record_sets), params.classifier.tuning
    steps = sets * tuning.n_trials * tuning.repeats * params.classifier.training.steps
    yield Work("tune_classifier", sets, Counter({params.backbone: steps} if steps else {}))
    work = Work("tune_generator", sets * len(params.generators))
    for name in params.generators:
        one = params.generator(name).tuning
        if one.n_trials:
            # Trials that differ only in sampling share a training.
            shared = all(key.startswith("sampling.") for key in one.space)
            work.trainings[name] = sets * (1 if shared else one.n_trials)
            work.records_generated[name] = sets * one.n_trials * one.records * len(RHYTHMS)
    yield work


def _generators(params: Params, real: Counts) -> Iterator[Work]:
    train, synthesize, score = (
        Work(stage) for stage in ("train_generator", "synthesize", "quality")
    )
    for dataset in params.record_sets:
        known = real[dataset]
        wanted = mixtures.requested(tuple(known), params.active.synthesis, sum(known.values()))
        for generator in params.generators:
            for work in (train, synthesize, score):
                work.cells += 1
            train.trainings[generator] += 1
            synthesize.records_generated[generator] += _total(wanted)
            score.scored += 1
            made, there = sum(wanted["train"].values()), sum(known.values())
            score.embedded += made + there
            score.compared += made * there
    yield from (train, synthesize, score)


def _classifiers(params: Params, real: Counts) -> Iterator[Work]:
    works: dict[str, Work] = {}
    for cell in grid.cells(params):
        name = cell.sweep.name if cell.sweep else cell.stage
        _add(
            works.setdefault(name, Work(name)),
            params,
            cell,
            real[cell.item.get("trained_on", cell.item["dataset"])],
        )
    yield from works.values()


def _add(work: Work, params: Params, cell: grid.Cell, real: Mapping[str, int]) -> None:
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
            work.trainings[source.generator] += source.needs_training(params)
            work.records_generated[source.generator] += _total(
                cell.sweep.wanted(params, real, source)
            )
            work.scored += cell.sweep.scored / 3


def _total(wanted: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(counts.values()) for counts in wanted.values())


def longest_chain(params: Params, real: Counts, seconds: Callable[[Work], float]) -> float:
    """Return the seconds of the longest chain of cells, each of which waits for the one before.

    More processes or GPUs do not make the study faster than this. A cell counts as the mean of its
    stage, for one dataset and one generator.
    """
    return max(
        _chain(_only(params, dataset, generator), real, seconds)
        for dataset in params.datasets
        for generator in params.generators
    )


def _only(params: Params, dataset: str, generator: str) -> Params:
    """Return the part of the study with one dataset and one generator."""
    swept = params.sweep_targets
    targets = {
        "datasets": [one for one in swept.datasets if one == dataset],
        "generators": [one for one in swept.generators if one == generator],
        "generator_seeds": [one for one in swept.generator_seeds if one == generator],
        "cross_dataset": [pair for pair in swept.cross_dataset if pair.train == dataset],
        "equal_size": swept.equal_size if dataset == "merged" else [],
    }
    return params.model_copy(
        update={
            "datasets": [dataset],
            "generators": [generator],
            "sweep_targets": swept.model_copy(update=targets),
        }
    )


def _chain(params: Params, real: Counts, seconds: Callable[[Work], float]) -> float:
    cell = {work.stage: seconds(work) / work.cells for work in workload(params, real) if work.cells}

    def chain(*stages: str) -> float:
        return sum(cell.pop(stage, 0.0) for stage in stages)

    prepared = chain("resolve", "acquire", "prepare, merge", "cross_fit")
    generated = chain("tune_generator", "train_generator", "synthesize")
    tuned, classified, last = chain("tune_classifier"), chain("classify"), chain("report")
    # fine-tuning starts from the classifiers of `classify`
    waits = {name for name in sweeps.SWEEPS if isinstance(sweeps.get(name), FineTuning)}
    others = [time + classified * (stage in waits) for stage, time in cell.items()]
    return prepared + max(tuned, generated) + max([classified, *others]) + last
