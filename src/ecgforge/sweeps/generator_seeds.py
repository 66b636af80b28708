"""The same generator trained from several seeds."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params, Seeds, StrictConfig
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.sweeps.common.base import Item, Source, Sweep


class Parameters(StrictConfig):
    """Seeds of trainings of the generator, each with a classifier of the same seed."""

    seeds: Seeds


class GeneratorSeeds(Sweep):
    """TrSTeR and TrRSTeR, the latter also augmented.

    Each seed is that of a training of the generator as well, so that intervals over seeds include
    the difference between two trainings of the generator. One of them may be the study's own.
    """

    Parameters = Parameters

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        settings = params.generator(generator)
        for seed in self.parameters(params).seeds:
            row = (dataset, params.backbone, seed, generator, self.name)
            mixed = plain_and_augmented(Experiment("TrRSTeR", *row))
            rows = [Experiment("TrSTeR", *row), *mixed]
            seeded = settings.model_copy(update={"seed": seed})
            yield Source(rows, generator, f"seed {seed}", seeded)


SWEEP = GeneratorSeeds()
