"""The longest chain of cells, each of which waits for the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ecgforge.commands.workload import Counts, Work, workload
from ecgforge.params import Params
from ecgforge.sweeps.common import cells
from ecgforge.sweeps.common import registry as sweeps
from ecgforge.sweeps.common.fine_tuning import FineTuning

Seconds = Callable[[Mapping[str, Work]], Mapping[str, float]]  # of the work of stages


def longest_chain(params: Params, real: Counts, seconds: Seconds) -> float:
    """Return the seconds of the longest chain of cells, each of which waits for the one before.

    More processes or GPUs do not make the study faster than this. A cell counts as the mean of its
    stage, for one dataset and one generator.
    """
    return max(
        _chain(only(params, dataset, generator), real, seconds)
        for dataset in params.datasets
        for generator in params.generators
    )


def only(params: Params, dataset: str, generator: str) -> Params:
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


def _chain(params: Params, real: Counts, seconds: Seconds) -> float:
    works = workload(params, real)
    cell = {name: total / works[name].cells for name, total in seconds(works).items() if total}

    def chain(*stages: str) -> float:
        return sum(cell.pop(stage, 0.0) for stage in stages)

    prepared, rounds = chain("resolve", "acquire", "prepare, merge"), chain("cross_fit")
    searched, tuned = chain("tune_generator"), chain("tune_classifier")
    trained = searched + chain("train_generator")
    generated = trained + chain("synthesize")
    # the training for a sweep does not wait for a search of the sampling alone
    after = any(params.generator(name).tunes_training for name in params.generators)
    varied = searched * after + chain(cells.VARIATIONS)
    on_real = tuned + chain("classify_real")
    classified = max(on_real, generated) + chain("classify")
    tested_elsewhere, last = chain("cross_dataset"), chain("report")
    starts = {  # of those that wait for more or less than others
        "quality": max(on_real, generated),
        "equal_size": on_real,
        "backbones": generated,
        **dict.fromkeys(sweeps.WITH_VARIATIONS, max(tuned, generated, varied)),
        "ablation": max(tuned, trained, varied),
        **dict.fromkeys(("scratch", *sweeps.ON_REAL), tuned),
    }
    for name in sweeps.SWEEPS:
        if isinstance(sweeps.get(name), FineTuning):
            starts[name] = classified  # it starts from the classifiers of `classify`
    others = [starts.get(name, max(tuned, generated)) + time for name, time in cell.items()]
    # no round of cross-fitting is tested on another dataset
    longest = max(rounds + max([classified, *others]), classified + tested_elsewhere)
    return prepared + longest + last
