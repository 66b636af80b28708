"""Train and test classifiers in the settings of the study. A cell is a dataset, with a generator or without."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecgforge.classifiers import base, baselines, registry
from ecgforge.files import md5, remove, whole
from ecgforge.params import Params
from ecgforge.records import beats
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.inputs import checkpoints, curves, digests, record_inputs
from ecgforge.study import predictions
from ecgforge.study.settings import SETTINGS, Setting, diet
from ecgforge.tracking import models, runs
from ecgforge.training import fit
from ecgforge.training.batches import Records


@dataclass(frozen=True)
class Bench:
    """What the classifiers of a cell are trained and tested on."""

    params: Params
    dataset: str
    generator: str | None
    real: RecordSet
    synthetic: RecordSet | None

    def cell(self, setting: Setting, seed: int, backbone: str) -> runs.Cell:
        simulated = self.real.about.origin == "simulated"
        return runs.Cell("classifier", self.dataset, seed, simulated, generator=self.generator, setting=setting.name, backbone=backbone)

    def test_records(self, setting: Setting) -> RecordSet:
        return (self.real if setting.tested_on == "real" else self._generated).split("test")

    def who(self, setting: Setting, seed: int, backbone: str) -> predictions.Who:
        return predictions.Who(self.dataset, self.generator or "", backbone, setting.name, seed)

    def inputs(self, setting: Setting) -> list[tuple[str, RecordSet]]:
        """Return the record sets that go into a setting, with what they are used for."""
        sets: list[tuple[str, RecordSet]] = []
        if setting.trained_on != "synthetic":
            sets.append(("training", self.real))
        if setting.trained_on != "real":
            sets.append(("training", self._generated))
        return [*sets, ("test", self.real if setting.tested_on == "real" else self._generated)]

    @property
    def _generated(self) -> RecordSet:
        assert self.synthetic is not None
        return self.synthetic


def on_real(params: Params, dataset: str, real: Path, models_out: Path, out: Path) -> None:
    """Train on real records and test on real ones (TrRTeR), for every seed; beside it the baselines.

    Writes the classifiers to `models_out`/seed-<n>, and their predictions on the test records to `out`.
    """
    bench = Bench(params, dataset, None, RecordSet.open(real), None)
    with whole(models_out) as scratch:
        tested = [_train_and_test(bench, SETTINGS["TrRTeR"], seed, scratch / f"seed-{seed}") for seed in params.active.study.seeds]
        tested += [_test_baseline(bench, name) for name in baselines.BASELINES]
    _finish(tested, out)


def on_synthetic(
    params: Params, dataset: str, generator: str, real: Path, synthetic: Path, baseline: Path, models_out: Path, out: Path
) -> None:
    """Run the settings that need synthetic records, for every seed, with the classifiers in `baseline` where real ones train.

    Writes the classifiers to `models_out`/<synthetic or mixed>/seed-<n>, and their predictions on the test records to `out`.
    """
    bench = Bench(params, dataset, generator, RecordSet.open(real), RecordSet.open(synthetic))
    with whole(models_out) as scratch:
        tested = []
        for seed in params.active.study.seeds:
            name = f"seed-{seed}"
            tested.append(_train_and_test(bench, SETTINGS["TrSTeR"], seed, scratch / "synthetic" / name))
            tested.append(_train_and_test(bench, SETTINGS["TrRSTeR"], seed, scratch / "mixed" / name))
            tested.append(_test(bench, SETTINGS["TrSTeS"], seed, scratch / "synthetic" / name))
            tested.append(_test(bench, SETTINGS["TrRTeS"], seed, baseline / name))
    _finish(tested, out)


def _finish(tested: list[predictions.Tested], out: Path) -> None:
    predictions.write(tested, out)
    for one in tested:
        remove(checkpoints(one.cell))


def _train_and_test(bench: Bench, setting: Setting, seed: int, folder: Path) -> predictions.Tested:
    """Train a classifier as one tracked run, save it to `folder`, register it, and test it."""
    profile, rhythms = bench.params.active, bench.real.about.rhythms
    settings, share = profile.classifier, profile.study.synthetic_share
    cell, tree = bench.cell(setting, seed, settings.backbone), settings.model_dump()
    if setting.trained_on == "mixed":
        tree["synthetic_share"] = share
    inputs = record_inputs(bench.inputs(setting))
    identity = runs.identity(cell, tree, digests(inputs), [_file(settings.backbone), base, fit])
    meal = diet(setting.trained_on, bench.real, bench.synthetic, share, seed)
    with runs.tracked(cell, identity=identity, params=tree, inputs=inputs, resume_file=curves(identity)) as run:
        classifier = base.create(settings, rhythms, Records(meal.train).scale(), seed)
        outcome = fit.fit(
            classifier.objective(),
            meal.train,
            meal.validation,
            settings.training,
            profile.compute,
            seed=seed,
            folder=checkpoints(identity),
            log=run.log,
        )
        base.save(classifier, settings.backbone, folder)
        found = _predict(bench, setting, classifier)
        run.summary({**predictions.summary(found, rhythms), "best_validation_macro_f1": outcome.best, "steps": outcome.steps})
        example = np.zeros((2, len(LEADS), bench.real.about.samples), np.float32)
        models.log_classifier(run, classifier, example, rhythms, name=cell.model_name, files=sorted(folder.iterdir()))
    return predictions.Tested(bench.who(setting, seed, settings.backbone), identity, found)


def _test(bench: Bench, setting: Setting, seed: int, folder: Path) -> predictions.Tested:
    """Test the classifier in `folder`, trained in another setting, as a tracked run of its own."""
    settings = bench.params.active.classifier
    cell, tree = bench.cell(setting, seed, settings.backbone), settings.model_dump()
    inputs = record_inputs(bench.inputs(setting))
    weights = md5(folder)
    identity = runs.identity(cell, tree, digests(inputs) | {"classifier": weights}, [_file(settings.backbone), base])
    with runs.tracked(cell, identity=identity, params=tree, inputs=inputs) as run:
        found = _predict(bench, setting, base.load(folder))
        run.summary(predictions.summary(found, bench.real.about.rhythms))
        run.tag("classifier.md5", weights)
    return predictions.Tested(bench.who(setting, seed, settings.backbone), identity, found)


def _test_baseline(bench: Bench, name: str) -> predictions.Tested:
    """Train and test a baseline; it has no randomness, and no weights worth a version."""
    setting, seed = SETTINGS["TrRTeR"], bench.params.active.study.seeds[0]
    cell, inputs = bench.cell(setting, seed, name), record_inputs(bench.inputs(setting))
    identity = runs.identity(cell, {}, digests(inputs), [baselines, beats])
    with runs.tracked(cell, identity=identity, params={}, inputs=inputs) as run:
        tested = bench.test_records(setting)
        found = predictions.table(tested, baselines.BASELINES[name](bench.real.split("train"), tested))
        run.summary(predictions.summary(found, tested.about.rhythms))
    return predictions.Tested(bench.who(setting, seed, name), identity, found)


def _predict(bench: Bench, setting: Setting, classifier: base.Classifier) -> pd.DataFrame:
    tested = bench.test_records(setting)
    return predictions.table(tested, base.probabilities(classifier, tested))


def _file(backbone: str) -> Path:
    return Path(inspect.getfile(registry.classifier_class(backbone)))
