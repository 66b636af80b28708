"""The longest chain of cells, each of which waits for the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ecgforge.commands.workload import Counts, Work, workload
from ecgforge.params import Params
from ecgforge.sweeps.common import registry as sweeps
from ecgforge.sweeps.common.fine_tuning import FineTuning

Seconds = Callable[[Mapping[str, Work]], Mapping[str, float]]  # of the work of stages


def longest_chain(params: Params, real: Counts, seconds: Seconds) -> float:
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


def _chain(params: Params, real: Counts, seconds: Seconds) -> float:
    works = workload(params, real)
    cell = {name: total / works[name].cells for name, total in seconds(works).items() if total}

    def chain(*stages: str) -> float:
        return sum(cell.pop(stage, 0.0) for stage in stages)

    prepared = chain("resolve", "acquire", "prepare, merge", "cross_fit")
    generated = chain("tune_generator", "train_generator", "synthesize")
    tuned, classified, last = chain("tune_classifier"), chain("classify"), chain("report")
    # fine-tuning starts from the classifiers of `classify`
    waits = {name for name in sweeps.SWEEPS if isinstance(sweeps.get(name), FineTuning)}
    others = [time + classified * (stage in waits) for stage, time in cell.items()]
    return prepared + max(tuned, generated) + max([classified, *others]) + last
