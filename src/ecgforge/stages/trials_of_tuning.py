"""A study of tuning as a tracked run, and each of its trials as a run below it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ecgforge import console, folders
from ecgforge.errors import EcgforgeError
from ecgforge.files import remove
from ecgforge.params import ClassifierSettings, Compute, GeneratorSettings, Params, nested
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.generator_run import described_run
from ecgforge.stages.common.tracked import CURVES, Stage, fingerprint, record_inputs, tracked
from ecgforge.tracking import runs, store
from ecgforge.tuning import objectives, search, space
from ecgforge.tuning.plots import figures
from ecgforge.workers import assign_gpus, gpus

DATABASE = "tuning.db"
NAMES = ("score", "ms_a_record")  # of the objectives
FIRST = "0"  # the worker of a cluster that writes the result
PATIENCE = 1800.0  # s, for the first worker to start


@dataclass(frozen=True)
class Trials:
    """Runs trials of a study, each as a child of the study's run; a process of its own can have it.

    Attributes:
        key, fingerprint: of the study.
        parent: the study's run.
        checkpoints: the study's folder for checkpoints.
    """

    objective: objectives.ClassifierObjective | objectives.GeneratorObjective
    key: runs.RunKey
    fingerprint: str
    inputs: list[runs.DatasetInput]
    parent: str
    checkpoints: Path

    def __call__(self, attempt: search.Attempt) -> list[float]:
        key = replace(self.key, kind="trial", point=str(attempt.number))
        tree = space.applied(self.objective.settings, attempt.point).model_dump(
            exclude={"ablations"}
        )
        folder = self.checkpoints / f"trial-{attempt.number}"
        folder.mkdir(parents=True, exist_ok=True)
        opened = runs.tracked(
            key,
            fingerprint=self.fingerprint_of(attempt.number),
            params=tree,
            inputs=self.inputs,
            resume_file=folder / CURVES,
            parent=self.parent,
        )
        with opened as run:
            values = self.objective(attempt, folder, run.log)
            run.summary(dict(zip(NAMES, values, strict=False)))
        remove(folder)
        return values

    def fingerprint_of(self, number: int) -> str:
        """Return the fingerprint of a trial's run."""
        key = replace(self.key, kind="trial", point=str(number))
        return runs.fingerprint(key, {"study": self.fingerprint}, {}, {})


@dataclass(frozen=True)
class Trainings:
    """The trainings of a study of a generator.

    A trial trains in the folder in which the stage `train_generator` would train with the same
    parameters. That stage then takes up the training of the best trial, as one that was
    interrupted.
    """

    params: Params
    dataset: str
    name: str
    real: Path

    def folder(self, settings: GeneratorSettings) -> Path:
        """Return the folder of a training."""
        records = RecordSet.open(self.real)
        run = described_run(self.params, self.dataset, self.name, settings, records)
        return folders.unfinished() / fingerprint(*run, record_inputs([("training", records)]))

    def curves(self, folder: Path) -> Callable[[dict[str, float], int], None]:
        """Return a function that logs curves for the stage's run, too."""
        return runs.keep_curves(folder / CURVES, folder.name)


def tuned(params: Params, dataset: str, generator: str | None, real: Path) -> dict[str, Any] | None:
    """Return what tuning changes of a generator's parameters, or of the classifier's.

    On a cluster, the workers after the first run trials only, and return None.
    """
    if generator:
        own = params.generator(generator)
        trainings = Trainings(params, dataset, generator, real)
        judged = objectives.GeneratorObjective(
            generator, own, real, params.active.compute, trainings
        )
        stage = Stage("tune_generator", params, {"generator": generator})
        point = _study(stage, judged, dataset, own)
        return None if point is None else {"generators": {generator: point}}
    settings = params.classifier
    objective = objectives.ClassifierObjective(settings, real, params.active.compute)
    point = _study(Stage("tune_classifier", params, {}), objective, dataset, settings)
    return None if point is None else {"classifiers": {settings.backbone: point}}


def _study(
    stage: Stage,
    objective: objectives.ClassifierObjective | objectives.GeneratorObjective,
    dataset: str,
    settings: ClassifierSettings | GeneratorSettings,
) -> dict[str, Any] | None:
    """Finish the study and its run, and return the best trial's values as a tree.

    A further worker of a cluster returns None when no trial is left.
    """
    tuning, records = settings.tuning, RecordSet.open(objective.real)
    who = {**stage.item} or {"backbone": stage.params.backbone}
    simulated = records.about.origin == "simulated"
    key = runs.RunKey("tuning", dataset, tuning.seed, simulated, **who)  # type: ignore[arg-type]
    sets = [("training", records)]
    tree = settings.model_dump(exclude={"ablations"})
    tree |= {"tuning": tuning.model_dump(exclude={"n_trials", "workers"})}
    inputs = record_inputs(sets)
    mark = fingerprint(stage, key, tree, inputs)
    task = search.Task(
        f"{next(iter(who.values()))} on {dataset} {mark[:12]}",
        storage(),
        tuning.space,
        space.defaults(settings, tuning.space, "tuning.space"),
        objective.directions,
        tuning.seed,
        objective.warmup,
    )
    console.err.print(
        f"study '{task.name}': {tuning.n_trials} trials, {tuning.workers} at a time, in "
        f"{_shown(task.url)}"
    )
    number = os.environ.get(folders.WORKER)
    if number and number != FIRST:
        parent, folder = _run_of_first(mark), folders.unfinished() / mark
        trials = Trials(objective, key, mark, inputs, parent, folder)
        search.take_part(task, trials, tuning.n_trials, int(number))
        return None
    with tracked(stage, key, tree, sets) as opened:
        run = opened.run
        trials = Trials(objective, key, mark, inputs, run.id, opened.checkpoints)
        if number:
            results = search.take_part(task, trials, tuning.n_trials, int(number))
        else:
            on = places(tuning.workers, objective.compute)
            results = search.search(task, trials, tuning.n_trials, on)
        for one in results:
            if one.state == "failed":  # where its worker was killed, nobody has ended its run
                runs.end_lost(trials.fingerprint_of(one.number), one.reason)
        best = search.best(results, task.directions)
        _record(run, task, results, best)
        run.mark_best(trials.fingerprint_of(best.number))
        if isinstance(objective, objectives.GeneratorObjective):
            _keep_best_training(objective, results, best)
    opened.remove_checkpoints()
    outcome = (
        f"best {_values(best)} (trial {best.number}) against {_values(results[0])} with the "
        "parameters as they are"
    )
    console.err.print(f"{task.name}: {outcome}")
    return nested(best.point)


def _run_of_first(mark: str) -> str:
    """Return the study's run, which the first worker opens."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE:
        if found := store.runs(f"tags.`{runs.FINGERPRINT}` = '{mark}'"):
            return str(found[0].info.run_id)
        time.sleep(search.LOOK_EVERY)
    raise EcgforgeError(
        f"no worker has opened the run of this study in {PATIENCE:.0f} s: run this again"
    )


def _keep_best_training(
    objective: objectives.GeneratorObjective,
    results: list[search.TrialResult],
    best: search.TrialResult,
) -> None:
    def folder(result: search.TrialResult) -> Path:
        return objective.trainings.folder(space.applied(objective.settings, result.point))

    for other in {folder(one) for one in results} - {folder(best)}:
        remove(other)


def _values(result: search.TrialResult) -> str:
    return (
        " and ".join(
            f"{name} {value:.4g}" for name, value in zip(NAMES, result.values, strict=False)
        )
        or result.state
    )


def _record(
    run: runs.Run, task: search.Task, results: list[search.TrialResult], best: search.TrialResult
) -> None:
    """Give the study's run its figures, and tables of all trials and of the front."""
    counts = {
        state: sum(one.state == state for one in results)
        for state in ("complete", "pruned", "failed")
    }
    names = NAMES[: len(task.directions)]
    values = {f"best/{name}": value for name, value in zip(names, best.values, strict=True)}
    values |= {
        f"default/{name}": value for name, value in zip(names, results[0].values, strict=False)
    }
    run.summary({**values, **{f"trials/{state}": count for state, count in counts.items()}})
    run.tag("study", task.name)
    run.tag("best.trial", str(best.number))

    def table(rows: list[search.TrialResult]) -> str:
        flat = [
            {
                "trial": one.number,
                "state": one.state,
                **dict(zip(names, one.values, strict=False)),
                **one.point,
                "reason": one.reason,
            }
            for one in rows
        ]
        return pd.DataFrame(flat).to_csv(index=False)

    run.text(table(results), "trials.csv")
    if len(names) > 1:
        run.text(table(search.front(results, task.directions)), "front.csv")
    for name, figure in figures(task, list(names)).items():
        run.figure(figure, name)


def storage() -> str:
    """Return the URL of the studies' database: a SQLite file in the project unless the environment
    says otherwise.
    """
    return (
        os.environ.get(folders.TUNING_STORAGE)
        or f"{search.SQLITE}{store.project_root() / DATABASE}"
    )


def _shown(url: str) -> str:
    """A database as people may read it: without user and password, or a file by its path in the
    project.
    """
    file, root = Path(url.removeprefix(search.SQLITE)), store.project_root()
    if not url.startswith(search.SQLITE):
        return url.rpartition("@")[2]
    return f"{search.SQLITE}{file.relative_to(root)}" if file.is_relative_to(root) else url


def places(workers: int, compute: Compute) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each worker: a GPU each, in turn, shared where there are too
    few.
    """
    return assign_gpus(workers, [] if compute.accelerator == "cpu" else gpus())
