"""TrRSTeR with growing numbers of synthetic records, in addition to real ones or in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from ecgforge.params import Params, Percents, StrictConfig, distinct
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep

REPLACE = "replace"  # the mode in which synthetic records take the place of real ones


class Parameters(StrictConfig):
    """The numbers of synthetic records, in percent of the real training records."""

    percents: Percents  # in addition to all real records
    # in place of as many real records of each rhythm
    replaced: Annotated[
        list[Annotated[float, Field(gt=0, lt=100)]],
        Field(default_factory=list),
        distinct("{:g}".format),
    ]


class Mixture(Sweep):
    """Synthetic records in the proportions of the real ones, to balance the rare rhythms, or in
    place of real ones.
    """

    Parameters = Parameters

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        rows: list[Experiment] = []
        for seed in params.active.sweeps.seeds:
            for mode, percent in self._points(params):
                place = (f"{self.name}, {mode}", f"{percent:g}")
                mixed = Experiment("TrRSTeR", dataset, params.backbone, seed, generator, *place)
                rows += plain_and_augmented(mixed)
        yield Source(rows, generator, settings=params.generator(generator))

    def _points(self, params: Params) -> Iterator[tuple[str, float]]:
        own = self.parameters(params)
        for mode in mixtures.MODES:
            yield from ((mode, percent) for percent in own.percents)
        yield from ((REPLACE, percent) for percent in own.replaced)

    def wanted(
        self, params: Params, real: Mapping[str, int], source: Source
    ) -> Mapping[str, Mapping[str, int]]:
        mixed = [_counts(real, row) for row in source.experiments]
        return {"train": {rhythm: max(counts[rhythm] for counts in mixed) for rhythm in real}}

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        assert synthetic is not None
        train = real.split("train")
        counts = _counts(train.counts(), experiment)
        mixed_in = mixtures.first(synthetic.split("train"), counts)
        if experiment.sweep.endswith(REPLACE):
            train = mixtures.without(train, counts, experiment.seed)
        return TrainingData([train, mixed_in], [real.split("validation")])


def _counts(real: Mapping[str, int], experiment: Experiment) -> dict[str, int]:
    balanced = experiment.sweep.endswith("balance")
    number = round(sum(real.values()) * float(experiment.point) / 100)
    return mixtures.allotment(real, number, "balance" if balanced else "proportion")


SWEEP = Mixture()
