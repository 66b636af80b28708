"""Objectives of trials, on training and validation records only; no test record is opened here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import f1_score

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.errors import EcgforgeError, TrialError
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator
from ecgforge.generators.common.registry import generator_class
from ecgforge.generators.train import train
from ecgforge.params import ClassifierSettings, Compute, GeneratorSettings, checked
from ecgforge.quality import distribution
from ecgforge.records.record_set import RecordSet
from ecgforge.training.batches import Records, in_order
from ecgforge.training.fit import Log, fit
from ecgforge.tuning.search import Attempt, Direction
from ecgforge.tuning.space import applied

CHUNK = 64  # records generated or embedded at a time
FITTED = 500  # real training records that the embedding is fitted to
# share of a training's steps without pruning: a high learning rate starts worse than it ends
WARMUP = 0.5
PENALTIES = np.logspace(-1, 5, 13)  # penalties that ridge regression chooses from
# loss that is not finite; network that is too large for the memory
TRIAL_FAULTS = (EcgforgeError, RuntimeError)


@dataclass(frozen=True)
class ClassifierObjective:
    """Mean macro-F1 on the real validation records, over classifiers trained on real records."""

    settings: ClassifierSettings
    real: Path
    compute: Compute

    directions: tuple[Direction, ...] = ("maximize",)

    @property
    def warmup(self) -> int:
        """Steps without pruning."""
        return round(WARMUP * self.settings.training.steps)

    def __call__(self, attempt: Attempt, folder: Path, log: Log) -> list[float]:
        """Train and evaluate; the checkpoints stay in `folder`.

        Raises:
            TrialError: training fails at this point, or the trial is pruned.
        """
        settings, records = applied(self.settings, attempt.point), RecordSet.open(self.real)
        train_split, validation = records.split("train"), records.split("validation")
        scale = Records([train_split]).scale()
        found: list[float] = []
        for number in range(self.settings.tuning.repeats):
            done, seed = number * settings.training.steps, self.settings.tuning.seed + number

            def log_on(metrics: dict[str, float], step: int, done: int = done) -> None:
                log(metrics, done + step)
                if "validation/f1_macro" in metrics:
                    f1 = float(np.mean([*found, metrics["validation/f1_macro"]]))
                    attempt.report(f1, done + step)

            objective = classifiers.create(settings, records.about.rhythms, scale, seed).objective()
            place = folder / f"repeat-{number}"
            with _trial_errors():
                outcome = fit(
                    objective,
                    [train_split],
                    [validation],
                    settings.training,
                    self.compute,
                    seed=seed,
                    folder=place,
                    log=log_on,
                )
            found.append(outcome.best)
        return [float(np.mean(found))]


class Trainings(Protocol):
    """Where trials train a generator, and what else logs their curves."""

    def folder(self, settings: GeneratorSettings) -> Path: ...

    def curves(self, folder: Path) -> Log: ...


@dataclass(frozen=True)
class GeneratorObjective:
    """Macro-F1 on the real validation records of a simple classifier trained on synthetic records.

    The classifier is ridge regression on random convolutions, with the same number of synthetic
    records of each rhythm. If the study is `fast`, the generation time of a record in ms is a
    second objective. docs/explanation/tuning.md gives the reasons, and the relation to TrSTeR.
    """

    name: str
    settings: GeneratorSettings
    real: Path
    compute: Compute
    trainings: Trainings

    @property
    def directions(self) -> tuple[Direction, ...]:
        return ("maximize", "minimize") if self.settings.tuning.fast else ("maximize",)

    @property
    def warmup(self) -> int | None:
        """Steps without pruning by the validation loss of the last phase.

        None if the losses of trials do not compare, because their prediction targets differ, or if
        no phase trains.
        """
        if not (phases := generator_class(self.name).phases):
            return None
        *earlier, last = phases
        if not all(
            key.startswith((f"training.{last}.", "sampling.")) for key in self.settings.tuning.space
        ):
            return None
        steps = self.settings.training
        return sum(steps[phase].steps for phase in earlier) + round(WARMUP * steps[last].steps)

    def __call__(self, attempt: Attempt, folder: Path, log: Log) -> list[float]:
        """Train, generate and evaluate.

        The generator of an earlier trial with the same training is reused. Checkpoints and weights
        stay in the folder of the training.

        Raises:
            TrialError: training fails at this point, or the trial is pruned.
        """
        settings, records = applied(self.settings, attempt.point), RecordSet.open(self.real)
        with _trial_errors():
            generator = self._trained(settings, records, attempt, log)
            labels, signals, seconds = self._generated(
                generator, settings, len(records.about.rhythms)
            )
            if not np.isfinite(signals).all():
                raise EcgforgeError("its signals are not finite")
        values = [
            macro_f1_of_synthetic(records, signals, labels, self.settings.tuning.seed),
            1000 * seconds / len(labels),
        ]
        return values[: len(self.directions)]

    def _trained(
        self,
        settings: GeneratorSettings,
        records: RecordSet,
        attempt: Attempt,
        log: Log,
    ) -> Generator:
        folder = self.trainings.folder(settings)
        model = folder / "model"
        phases = generator_class(self.name).phases
        monitored = f"loss/{phases[-1]}/validation" if len(phases) > 1 else "loss/validation"

        def log_on(metrics: dict[str, float], step: int) -> None:
            log(metrics, step)
            keep(metrics, step)
            if monitored in metrics and self.warmup is not None:
                attempt.report(-metrics[monitored], step)  # the study maximises it

        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not model.exists():
                keep = self.trainings.curves(folder)
                generators.save(
                    train(self.name, settings, records, self.compute, folder, log_on), model
                )
        return generators.load(model)

    def _generated(
        self, generator: Generator, settings: GeneratorSettings, rhythms: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return labels, signals and the seconds of their generation."""
        tuning = self.settings.tuning
        wanted = {"validation": dict.fromkeys(map(str, range(rhythms)), tuning.records)}
        rows = synthesis.plan(tuple(map(str, range(rhythms))), wanted, tuning.seed)
        sampling = checked(type(generator).Sampling, settings.sampling, "sampling")
        sampler = synthesis.Sampler(generator, sampling, self.compute, 0)
        started = time.perf_counter()
        parts = [
            sampler.sample(rows.iloc[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)
        ]
        return rows["label"].to_numpy(), np.concatenate(parts), time.perf_counter() - started


def macro_f1_of_synthetic(
    real: RecordSet, signals: np.ndarray, labels: np.ndarray, seed: int
) -> float:
    """Return the macro-F1 on real validation records of ridge regression trained on synthetic ones.

    The features are the embedding of `quality.distribution`, fitted to real training records.

    Args:
        signals: synthetic, `[records, leads, samples]`.
        labels: `[records]`.
    """
    train_split, validation = real.split("train"), real.split("validation")
    some = np.random.default_rng(seed).permutation(len(train_split))[:FITTED]
    embedding = distribution.Embedding.fit(train_split.signals(np.sort(some)), seed)
    ridge = RidgeClassifierCV(PENALTIES, class_weight="balanced").fit(embedding(signals), labels)
    features = np.concatenate(
        [embedding(validation.signals(index)) for index in in_order(len(validation), CHUNK)]
    )
    return float(f1_score(validation.labels, ridge.predict(features), average="macro"))


@contextmanager
def _trial_errors() -> Iterator[None]:
    """Turn an error in the block into a failure of the trial."""
    try:
        yield
    except TrialError:
        raise
    except TRIAL_FAULTS as error:
        raise TrialError(" ".join(str(error).split())[:500]) from error
