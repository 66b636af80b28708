"""The settings with other classifiers; real records alone serve all generators."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.sweeps.common.base import Item, Source, Sweep


class Backbones(Sweep):
    """TrRTeR, TrSTeR and TrRSTeR of one backbone; all but TrSTeR also augmented."""

    keys = ("dataset", "backbone")

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        seeds, row = params.active.sweeps.seeds, (item["dataset"], item["backbone"])
        on_real = [Experiment("TrRTeR", *row, seed, sweep=self.name) for seed in seeds]
        yield Source([one for plain in on_real for one in plain_and_augmented(plain)])
        for generator in params.sweep_targets.generators:
            rows = []
            for seed in seeds:
                rows.append(Experiment("TrSTeR", *row, seed, generator, self.name))
                mixed = Experiment("TrRSTeR", *row, seed, generator, self.name)
                rows += plain_and_augmented(mixed)
            yield Source(rows, generator)


SWEEP = Backbones()
