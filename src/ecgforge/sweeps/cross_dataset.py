"""Train on one dataset, test on another, with synthetic records of either and without."""

from __future__ import annotations

from collections.abc import Iterator

from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData, evenly, number_mixed_in
from ecgforge.sweeps.common.base import Item, Source, Sweep


class CrossDataset(Sweep):
    """Classifiers of the settings, tested on the other dataset; and those that have real records
    of their own dataset and as many synthetic ones of the other. All are also augmented.
    """

    keys = ("trained_on", "dataset", "generator")

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        home, generator = item["trained_on"], item["generator"]
        trained = [  # setting, synthetic records, augmented, classifier
            ("TrRTeR", "real", False, "real"),
            ("TrRTeR", "real", True, "real/augmented"),
            ("TrRSTeR", "synthetic (training dataset)", False, f"{generator}/mixed"),
            ("TrRSTeR", "synthetic (training dataset)", True, f"{generator}/augmented"),
        ]
        rows = []
        for seed in params.active.sweeps.seeds:

            def row(setting: str, kind: str, seed: int = seed, start: str = "") -> Experiment:
                place = (item["dataset"], params.backbone, seed, generator, self.name)
                point = f"{home}, {kind}"
                return Experiment(setting, *place, point, start=start, trained_on=home)

            for setting, kind, augmented, folder in trained:
                tested = row(setting, kind, start=f"{home}/{folder}/seed-{seed}")
                rows.append(list(plain_and_augmented(tested))[augmented])
            rows += plain_and_augmented(row("TrRSTeR", "synthetic (test dataset)"))
        yield Source(rows, generator)

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        assert synthetic is not None
        train, generated = real.split("train"), synthetic.split("train")
        wanted = number_mixed_in(len(train), params.active.study.synthetic_share)
        mixed_in = evenly(generated, min(len(generated), wanted), experiment.seed)
        return TrainingData([train, mixed_in], [real.split("validation")])


SWEEP = CrossDataset()
