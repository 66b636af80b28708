"""Run one cell of a sweep: its experiments, on the synthetic records of each of its sources.

The stage `train_variations` has trained the generators that differ from the study's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecgforge import artifacts
from ecgforge.files import remove
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator
from ecgforge.params import Params, Quality
from ecgforge.records.record_set import RecordSet, aligned
from ecgforge.stages.common import variation_run
from ecgforge.stages.common.classifier_runs import ClassifierRuns, Unlabelled
from ecgforge.stages.common.temporary import TEMPORARY, held
from ecgforge.stages.common.tracked import Stage
from ecgforge.sweeps.common import registry
from ecgforge.sweeps.common.base import Item, Source, Sweep
from ecgforge.tracking import store

Score = Callable[[RecordSet, RecordSet, RecordSet, Quality], dict[str, float]]


def sweep(
    params: Params,
    name: str,
    item: Item,
    data: Path,
    models: Path,
    out: Path,
    score: Score | None = None,
) -> None:
    """Run the experiments of the sweep `name` in one cell and write their predictions to `out`.

    Args:
        item: the cell: dataset, and generator, backbone, trained_on or part.
        data: the folder of prepared/ and synthetic/ record sets.
        models: the folder of generators/ and classifiers/.
        score: measures the records of each source, for `out`/variations.csv.

    Raises:
        EcgforgeError: there is no such sweep.
    """
    chosen = registry.get(name)
    item = {"sweep": name, **item}
    stage = Stage(registry.stage(name), params, item)
    cell = _Cell(chosen, params, item, stage, data, models)
    classifiers = ClassifierRuns(stage, cell.simulated, models)
    variations = []
    for source in chosen.sources_of(params, item):
        with cell.records(source) as (synthetic, cost):
            if score and synthetic is not None:
                variations.append(cell.scored(source, synthetic, cost, score))
            for experiment in source.experiments:
                if not experiment.trains:
                    classifiers.test(experiment, cell.tested_on)
                    continue
                training = chosen.training_data(params, experiment, cell.real, synthetic)
                settings = chosen.settings(params, experiment)
                classifiers.train(
                    experiment, training, cell.tested_on, settings, unlabelled=cell.unlabelled
                )
    classifiers.finish(out)
    if score:
        pd.DataFrame(variations).to_csv(out / "variations.csv", index=False, float_format="%.6g")


@dataclass(frozen=True)
class _Cell:
    """One cell of a sweep: its record sets, and the generators that it trains and samples."""

    sweep: Sweep
    params: Params
    item: Item
    stage: Stage
    data: Path
    models: Path

    @property
    def dataset(self) -> str:
        return self.item["dataset"]

    @property
    def real(self) -> RecordSet:
        """The real records to train with."""
        return RecordSet.open(self.data / "prepared" / self.item.get("trained_on", self.dataset))

    @property
    def tested_on(self) -> RecordSet:
        """The real records with the test and validation splits."""
        own = self.sweep.tested_on(self.dataset, self.real)
        if own is not None:
            return own
        return self._as_trained(RecordSet.open(self.data / "prepared" / self.dataset))

    @property
    def unlabelled(self) -> Unlabelled | None:
        """What classifiers are pre-trained on, if the sweep does so."""
        pretraining = self.sweep.pretraining(self.params)
        return Unlabelled(self.real, pretraining) if pretraining else None

    @property
    def simulated(self) -> bool:
        return self.real.about.origin == "simulated"

    def _as_trained(self, records: RecordSet) -> RecordSet:
        """Keep the rhythms of the training records only, in their order."""
        rhythms = self.real.about.rhythms
        return records if records.about.rhythms == rhythms else aligned(records, rhythms)

    @contextmanager
    def records(self, source: Source) -> Iterator[tuple[RecordSet | None, dict[str, float]]]:
        """Provide the synthetic records of a source and their cost; generate them if necessary."""
        if not source.generator:
            yield None, {}
        elif source.settings is None:
            folder = self.data / "synthetic" / self.dataset / source.generator
            yield self._as_trained(RecordSet.open(folder)), {}
        else:
            with self._generated(source) as (synthetic, cost):
                self._show(source, synthetic)
                yield synthetic, cost

    def _show(self, source: Source, synthetic: RecordSet) -> None:
        """Give the run of a generator that was trained for the sweep a page with some records."""
        if not source.needs_training(self.params):
            return
        if run_id := variation_run.run_id(self.params, self.item, source, self.real):
            page = artifacts.of_generator(self.dataset, source.generator, self.real, synthetic)
            store.log_files(run_id, page)

    def scored(
        self, source: Source, synthetic: RecordSet, cost: dict[str, float], score: Score
    ) -> dict[str, Any]:
        """Return a row of variations.csv."""
        real = (self.real.split("train"), self.real.split("test"))
        quality = self.params.active.quality
        scores = score(*real, synthetic.split("train"), quality)
        row = {"dataset": self.dataset, "generator": source.generator, "variation": source.point}
        return {**row, **cost, **scores}

    def _generator(self, source: Source) -> Generator:
        """Return the study's generator, or the one that was trained for a source."""
        if source.needs_training(self.params):
            place = ("variations", self.sweep.name, self.dataset, source.generator)
            return generators.load(variation_run.model(self.models.joinpath(*place), source))
        return generators.load(self.models / "generators" / self.dataset / source.generator)

    @contextmanager
    def _generated(self, source: Source) -> Iterator[tuple[RecordSet, dict[str, float]]]:
        """Generate records for the length of a block, in a folder of their own.

        Yields:
            The records, and their cost in ms a record.
        """
        generator = self._generator(source)
        assert source.settings is not None
        profile, sampling = self.params.active, source.settings.sampling
        # A generator with another seed generates other records than the study's.
        seed, study = source.settings.seed, self.params.generator(source.generator).seed
        further = 0 if seed == study else seed
        seeded = profile.synthesis.model_copy(update={"seed": profile.synthesis.seed + further})
        wanted = self.sweep.wanted(self.params, self.real.split("train").counts(), source)
        made = {"sampling": sampling, "wanted": json.loads(json.dumps(wanted))}
        part = self.item.get("part", "")
        names = (self.dataset, source.generator, self.sweep.name, source.point, part)
        folder = TEMPORARY / "-".join(filter(None, names)).replace(" ", "-")
        with held(folder):
            try:
                started = time.perf_counter()
                arguments = (sampling, wanted, seeded, profile.compute, self.real, made, folder)
                synthesis.synthesize(generator, source.generator, *arguments)
                synthetic = RecordSet.open(folder)
                seconds = time.perf_counter() - started
                yield synthetic, {"generate_ms": 1000 * seconds / max(1, len(synthetic))}
            finally:
                remove(folder)
