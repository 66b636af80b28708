"""The contract of a sweep: which classifiers it trains, on which records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, TypeVar

import numpy as np

from ecgforge.errors import EcgforgeError
from ecgforge.params import (
    ClassifierSettings,
    GeneratorSettings,
    Params,
    PreTraining,
    StrictConfig,
    checked,
)
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.study.experiment import Experiment, plain_and_augmented
from ecgforge.study.settings import SETTINGS, TrainingData, training_data

OPTIONS = {  # of the command line, by key of an item
    "dataset": "a dataset",
    "generator": "a generator",
    "backbone": "--backbone",
    "trained_on": "--trained-on",
}
Item = Mapping[str, str]  # the cell of DVC: dataset, and generator, backbone, trained_on or part


@dataclass(frozen=True)
class Source:
    """Synthetic records, and the experiments that train on them.

    Attributes:
        experiments: rows of the grid.
        generator: empty where the experiments use real records only.
        point: its name in the sweep.
        settings: of the generator that draws the records for this sweep; None takes those of the
            study, data/synthetic/<dataset>/<generator>.
        percent: of the real records that the generator learns from.
    """

    experiments: list[Experiment]
    generator: str = ""
    point: str = ""
    settings: GeneratorSettings | None = None
    percent: float = 100

    def needs_training(self, params: Params) -> bool:
        """Whether the sweep trains this generator: it differs from the study's in its weights."""
        if self.settings is None:
            return False
        study = params.generator(self.generator)
        names = ("network", "training", "seed")
        return self.percent < 100 or any(
            getattr(self.settings, name) != getattr(study, name) for name in names
        )


class NoParameters(StrictConfig):
    """Of a sweep that has no parameters of its own."""


class Sweep(ABC):
    """A comparison past the five settings.

    Attributes:
        Parameters: the section `sweeps.<name>` of a profile.
        scored: whether the quality of each source's records is measured as well.
        keys: the values that name a cell.
    """

    Parameters: ClassVar[type[StrictConfig]] = NoParameters
    scored: ClassVar[bool] = False
    keys: ClassVar[tuple[str, ...]] = ("dataset", "generator")

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def requires_parameters(self) -> bool:
        """Whether its section has keys without a default."""
        return any(field.is_required() for field in self.Parameters.model_fields.values())

    def parameters(self, params: Params) -> Any:
        """Return this sweep's section of the profile in use, an instance of `Parameters`."""
        tree = params.active.sweeps.sections.get(self.name, {})
        return checked(self.Parameters, tree, f"profiles.{params.profile}.sweeps.{self.name}")

    def check(self, item: Item) -> None:
        """Check that an item has the values that name a cell, and no others.

        Raises:
            EcgforgeError: says which are missing or not known.
        """
        missing = [OPTIONS[key] for key in self.keys if key not in item]
        unknown = [OPTIONS[key] for key in item if key in OPTIONS and key not in self.keys]
        if missing:
            raise EcgforgeError(f"the sweep '{self.name}' needs {' and '.join(missing)}")
        if unknown:
            raise EcgforgeError(f"the sweep '{self.name}' does not take {' and '.join(unknown)}")

    @abstractmethod
    def sources(self, params: Params, item: Item) -> Iterator[Source]:
        """Yield the synthetic records of a cell with the experiments that train on them."""

    def parts(self, params: Params, item: Item) -> int:
        """Return into how many cells a cell is split: `sweep_targets.parts`, or fewer."""
        smallest = self._smallest_parts(params, list(self.sources(params, item)))
        return min(params.sweep_targets.parts, len(smallest))

    def _smallest_parts(self, params: Params, sources: list[Source]) -> list[_Part]:
        """Return the smallest parts of a cell: its experiments.

        A source whose records are scored stays whole, as do the classifiers of a seed that share a
        pre-training.
        """

        def smallest(source: Source) -> list[list[Experiment]]:
            if self.scored or not source.experiments:
                return [source.experiments]
            if not self.pretraining(params):
                return [[row] for row in source.experiments]
            seeds = dict.fromkeys(row.seed for row in source.experiments)
            return [[row for row in source.experiments if row.seed == seed] for seed in seeds]

        return [
            _Part(number, rows)
            for number, source in enumerate(sources)
            for rows in smallest(source)
        ]

    def sources_of(self, params: Params, item: Item) -> list[Source]:
        """Return the sources of a cell, which may be one part of a split cell.

        Raises:
            EcgforgeError: there is no such part.
        """
        sources = list(self.sources(params, item))
        if "part" not in item:
            return sources
        chosen = _chosen(self._smallest_parts(params, sources), item)
        return [  # parts of a source together, since a cell draws the records of each source once
            replace(sources[number], experiments=[row for part in parts for row in part.rows])
            for number, parts in groupby(chosen, lambda part: part.source)
        ]

    def variations(self, params: Params, item: Item) -> list[Source]:
        """Return the sources of a cell, or of a part of it, whose generator the sweep trains.

        Raises:
            EcgforgeError: there is no such part.
        """
        found = [one for one in self.sources(params, item) if one.needs_training(params)]
        return _chosen(found, item) if "part" in item else found

    def wanted(
        self, params: Params, real: Mapping[str, int], source: Source
    ) -> Mapping[str, Mapping[str, int]]:
        """Return how many records a source's generator draws, by split and rhythm.

        Args:
            real: the real training records by rhythm.
        """
        return mixtures.requested(tuple(real), params.active.synthesis, sum(real.values()))

    def training_data(
        self, params: Params, experiment: Experiment, real: RecordSet, synthetic: RecordSet | None
    ) -> TrainingData:
        """Return the records of an experiment that trains; those of its setting by default."""
        share = params.active.study.synthetic_share
        trained_on = SETTINGS[experiment.setting].trained_on
        return training_data(trained_on, real, synthetic, share, experiment.seed)

    def tested_on(self, dataset: str, real: RecordSet) -> RecordSet | None:
        """Return the records whose test split is tested on; None means those of `dataset`.

        Args:
            dataset: of the item.
            real: the real records to train with.
        """
        return None

    def settings(self, params: Params, experiment: Experiment) -> ClassifierSettings:
        """Return the classifier's network and training; those of the profile by default."""
        return params.classifier_settings(experiment.backbone)

    def pretraining(self, params: Params) -> PreTraining | None:
        """Return how classifiers are pre-trained without labels; None if they are not."""
        return None

    def on_real(self, params: Params, item: Item, points: Iterable[float]) -> Iterator[Experiment]:
        """Yield TrRTeR, plain and augmented, at each point with each seed."""
        for seed in params.active.sweeps.seeds:
            for point in points:
                row = (item["dataset"], params.backbone, seed, "", self.name, f"{point:g}")
                yield from plain_and_augmented(Experiment("TrRTeR", *row))

    def experiments(self, params: Params, item: Item) -> list[Experiment]:
        """Return the rows of the grid in a cell."""
        return [row for source in self.sources(params, item) for row in source.experiments]


T = TypeVar("T")


def _chosen(parts: list[T], item: Item) -> list[T]:
    """Return the smallest parts that belong to the part of an item, such as 2of5."""
    number, _, count = item["part"].partition("of")
    if not (number.isdecimal() and count.isdecimal()) or not (
        1 <= int(number) <= int(count) <= len(parts)
    ):
        raise EcgforgeError(
            f"--part {item['part']}: use one such as 1of{len(parts)}; this cell has at most "
            f"{len(parts)} parts"
        )
    chosen = np.array_split(np.arange(len(parts)), int(count))[int(number) - 1]
    return [parts[index] for index in chosen]


@dataclass(frozen=True)
class _Part:
    """Rows of the grid of one source, by its number."""

    source: int
    rows: list[Experiment]
