"""TrRSTeR with growing numbers of synthetic records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ecgforge.params import Params, Percents, StrictConfig
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep


class Parameters(StrictConfig):
    """The numbers of synthetic records, in percent of the real training records."""

    percents: Percents


class Mixture(Sweep):
    """Synthetic records in the proportions of the real ones, or to balance the rare rhythms."""

    Parameters = Parameters

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        rows: list[Experiment] = []
        for seed in params.active.sweeps.seeds:
            for mode in mixtures.MODES:
                for percent in self.parameters(params).percents:
                    place = (f"{self.name}, {mode}", f"{percent:g}")
                    mixed = Experiment("TrRSTeR", dataset, params.backbone, seed, generator, *place)
                    rows += plain_and_augmented(mixed)
        yield Source(rows, generator, settings=params.generator(generator))

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
        return TrainingData([train, mixed_in], [real.split("validation")])


def _counts(real: Mapping[str, int], experiment: Experiment) -> dict[str, int]:
    mode = next(mode for mode in mixtures.MODES if experiment.sweep.endswith(mode))
    number = round(sum(real.values()) * float(experiment.point) / 100)
    return mixtures.allotment(real, number, mode)


SWEEP = Mixture()
