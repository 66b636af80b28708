"""Generators and classifiers that learn from a share of the real records."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params, Shares, StrictConfig
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep


class Parameters(StrictConfig):
    """Shares of the real training records, in percent."""

    percents: Shares


class Size(Sweep):
    """A generator of each share, and classifiers that have the same real records and no others.

    TrSTeR has as many synthetic records at every share.
    """

    Parameters = Parameters

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        for percent in self.parameters(params).percents:
            point = f"{percent:g}"
            rows: list[Experiment] = []
            for seed in params.active.sweeps.seeds:
                for setting in ("TrRTeR", "TrSTeR", "TrRSTeR"):
                    place = (dataset, params.backbone, seed, generator, self.name, point)
                    plain = Experiment(setting, *place)
                    rows += [plain] if setting == "TrSTeR" else plain_and_augmented(plain)
            yield Source(rows, generator, point, params.generator(generator), percent)

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        seed = params.generator(experiment.generator).seed  # as the generator's share
        few = mixtures.share(real, float(experiment.point), seed)
        return super().training_data(params, experiment, few, synthetic)


SWEEP = Size()
