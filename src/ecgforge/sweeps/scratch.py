"""TrRTeR with shares of the real records: the curve that fine-tuning is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep
from ecgforge.sweeps.transfer import SWEEP as TRANSFER


class Scratch(Sweep):
    """New weights, trained with each share that the sweep `transfer` fine-tunes with."""

    keys = ("dataset",)

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        percents = sorted({*TRANSFER.parameters(params).percents} - {100})
        yield Source([*self.on_real(params, item, percents)])

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        return mixtures.share_of(real, float(experiment.point), experiment.seed)


SWEEP = Scratch()
