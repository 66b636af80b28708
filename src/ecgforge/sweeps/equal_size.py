"""Real records of one source against as many real records of the merged dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ecgforge import rounds
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import TrainingData
from ecgforge.sweeps.common.base import Item, Source, Sweep

ALONE, EQUAL, ALL = "alone", "merged, equal size", "merged, all records"


class EqualSize(Sweep):
    """TrRTeR with all training records of a source, with as many of each rhythm of all sources, and
    with the whole merged dataset.

    All records come from the merged dataset, in which no recording is there twice. The item has the
    merged dataset as `trained_on` and the source as `dataset`, or a round of both.
    """

    keys = ("trained_on", "dataset")

    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        merged, rows = item["trained_on"], list[Experiment]()
        for seed in params.active.sweeps.seeds:
            for point in (ALONE, EQUAL, ALL):
                place = (item["dataset"], params.backbone, seed, "", self.name, point)
                plain = Experiment("TrRTeR", *place, trained_on=merged)
                rows += plain_and_augmented(plain)
        yield Source([_of_settings(row) if row.point == ALL else row for row in rows])

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        train = real.split("train")
        own = _of_source(train, experiment.dataset)
        if experiment.point == EQUAL:
            own = mixtures.drawn(train, own.counts(), experiment.seed)
        return TrainingData([own], [_of_source(real.split("validation"), experiment.dataset)])

    def tested_on(self, dataset: str, real: RecordSet) -> RecordSet:
        return _of_source(real, dataset)


def _of_settings(row: Experiment) -> Experiment:
    """The classifier of all merged records is there: it is that of the setting TrRTeR."""
    kind = "real/augmented" if row.augmented else "real"
    return replace(row, start=f"{row.trained_on}/{kind}/seed-{row.seed}")


def _of_source(records: RecordSet, dataset: str) -> RecordSet:
    return records.select(records.records["dataset"] == rounds.base(dataset))


SWEEP = EqualSize()
