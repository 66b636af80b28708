"""Pre-train classifiers without labels on the real training records, then fine-tune them.

A rival of pre-training on synthetic records: the sweep `transfer` fine-tunes all weights with the
same shares of the real records and as many steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import ClassifierSettings, Params, PreTraining, StrictConfig
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep
from ecgforge.sweeps.transfer import SWEEP as TRANSFER


class Parameters(StrictConfig):
    """The training without labels; that with labels is of the sweep `transfer`."""

    pretraining: PreTraining


class SelfSupervised(Sweep):
    """Classifiers with pre-trained features and a new head, fine-tuned; plain and augmented."""

    Parameters = Parameters
    keys = ("dataset",)

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        yield Source([*self.on_real(params, item, TRANSFER.parameters(params).percents)])

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        return mixtures.share_of(real, float(experiment.point), experiment.seed)

    def settings(self, params: Params, experiment: Experiment) -> ClassifierSettings:
        return TRANSFER.settings(params, experiment)

    def pretraining(self, params: Params) -> PreTraining:
        found: PreTraining = self.parameters(params).pretraining
        return found


SWEEP = SelfSupervised()
