"""One classifier trained and tested, as one tracked run; every cell of the study that has classifiers is a list of these."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.classifiers.common import augmentation, base, convolution, registry
from ecgforge.files import md5, remove
from ecgforge.params import ClassifierSettings, Method, Params, Training
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import serving
from ecgforge.stages.inputs import checkpoints, curves, digests, record_inputs
from ecgforge.study import predictions
from ecgforge.study.settings import Diet, augmented
from ecgforge.tracking import models, runs
from ecgforge.training import fit
from ecgforge.training.batches import Records


@dataclass(frozen=True)
class Trial:
    """A classifier to train and test.

    Attributes:
        setting: what it is trained and tested on, in the study's words.
        meal: training and validation records.
        test: records that it is judged by.
        sweep, point: the comparison that it belongs to, and where in it; empty for the study's five settings.
        augmented: whether training records are changed classically.
        start: the folder of a classifier that it goes on from; a fresh one otherwise.
        method: which weights are trained, in that case.
        settings: other than those of the profile's classifier.
    """

    setting: str
    meal: Diet
    test: RecordSet
    sweep: str = ""
    point: str = ""
    augmented: bool = False
    start: Path | None = None
    method: Method = "all"
    settings: ClassifierSettings | None = None

    def changed(self) -> Trial:
        """Return the same of a sweep, with training records changed classically."""
        return replace(self, sweep=augmented(self.sweep), augmented=True)


@dataclass(frozen=True)
class Bench:
    """Where trials run: the dataset whose rhythms are told apart, and the generator behind the synthetic records, if any."""

    params: Params
    dataset: str
    generator: str | None
    simulated: bool
    done: list[predictions.Tested] = field(default_factory=list)

    def train(self, trial: Trial, seed: int, folder: Path | None = None) -> None:
        """Train and test a classifier; save it to `folder` and register it, if there is one."""
        settings = trial.settings or self.params.active.classifier
        cell, tree = self._cell(trial, seed, settings.backbone), _tree(self.params, trial, settings)
        inputs = record_inputs(_inputs(trial))
        code = [*code_of(settings.backbone), augmentation, fit]
        weights = {"start": md5(trial.start)} if trial.start else {}
        identity = runs.identity(cell, tree, digests(inputs) | weights | _chosen(trial), code)
        with runs.tracked(cell, identity=identity, params=tree, inputs=inputs, resume_file=curves(identity)) as run:
            rhythms = trial.meal.train[0].about.rhythms
            classifier = (
                registry.load(trial.start) if trial.start else registry.create(settings, rhythms, Records(trial.meal.train).scale(), seed)
            )
            outcome = _fit(classifier, trial, self.params, settings.training, seed, checkpoints(identity), run.log)
            found = _predict(classifier, trial.test)
            run.summary({**predictions.summary(found, rhythms), "best_validation_macro_f1": outcome.best, "steps": outcome.steps})
            if folder:
                registry.save(classifier, settings.backbone, folder)
                example = np.zeros((2, len(LEADS), trial.test.about.samples), np.float32)
                # Of the test records, since synthetic ones do not say how those were prepared that they are like.
                service, files = serving.service(trial.test.about), sorted(folder.iterdir())
                models.log_classifier(run, classifier, example, rhythms, name=cell.model_name, files=files, service=service)
        self._add(trial, seed, settings.backbone, identity, found)

    def test(self, trial: Trial, seed: int) -> None:
        """Test the classifier in `trial.start`, trained in another setting, as a tracked run of its own."""
        assert trial.start
        settings = trial.settings or self.params.active.classifier
        cell, tree = self._cell(trial, seed, settings.backbone), settings.model_dump()
        inputs, weights = record_inputs([("test", trial.test)]), md5(trial.start)
        identity = runs.identity(cell, tree, digests(inputs) | {"classifier": weights} | _chosen(trial), code_of(settings.backbone))
        with runs.tracked(cell, identity=identity, params=tree, inputs=inputs) as run:
            found = _predict(registry.load(trial.start), trial.test)
            run.summary(predictions.summary(found, trial.test.about.rhythms))
            run.tag("classifier.md5", weights)
        self._add(trial, seed, settings.backbone, identity, found)

    def baseline(self, name: str, judge: Callable[[RecordSet, RecordSet], np.ndarray], trial: Trial, code: Sequence[Any]) -> None:
        """Train and test a baseline; it has no randomness, and no weights worth a version."""
        seed = self.params.active.study.seeds[0]
        cell, inputs = self._cell(trial, seed, name), record_inputs(_inputs(trial))
        identity = runs.identity(cell, {}, digests(inputs), code)
        with runs.tracked(cell, identity=identity, params={}, inputs=inputs) as run:
            found = predictions.table(trial.test, judge(trial.meal.train[0], trial.test))
            run.summary(predictions.summary(found, trial.test.about.rhythms))
        self._add(trial, seed, name, identity, found)

    def finish(self, out: Path) -> None:
        """Write the predictions of all trials to `out`, and forget their checkpoints."""
        predictions.write(self.done, out)
        for one in self.done:
            remove(checkpoints(one.cell))

    def _add(self, trial: Trial, seed: int, backbone: str, identity: str, found: pd.DataFrame) -> None:
        who = predictions.Who(self.dataset, self.generator or "", backbone, trial.sweep, trial.point, trial.setting, seed)
        self.done.append(predictions.Tested(who, identity, found))

    def _cell(self, trial: Trial, seed: int, backbone: str) -> runs.Cell:
        return runs.Cell(
            "classifier",
            self.dataset,
            seed,
            self.simulated,
            generator=self.generator,
            setting=trial.setting,
            backbone=backbone,
            sweep=trial.sweep or None,
            point=trial.point or None,
        )


def code_of(backbone: str) -> list[Path | ModuleType]:
    """What decides a classifier's answers, beside its weights."""
    return [Path(inspect.getfile(registry.classifier_class(backbone))), base, convolution]


def _tree(params: Params, trial: Trial, settings: ClassifierSettings) -> dict[str, Any]:
    """The resolved parameters of a training."""
    tree = settings.model_dump()
    if trial.augmented:
        tree["augmentation"] = params.active.study.augmentation.model_dump()
    if trial.start:
        tree["method"] = trial.method
    sizes = {made: sum(len(one) for one in trial.meal.train if (one.about.origin == "synthetic") == made) for made in (False, True)}
    return tree | {"training_records": {"real": sizes[False], "synthetic": sizes[True]}}


def _inputs(trial: Trial) -> list[tuple[str, RecordSet]]:
    return [*(("training", one) for one in trial.meal.train), ("test", trial.test)]


def _chosen(trial: Trial) -> dict[str, str]:
    """Digests of which records of their sets are used, in the order of training, validation and test."""
    sets = [*trial.meal.train, *trial.meal.validation, trial.test]
    return {f"records {place}": hashlib.sha256(one.rows.tobytes()).hexdigest() for place, one in enumerate(sets)}


def _fit(
    classifier: base.Classifier, trial: Trial, params: Params, training: Training, seed: int, folder: Path, log: fit.Log
) -> fit.Outcome:
    """Train all of a classifier, its head, or ever more of it from the head down in equal times (gradual unfreezing, Howard & Ruder,
    ACL 2018, sec. 3.3)."""
    settings, rate = params.active.study.augmentation, trial.test.about.sampling_rate
    change = (lambda signals, random: augmentation.augmented(signals, settings, rate, random)) if trial.augmented else None
    depth = len(classifier.parts)
    depths = {"all": [depth], "head": [1], "gradual": sorted({1, -(-depth // 2), depth})}[trial.method]
    each = training.model_copy(update={"steps": max(1, training.steps // len(depths) // training.evaluate_every) * training.evaluate_every})
    steps = 0
    for number, parts in enumerate(depths):

        def log_on(figures: dict[str, float], step: int, done: int = steps) -> None:
            log(figures, done + step)

        place, own_seed = folder / f"{parts} parts", seed * len(depths) + number  # no phase draws as one of another seed
        objective = classifier.objective(parts, change)
        outcome = fit.fit(
            objective, trial.meal.train, trial.meal.validation, each, params.active.compute, seed=own_seed, folder=place, log=log_on
        )
        steps += outcome.steps
    return fit.Outcome(steps, outcome.best, outcome.stopped_early)


def _predict(classifier: base.Classifier, test: RecordSet) -> pd.DataFrame:
    return predictions.table(test, base.probabilities(classifier, test))
