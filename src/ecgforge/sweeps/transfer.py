"""Fine-tune classifiers of synthetic records with growing shares of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self, get_args

from pydantic import Field, model_validator

from ecgforge.params import (
    UNFREEZINGS,
    ClassifierSettings,
    Method,
    Params,
    Shares,
    StrictConfig,
    Training,
    distinct,
)
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep


def _all_methods() -> list[Method]:
    return list(get_args(Method))


class Parameters(StrictConfig):
    """Shares of the real training records in percent, methods, and the training of each."""

    percents: Shares
    methods: Annotated[list[Method], Field(default_factory=_all_methods, min_length=1), distinct()]
    training: Training

    @model_validator(mode="after")
    def _methods_take_as_many_steps(self) -> Self:
        whole = UNFREEZINGS * self.training.evaluate_every
        if "gradual_unfreezing" in self.methods and self.training.steps % whole:
            raise ValueError(
                f"training.steps = {self.training.steps}: gradual unfreezing takes a third of them "
                f"{UNFREEZINGS} times, each a multiple of evaluate_every; choose a multiple of "
                f"{whole}"
            )
        return self


class Transfer(Sweep):
    """The classifiers of TrSTeR, fine-tuned by each method; plain and augmented."""

    Parameters = Parameters

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        parameters = self.parameters(params)
        rows: list[Experiment] = []
        for seed in params.active.sweeps.seeds:
            for percent in parameters.percents:
                for method in parameters.methods:
                    tuned = Experiment(
                        *("TrSTeR", dataset, params.backbone, seed, generator),
                        sweep=f"fine-tuning, {method}",
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


SWEEP = Transfer()
