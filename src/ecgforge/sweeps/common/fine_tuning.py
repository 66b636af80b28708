"""Sweeps that fine-tune the classifiers of TrSTeR with shares of the real records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ecgforge.params import ClassifierSettings, ClassifierTraining, Params, Shares, StrictConfig
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.fine_tuning import Method
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep


class FineTuningParameters(StrictConfig):
    """Shares of the real training records in percent, and the training with each."""

    percents: Shares
    training: ClassifierTraining


class FineTuning(Sweep):
    """Classifiers of synthetic records, fine-tuned by some methods; plain and augmented."""

    Parameters: ClassVar[type[StrictConfig]] = FineTuningParameters

    @abstractmethod
    def methods(self, params: Params) -> Iterable[tuple[str, Method]]:
        """Yield the name of each comparison, and its method."""

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        rows: list[Experiment] = []
        for seed in params.active.sweeps.seeds:
            for percent in self.parameters(params).percents:
                for name, method in self.methods(params):
                    tuned = Experiment(
                        *("TrSTeR", dataset, params.backbone, seed, generator),
                        sweep=name,
                        point=f"{percent:g}",
                        start=f"{dataset}/{generator}/synthetic/seed-{seed}",
                        method=method,
                    )
                    rows += plain_and_augmented(tuned)
        yield Source(rows, generator)

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        return mixtures.share_of(real, float(experiment.point), experiment.seed)

    def settings(self, params: Params, experiment: Experiment) -> ClassifierSettings:
        training = self.parameters(params).training
        return super().settings(params, experiment).model_copy(update={"training": training})
