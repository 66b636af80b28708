"""TrRTeR with other frequencies of the rhythms in training batches.

Synthetic records change how often a classifier sees each rhythm. Sampling of the real records does
the same without a generator, so it is a rival of synthetic records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from ecgforge.params import ClassifierSettings, Params, Share, StrictConfig, distinct
from ecgforge.study.experiment import Experiment
from ecgforge.sweeps.common.base import Item, Source, Sweep

EQUAL = "1"  # the point at which all rhythms are equally frequent


class Parameters(StrictConfig):
    """The values of `class_balance_power`: 0 keeps the frequencies, 1 equalises them."""

    powers: Annotated[
        list[Share], Field(default_factory=lambda: [1.0], min_length=1), distinct("{:g}".format)
    ]


class BalancedSampling(Sweep):
    """All real training records, sampled with each power; plain and augmented."""

    Parameters = Parameters
    keys = ("dataset",)

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        yield Source([*self.on_real(params, item, self.parameters(params).powers)])

    def settings(self, params: Params, experiment: Experiment) -> ClassifierSettings:
        settings = params.classifier_settings(experiment.backbone)
        power = {"class_balance_power": float(experiment.point)}
        training = settings.training.model_copy(update=power)
        return settings.model_copy(update={"training": training})


SWEEP = BalancedSampling()
