"""Classifiers of the grid as tracked runs: train and test, or test only."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecgforge import artifacts
from ecgforge.classifiers.common import augmentation, contrastive, registry
from ecgforge.classifiers.common.base import Change, Classifier, probabilities
from ecgforge.files import md5
from ecgforge.model_versions import models
from ecgforge.model_versions.lookup import BEST_F1
from ecgforge.model_versions.pyfunc_signature import VALIDATED
from ecgforge.params import ClassifierSettings, Params, PreTraining, Training
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import serving
from ecgforge.stages.common.tracked import Sets, Stage, TrackedRun, tracked
from ecgforge.study import decision, fine_tuning, predictions
from ecgforge.study.experiment import Experiment
from ecgforge.study.metrics import macro_f1
from ecgforge.study.settings import TrainingData
from ecgforge.tracking import runs
from ecgforge.training import devices, fit
from ecgforge.training.batches import Records
from ecgforge.training.objective import in_phase

CLASSIFIERS = Path("classifiers")  # in the folder of models


@dataclass(frozen=True)
class Unlabelled:
    """Records whose rhythms are not used: a classifier is pre-trained on their training split."""

    records: RecordSet
    settings: PreTraining


@dataclass(frozen=True)
class ClassifierRuns:
    """Runs the experiments of one cell of DVC.

    Attributes:
        stage: the stage at work.
        simulated: whether the real records are simulated.
        models: the folder of models, where the classifiers lie that experiments start from.
    """

    stage: Stage
    simulated: bool
    models: Path
    tested: list[predictions.Tested] = field(default_factory=list)
    _runs: list[TrackedRun] = field(default_factory=list)
    _pretrained: dict[int, Classifier] = field(default_factory=dict)  # by seed

    def train(
        self,
        experiment: Experiment,
        data: TrainingData,
        tested_on: RecordSet,
        settings: ClassifierSettings,
        folder: Path | None = None,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        """Train and test a classifier; with a `folder`, save it there and register it.

        Classifiers of cross-fitting are evidence, and are not registered: champions are trained on
        all records but the locked test split.

        Args:
            tested_on: has the test split, and the validation split that chooses the decision, and
                the point of a sweep.
            unlabelled: records to pre-train on, the same in all calls.
        """
        params, seed, test = self.stage.params, experiment.seed, tested_on.split("test")
        start = self._start(experiment)
        key, tree = self._key(experiment), _tree(params, experiment, data, settings)
        decides = _rows([*data.train, *data.validation, test])
        decides |= {"start": md5(start)} if start else {}
        if unlabelled:
            tree |= {"pretraining": unlabelled.settings.model_dump()}
            decides |= {
                f"unlabelled {split}": _digest(unlabelled.records.split(split))
                for split in ("train", "validation")
            }
        with tracked(self.stage, key, tree, _sets(data, test), decides) as opened:
            rhythms = data.train[0].about.rhythms
            if start:
                classifier = registry.load(start)
            elif unlabelled:
                classifier = self._pretrain(unlabelled, settings, rhythms, seed, opened)
            else:
                scale = Records(data.train).scale()
                classifier = registry.create(settings, rhythms, scale, seed)
            outcome = _fit(classifier, experiment, data, params, settings.training, opened)
            with devices.placed(classifier, params.active.compute):
                tuned, validation_f1 = _on_validation(classifier, tested_on)
                found = _predicted(classifier, test, tuned)
            metrics = predictions.summary(found, rhythms)
            metrics |= {BEST_F1: outcome.best, "validation/tau": tuned.tau}
            opened.run.summary({**metrics, "training/steps": outcome.steps})
            opened.run.files(artifacts.of_classifier(found, rhythms))
            if folder:
                registry.save(classifier, experiment.backbone, folder)
                if not experiment.fold:
                    facts = _facts(data, outcome.best)
                    _register(opened.run, classifier, test, rhythms, key.model_name, folder, facts)
        self._add(experiment, opened, found, validation_f1)

    def test(self, experiment: Experiment, tested_on: RecordSet) -> None:
        """Test the classifier that an experiment starts from, as a tracked run of its own."""
        start, test = self._start(experiment), tested_on.split("test")
        assert start
        weights, key = md5(start), self._key(experiment)
        tree = self.stage.params.classifier_settings(experiment.backbone).model_dump()
        decides = {"classifier": weights} | _rows([test])
        with tracked(self.stage, key, tree, [("test", test)], decides) as opened:
            classifier = registry.load(start)
            with devices.placed(classifier, self.stage.params.active.compute):
                tuned, validation_f1 = _on_validation(classifier, tested_on)
                found = _predicted(classifier, test, tuned)
            opened.run.summary(predictions.summary(found, test.about.rhythms))
            opened.run.files(artifacts.of_classifier(found, test.about.rhythms))
            opened.run.tag("classifier.md5", weights)
        self._add(experiment, opened, found, validation_f1)

    def baseline(
        self,
        experiment: Experiment,
        predict: Callable[[RecordSet, RecordSet], np.ndarray],
        data: TrainingData,
        test: RecordSet,
    ) -> None:
        """Train and test a baseline; it has no randomness, and no weights to register."""
        with tracked(self.stage, self._key(experiment), {}, _sets(data, test)) as opened:
            found = predictions.table(test, predict(data.train[0], test))
            opened.run.summary(predictions.summary(found, test.about.rhythms))
            opened.run.files(artifacts.of_classifier(found, test.about.rhythms))
        self._add(experiment, opened, found)

    def finish(self, out: Path) -> None:
        """Write the predictions of all experiments to `out`, and remove their checkpoints."""
        predictions.write(self.tested, out)
        for one in self._runs:
            one.remove_checkpoints()

    def _pretrain(
        self,
        unlabelled: Unlabelled,
        settings: ClassifierSettings,
        rhythms: tuple[str, ...],
        seed: int,
        opened: TrackedRun,
    ) -> Classifier:
        """Return a classifier with pre-trained features.

        All classifiers of a seed start from the same one; the run of the first has its training.
        """
        if seed not in self._pretrained:
            train, validation = (
                unlabelled.records.split(split) for split in ("train", "validation")
            )
            classifier = registry.create(settings, rhythms, Records([train]).scale(), seed)

            def log(metrics: dict[str, float], step: int) -> None:
                opened.run.log(in_phase(metrics, "pretraining"), step)

            fit.fit(
                contrastive.objective(
                    classifier,
                    _change(self.stage.params, train),
                    unlabelled.settings,
                    torch.from_numpy(train.signals(np.arange(1))),
                    seed,
                ),
                [train],
                [validation],
                unlabelled.settings,
                self.stage.params.active.compute,
                seed=seed,
                folder=opened.checkpoints / "pre-training",
                log=log,
            )
            # in evaluation mode, as the classifiers that other sweeps fine-tune
            self._pretrained[seed] = classifier.eval()
        return copy.deepcopy(self._pretrained[seed])

    def _start(self, experiment: Experiment) -> Path | None:
        return self.models / CLASSIFIERS / experiment.start if experiment.start else None

    def _add(
        self,
        experiment: Experiment,
        opened: TrackedRun,
        found: pd.DataFrame,
        validation_f1: float = np.nan,
    ) -> None:
        tested = predictions.Tested(experiment, opened.fingerprint, found, validation_f1)
        self.tested.append(tested)
        self._runs.append(opened)

    def _key(self, experiment: Experiment) -> runs.RunKey:
        return runs.RunKey(
            "classifier",
            experiment.dataset,
            experiment.seed,
            self.simulated,
            generator=experiment.generator or None,
            setting=experiment.setting,
            backbone=experiment.backbone,
            sweep=experiment.sweep or None,
            point=experiment.point or None,
            augmented=experiment.augmented,
            draw=experiment.draw,
        )


def _predicted(classifier: Classifier, test: RecordSet, tuned: decision.Decision) -> pd.DataFrame:
    tested = probabilities(classifier, test)
    return predictions.table(test, tested, tuned.of(tested))


def _on_validation(classifier: Classifier, records: RecordSet) -> tuple[decision.Decision, float]:
    """Return a decision that is tuned on the validation split, and macro-F1 there without it."""
    validation = records.split("validation")
    rhythms = len(validation.about.rhythms)
    if not len(validation):
        return decision.Decision(np.full(rhythms, 1 / rhythms), 0.0), np.nan
    found = probabilities(classifier, validation)
    f1 = macro_f1(validation.labels, found.argmax(axis=1), rhythms)
    return decision.tuned(validation.labels, found), f1


def _register(
    run: runs.Run,
    classifier: Classifier,
    test: RecordSet,
    rhythms: tuple[str, ...],
    name: str,
    folder: Path,
    facts: dict[str, str],
) -> None:
    """Register a saved classifier as a new version.

    The preprocessing is that of the test records: synthetic ones do not know how the records were
    prepared that their generator learned from.
    """
    example = np.zeros((2, len(LEADS), test.about.samples), np.float32)
    service, files = serving.service(test.about), sorted(folder.iterdir())
    models.log_classifier(
        run, classifier, example, rhythms, name=name, files=files, service=service, facts=facts
    )


def _facts(data: TrainingData, validated: float) -> dict[str, str]:
    """Return tags of a version for people: its training records and validation macro-F1."""
    return {
        VALIDATED: f"{validated:.4f}",
        "data": ", ".join(f"{len(one)} of {one.folder.name}" for one in data.train),
        "origin": ", ".join(dict.fromkeys(one.about.origin for one in data.train)),
    }


def _tree(
    params: Params, experiment: Experiment, data: TrainingData, settings: ClassifierSettings
) -> dict[str, Any]:
    """Return the resolved parameters of a training."""
    tree = settings.model_dump()
    if experiment.augmented:
        tree["augmentation"] = params.active.study.augmentation.model_dump()
    if experiment.method:
        tree["method"] = experiment.method
    sizes = {"real": 0, "synthetic": 0}
    for one in data.train:
        sizes["synthetic" if one.about.origin == "synthetic" else "real"] += len(one)
    return tree | {"training_records": sizes}


def _sets(data: TrainingData, test: RecordSet) -> Sets:
    return [*(("training", one) for one in data.train), ("test", test)]


def _rows(sets: list[RecordSet]) -> dict[str, str]:
    """Return digests of which records of their sets are used."""
    return {f"records {place}": _digest(one) for place, one in enumerate(sets)}


def _digest(records: RecordSet) -> str:
    return hashlib.sha256(records.rows.tobytes()).hexdigest()


def _change(params: Params, records: RecordSet) -> Change:
    """Return classical augmentation of signals."""
    settings, rate = params.active.study.augmentation, records.about.sampling_rate

    def change(signals: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return augmentation.augmented(signals, settings, rate, random)

    return change


def _fit(
    classifier: Classifier,
    experiment: Experiment,
    data: TrainingData,
    params: Params,
    training: Training,
    opened: TrackedRun,
) -> fit.Outcome:
    """Train a classifier in the phases of its method, with equally many steps in each."""
    change = _change(params, data.train[0]) if experiment.augmented else None
    phases = fine_tuning.phases(experiment.method or "full", len(classifier.parts))
    steps = max(1, training.steps // len(phases) // training.evaluate_every)
    each = training.model_copy(update={"steps": steps * training.evaluate_every})
    done = 0
    for number, parts in enumerate(phases):

        def log(metrics: dict[str, float], step: int, before: int = done) -> None:
            opened.run.log(metrics, before + step)

        outcome = fit.fit(
            classifier.objective(parts, change),
            data.train,
            data.validation,
            each,
            params.active.compute,
            seed=experiment.seed * len(phases) + number,  # as no phase of another seed
            folder=opened.checkpoints / f"{parts} parts",
            log=log,
        )
        done += outcome.steps
    return fit.Outcome(done, outcome.best, outcome.stopped_early)
