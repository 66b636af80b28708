"""Studies: trials in a database, run by one process or by several, which may be killed at any time.

One process runs a study; its workers take trials from the database one after the other, under a
file lock. A trial whose worker was killed is queued again with what it had reported, and continues
from its checkpoint. Each trial has an `index`; a retry has that of the trial that it repeats.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from ecgforge import console
from ecgforge.errors import EcgforgeError, PrunedError, TrialError, explained
from ecgforge.tuning.space import Point, Space, suggest
from ecgforge.workers import end_with_parent

Direction = Literal["maximize", "minimize"]

SQLITE = "sqlite:///"
LOCKS = Path(".ecgforge")  # where the locks of studies on a database server are
INDEX, WORKER, REASON = "index", "worker", "reason"  # attributes of a trial in the database
RETRIES = 3  # of a trial whose worker was killed
UNPRUNED = 4  # trials to finish before one can be pruned
# Percent of trials, the best ones, that go on at a step: half of them is too few where the learning
# rate is searched.
KEPT = 75.0
KILLED = 128  # exit codes above and below 0 say by which signal
PATIENCE = 60  # s, that a process waits for another's lock on a SQLite database
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Task:
    """A study.

    Attributes:
        name: depends on what is tuned, its inputs, space and code. Equal names mean one study.
        url: of the database, as SQLAlchemy writes it.
        space: what trials choose from.
        defaults: the point of the first trial.
        directions: of each objective; trials report the first one during training.
        seed: of the sampler.
        warmup: no trial is pruned before this step; None prunes none. Nor are trials of two
            objectives.
    """

    name: str
    url: str
    space: Space
    defaults: Point
    directions: tuple[Direction, ...]
    seed: int
    warmup: int | None


@dataclass(frozen=True)
class Attempt:
    """A trial at work: its number, the same after a retry, its point, and where its curve goes.

    `report(value, step)` raises PrunedError where the trial is not worth going on with.
    """

    number: int
    point: Point
    report: Callable[[float, int], None]


Objective = Callable[[Attempt], Sequence[float]]  # raises TrialError if the point is at fault


@dataclass(frozen=True)
class Tried:
    """How a trial ended.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        values: of each objective; none where it is not complete.
        reason: why it failed or was pruned.
    """

    number: int
    state: str
    values: tuple[float, ...]
    point: Point
    reason: str


def search(
    task: Task, objective: Objective, n_trials: int, places: Sequence[str | None]
) -> list[Tried]:
    """Finish `n_trials` of a study, earlier ones among them, and return how each ended.

    Args:
        objective: can be pickled where there are several workers.
        places: CUDA_VISIBLE_DEVICES of each worker, or None for all GPUs. One worker is this
            process.

    Raises:
        EcgforgeError: the database cannot be used, another process runs the study, or a worker
            failed.
    """
    study = _opened(task)
    try:
        with _lock(task, task.name).acquire(timeout=0):
            _end_lost(task, study, None)
            if len(places) == 1:
                _work(task, objective, n_trials)
            else:
                _side_by_side(task, objective, n_trials, places)
    except Timeout:
        raise EcgforgeError(
            f"another process runs the study '{task.name}': wait until it has ended"
        ) from None
    return tried(study, n_trials)


def tried(study: optuna.Study, n_trials: int) -> list[Tried]:
    """Return how the first `n_trials` of a study ended, each by its last attempt."""
    last = {index: attempts[-1] for index, attempts in _attempts(study).items()}
    return [
        Tried(
            index,
            WORDS[trial.state],
            tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
            trial.params,
            trial.user_attrs.get(REASON, "its worker died too often" if _lost(trial) else ""),
        )
        for index, trial in sorted(last.items())[:n_trials]
    ]


def best(trials: Sequence[Tried], directions: Sequence[Direction]) -> Tried:
    """Return the trial with the best first value, the earliest of equals; of those no worse than
    the first trial in the second, if any.

    Raises:
        EcgforgeError: no trial is complete.
    """
    done = [trial for trial in trials if trial.values]
    if not done:
        raise EcgforgeError(f"no trial came to its end; the first one: {trials[0].reason}")
    if len(directions) > 1 and trials[0].values:
        done = [
            trial
            for trial in done
            if _gain(trial, directions, 1) >= _gain(trials[0], directions, 1)
        ]
    return max(done, key=lambda trial: (_gain(trial, directions, 0), -trial.number))


def front(trials: Sequence[Tried], directions: Sequence[Direction]) -> list[Tried]:
    """Return the trials that no other is better than in one objective and as good in all (the
    Pareto front), by first value.
    """
    gains = {
        trial.number: [_gain(trial, directions, part) for part in range(len(directions))]
        for trial in trials
        if trial.values
    }

    def beaten(mine: list[float]) -> bool:
        return any(
            other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
            for other in gains.values()
        )

    kept = [trial for trial in trials if trial.values and not beaten(gains[trial.number])]
    return sorted(kept, key=lambda trial: gains[trial.number], reverse=True)


def _gain(trial: Tried, directions: Sequence[Direction], part: int) -> float:
    return trial.values[part] * (1 if directions[part] == "maximize" else -1)


def opened(task: Task) -> optuna.Study:
    """Return the study of a task, a new one or the one that there is."""
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if task.warmup is not None:
        pruner = optuna.pruners.PercentilePruner(KEPT, UNPRUNED, task.warmup)
    local = task.url.startswith(SQLITE)
    engine = {"connect_args": {"timeout": PATIENCE}} if local else {"pool_pre_ping": True}
    return optuna.create_study(
        storage=optuna.storages.RDBStorage(task.url, engine),
        study_name=task.name,
        directions=task.directions,
        pruner=pruner,
        load_if_exists=True,
    )


def _opened(task: Task) -> optuna.Study:
    """Open a study for the first time: processes that create a SQLite database at once break it."""
    try:
        with _lock(task):
            return opened(task)
    except Exception as error:  # of SQLAlchemy, of a driver that is missing, of the file system
        where = task.url.rpartition("@")[2]  # without user and password
        reason = " ".join(str(error).split())[:300]
        raise EcgforgeError(
            f"the studies' database {where} cannot be used ({reason}): mend or unset "
            "ECGFORGE_TUNING_STORAGE"
        ) from error


def _lock(task: Task, study: str = "") -> FileLock:
    """Return the lock of a database, or of one of its studies."""
    database = Path(task.url.removeprefix(SQLITE))
    if not task.url.startswith(SQLITE):
        LOCKS.mkdir(exist_ok=True)
        database = LOCKS / f"tuning-{_short(task.url)}"
    return FileLock(f"{database}.{_short(study)}.lock" if study else f"{database}.lock")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _attempts(study: optuna.Study) -> dict[int, list[FrozenTrial]]:
    """Return the attempts at each trial by its index, in order."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        found.setdefault(trial.user_attrs[INDEX], []).append(trial)
    return found


def _lost(trial: FrozenTrial) -> bool:
    """Return whether the worker of a trial was killed: any other failure has a reason."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def _end_lost(task: Task, study: optuna.Study, worker: int | None) -> None:
    """End the trials that a killed worker was running; None means any worker."""
    with _lock(task):  # under which a living worker takes a trial and puts its name on it
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if worker in (None, trial.user_attrs.get(WORKER, worker)):
                study.tell(trial.number, state=TrialState.FAIL)


def _work(task: Task, objective: Objective, n_trials: int) -> None:
    """Run trials until none of the first `n_trials` is left to take."""
    study = opened(task)
    while trial := _take(task, study, n_trials):
        _run(task, study, objective, trial)


def _take(task: Task, study: optuna.Study, n_trials: int) -> Trial | None:
    """Take the first trial that was not run yet or lost its worker; None where none is left."""
    with _lock(task):
        attempts = _attempts(study)
        index = next((one for one in range(n_trials) if _open(attempts.get(one, []))), None)
        if index is None:
            return None
        _queue(task, study, index, attempts.get(index, []))
        # The index seeds the sampler, so that the choice depends neither on the worker that takes
        # the trial nor on what was killed before.
        seed = int(np.random.SeedSequence([task.seed, index]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        trial = study.ask()
        trial.set_user_attr(WORKER, os.getpid())
        return trial


def _open(attempts: list[FrozenTrial]) -> bool:
    if not attempts or attempts[-1].state == TrialState.WAITING:
        return True
    return _lost(attempts[-1]) and len(attempts) <= RETRIES


def _queue(task: Task, study: optuna.Study, index: int, attempts: list[FrozenTrial]) -> None:
    """Let a trial wait to be taken, with the point and the curve of the attempt before."""
    before = attempts[-1] if attempts else None
    if before is not None and before.state == TrialState.WAITING:
        return
    if before is None or before.params.keys() != task.space.keys():
        study.enqueue_trial({} if index else task.defaults, user_attrs={INDEX: index})
        return
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=before.params,
            distributions=before.distributions,
            user_attrs={INDEX: index},
            intermediate_values=before.intermediate_values,
        )
    )


def _run(task: Task, study: optuna.Study, objective: Objective, trial: Trial) -> None:
    """Let a trial choose its point, judge it, and write down how it ended.

    What is no verdict on the point, as an interruption, leaves the trial running: the next process
    that runs the study takes it up again.
    """
    point, index = suggest(trial, task.space), trial.user_attrs[INDEX]
    known = study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def report(value: float, step: int) -> None:
        if len(task.directions) > 1:
            return
        if step not in known:
            trial.report(value, step)
        if index and trial.should_prune():  # the first trial is what others are compared with
            raise PrunedError(f"among the worst at step {step}")

    try:
        values = objective(Attempt(index, point, report))
        if not all(map(math.isfinite, values)):
            raise TrialError("its score is not a finite number")
    except (PrunedError, TrialError) as error:
        pruned = isinstance(error, PrunedError)
        trial.set_user_attr(REASON, str(error))
        study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        console.err.print(f"trial {index}: {'pruned' if pruned else 'failed'}, {error}")
    else:
        study.tell(trial, values)
        console.err.print(f"trial {index}: " + " ".join(f"{value:.4g}" for value in values))


def _side_by_side(
    task: Task, objective: Objective, n_trials: int, places: Sequence[str | None]
) -> None:
    """Keep a worker in each place until the study is done: one that was killed is replaced."""
    context = multiprocessing.get_context("spawn")  # a GPU can't be used in a fork

    def start(place: int) -> Any:
        process = context.Process(target=_worker, args=(task, objective, n_trials, places[place]))
        process.start()
        return process

    study, deaths = opened(task), 0
    workers = {place: start(place) for place in range(len(places))}
    try:
        while workers:
            wait([process.sentinel for process in workers.values()])
            for place, process in list(workers.items()):
                if process.exitcode is None:
                    continue
                del workers[place]
                if 0 < process.exitcode < KILLED:
                    raise EcgforgeError(
                        "a worker of the study failed, its error is above; what was done is kept"
                    )
                if process.exitcode:
                    deaths += 1
                    _end_lost(task, study, process.pid)
                    console.err.print("a worker was killed; its trial will be retried", style="red")
                    if deaths > RETRIES * len(places):
                        raise EcgforgeError(
                            "workers of the study were killed again and again: is there enough "
                            "memory for so many?"
                        )
                    workers[place] = start(place)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _worker(task: Task, objective: Objective, n_trials: int, place: str | None) -> None:
    """The main function of a worker process."""
    if place is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    end_with_parent()
    try:
        _work(task, objective, n_trials)
    except KeyboardInterrupt:
        raise SystemExit(KILLED + signal.SIGINT) from None
    except Exception as error:
        console.err.print(f"ecgforge: {explained(error)}", style="red")
        raise SystemExit(1) from None
