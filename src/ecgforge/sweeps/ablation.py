"""Change one thing of the generator at a time: quality, TrSTeR and cost of each variation."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params
from ecgforge.study.experiment import Experiment
from ecgforge.sweeps.common.base import Item, Source, Sweep

UNCHANGED = "as it is"


class Ablation(Sweep):
    """TrSTeR of each variation in `generators.<name>.ablations`."""

    scored = True

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        dataset, generator = item["dataset"], item["generator"]
        settings = params.generator(generator)
        yield Source([], generator, UNCHANGED, settings)
        for name, changed in settings.variations().items():
            rows = [
                Experiment("TrSTeR", dataset, params.backbone, seed, generator, self.name, name)
                for seed in params.active.sweeps.seeds
            ]
            yield Source(rows, generator, name, changed)


SWEEP = Ablation()
