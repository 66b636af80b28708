"""Studies: trials in a database, done by one process or by several, which may be killed and started again at any time.

All trials of a study are put into its database beforehand, waiting; a worker takes one that waits, and never makes one up, so that no
number of workers does more or fewer than were asked for; where fewer are asked for than once were, the last ones go on waiting. A worker
that dies leaves a trial that runs without a heartbeat: another puts it back, with its values and what it reported, and it goes on under
its first number.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, Trial, TrialState

from ecgforge import console
from ecgforge.errors import EcgforgeError, PrunedError, TrialError, explained
from ecgforge.tuning.space import Point, Space, suggest
from ecgforge.workers import end_with_parent

Direction = Literal["maximize", "minimize"]

SQLITE = "sqlite:///"
HEARTBEAT = 10  # s
MISSED = 6  # heartbeats, after which a trial's worker is taken for dead
RETRIES = 3  # of a trial whose worker died
UNPRUNED = 4  # trials to finish before one can be pruned
KEPT = 75.0  # percent of trials at a step, the best ones, that go on: half of them is too few where the rate of learning is searched
KILLED = 128  # exit codes above and below 0 say by which signal
PATIENCE = 60  # s, that a process waits for another's lock on a SQLite database

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats have been experimental since 2021
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Task:
    """A study.

    Attributes:
        name: belongs to what is tuned, its inputs, space and code: studies of one name are one study.
        url: of the database, as SQLAlchemy writes it.
        space: what trials choose from.
        defaults: the point of the first trial.
        directions: of each objective; the first is the one that trials report on the way.
        seed: of the sampler.
        warmup: step before which no trial is pruned; None prunes none, nor are trials of two objectives.
        heartbeat: s.
    """

    name: str
    url: str
    space: Space
    defaults: Point
    directions: tuple[Direction, ...]
    seed: int
    warmup: int | None
    heartbeat: int = HEARTBEAT


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


def search(task: Task, objective: Objective, n_trials: int, places: Sequence[str | None]) -> list[Tried]:
    """Finish `n_trials` of a study, the ones that were done before among them, and return how each ended.

    Args:
        objective: can be pickled where there are several workers.
        places: CUDA_VISIBLE_DEVICES of each worker, or None for what there is. One worker is this process.

    Raises:
        EcgforgeError: the database cannot be used, or a worker failed.
    """
    study = _opened(task)
    for count in range(len(_originals(study)), n_trials):
        study.enqueue_trial({} if count else task.defaults)
    asked = frozenset(_originals(study)[:n_trials])
    if len(places) == 1:
        _work(task, objective, asked)
    else:
        _side_by_side(task, objective, asked, places)
    return tried(study, n_trials)


def tried(study: optuna.Study, n_trials: int) -> list[Tried]:
    """Return how the first `n_trials` of a study ended, each by its last attempt."""
    last: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        last[_original(trial)] = trial
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return [
        Tried(
            number,
            words[trial.state],
            tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
            trial.params,
            trial.user_attrs.get("reason", "its worker died too often" if trial.state == TrialState.FAIL else ""),
        )
        for number, trial in sorted(last.items())[:n_trials]
    ]


def best(trials: Sequence[Tried], directions: Sequence[Direction]) -> Tried:
    """Return the trial with the best first value, the earliest of equals; of those no worse than the first trial in the second, if any.

    Raises:
        EcgforgeError: no trial is complete.
    """
    done = [trial for trial in trials if trial.values]
    if not done:
        raise EcgforgeError(f"no trial came to its end; the first one: {trials[0].reason}")
    if len(directions) > 1 and trials[0].values:
        done = [trial for trial in done if _gain(trial, directions, 1) >= _gain(trials[0], directions, 1)]
    return max(done, key=lambda trial: (_gain(trial, directions, 0), -trial.number))


def front(trials: Sequence[Tried], directions: Sequence[Direction]) -> list[Tried]:
    """Return the trials that no other is better than in one objective and as good in all (the Pareto front), by first value."""
    gains = {trial.number: [_gain(trial, directions, part) for part in range(len(directions))] for trial in trials if trial.values}

    def beaten(mine: list[float]) -> bool:
        return any(other != mine and all(a >= b for a, b in zip(other, mine, strict=True)) for other in gains.values())

    kept = [trial for trial in trials if trial.values and not beaten(gains[trial.number])]
    return sorted(kept, key=lambda trial: gains[trial.number], reverse=True)


def _gain(trial: Tried, directions: Sequence[Direction], part: int) -> float:
    return trial.values[part] * (1 if directions[part] == "maximize" else -1)


class _NoneWaits(Exception):  # noqa: N818 nothing is wrong
    pass


class _Left(BaseException):
    """What is no verdict on a trial, as an interruption: Optuna would take it for one, and end the trial as failed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Waiting(optuna.storages.RDBStorage):
    """A database whose trials all were put there on purpose, and are taken by one worker each.

    SQLite has no lock of a row, so two workers could find that a trial waits, and both take it; there, a file lock lets one at a time
    look and take.
    """

    taking: AbstractContextManager[Any]
    asked: frozenset[int]  # numbers of the trials that may be taken

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state == TrialState.RUNNING and _original(self.get_trial(trial_id)) not in self.asked:
            return False  # as where another worker has it: the next one that waits is tried
        with self.taking:
            return super().set_trial_state_values(trial_id, state, values)

    # Optuna's cache of a database calls this method of it, private as it is.
    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is None:
            raise _NoneWaits
        return super()._create_new_trial(study_id, template_trial)


def _storage(task: Task, asked: frozenset[int]) -> optuna.storages.RDBStorage:
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True)
    engine = {"connect_args": {"timeout": PATIENCE}} if task.url.startswith(SQLITE) else {"pool_pre_ping": True}
    storage = _Waiting(
        task.url,
        engine,
        heartbeat_interval=task.heartbeat,
        grace_period=MISSED * task.heartbeat,
        heartbeat_stale_trial_callback=retry,
    )
    storage.taking, storage.asked = _alone(task), asked
    return storage


def _alone(task: Task) -> AbstractContextManager[Any]:
    """What a SQLite database needs around what only one process may do at a time; others look after that themselves."""
    return FileLock(f"{task.url.removeprefix(SQLITE)}.lock") if task.url.startswith(SQLITE) else nullcontext()


def opened(task: Task, asked: frozenset[int] = frozenset()) -> optuna.Study:
    """Return the study of a task, a new one or the one that there is.

    Args:
        asked: numbers of the trials that can be taken from it.
    """
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if task.warmup is not None:
        pruner = optuna.pruners.PercentilePruner(KEPT, UNPRUNED, task.warmup)
    storage = _storage(task, asked)
    return optuna.create_study(storage=storage, study_name=task.name, directions=task.directions, pruner=pruner, load_if_exists=True)


def _opened(task: Task) -> optuna.Study:
    """Open a study for the first time: processes that create a SQLite database at once would break it."""
    try:
        with _alone(task):
            return opened(task)
    except Exception as error:  # of SQLAlchemy, of a driver that is missing, of the file system
        where = task.url.rpartition("@")[2]  # without user and password
        reason = " ".join(str(error).split())[:300]
        raise EcgforgeError(f"the studies' database {where} cannot be used ({reason}): mend or unset ECGFORGE_TUNING_STORAGE") from error


def _original(trial: FrozenTrial) -> int:
    return int(trial.system_attrs.get("failed_trial", trial.number))


def _originals(study: optuna.Study) -> list[int]:
    """Return the numbers of all trials but retries, in order."""
    return [trial.number for trial in study.get_trials(deepcopy=False) if _original(trial) == trial.number]


def _work(task: Task, objective: Objective, asked: frozenset[int]) -> None:
    """Do what waits and is asked for; then stay until none of it is running, since its worker may die."""
    study = opened(task, asked)
    silent: dict[int, float] = {}  # trials without a heartbeat, and when each was first seen
    while True:
        try:
            study.optimize(partial(_attempt, task, objective), catch=(TrialError,))
        except _NoneWaits:
            pass
        except _Left as left:
            raise left.error from None
        running = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if _original(trial) in asked]
        if not running:
            return
        now = time.monotonic()
        silent = {trial.number: silent.get(trial.number, now) for trial in running if not trial.params}
        time.sleep(task.heartbeat)
        _put_back(study, [trial for trial in running if now - silent.get(trial.number, now) > 2 * MISSED * task.heartbeat])


def _attempt(task: Task, objective: Objective, trial: Trial) -> Sequence[float]:
    """Let a trial choose its point, and judge it."""
    # Seeded by the trial, so that neither who takes it nor what was interrupted before changes what it chooses.
    seed = int(np.random.SeedSequence([task.seed, trial.number]).generate_state(1)[0])
    trial.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    point = suggest(trial, task.space)
    frozen = trial.study.get_trials(deepcopy=False)[trial.number]
    number = _original(frozen)
    known = frozen.intermediate_values

    def report(value: float, step: int) -> None:
        if len(task.directions) > 1:
            return
        if step not in known:
            trial.report(value, step)
        if number and trial.should_prune():  # the first trial is what others are compared with
            raise PrunedError(f"among the worst at step {step}")

    try:
        values = objective(Attempt(number, point, report))
    except PrunedError as error:
        trial.set_user_attr("reason", str(error))
        _tell(number, f"pruned, {error}")
        raise optuna.TrialPruned(str(error)) from None
    except TrialError as error:
        trial.set_user_attr("reason", str(error))
        _tell(number, f"failed, {error}")
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        raise _Left(error) from error
    _tell(number, " ".join(f"{value:.4g}" for value in values))
    return values


def _tell(number: int, how: str) -> None:
    console.err.print(f"trial {number}: {how}")


def _put_back(study: optuna.Study, silent: list[FrozenTrial]) -> None:
    """Let trials whose worker died wait again.

    Args:
        silent: those that have been running for long without a heartbeat, which Optuna would never take for stale: their worker died
            between taking them and the first one.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in silent:
        try:
            mine = study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            mine = False
        if mine:  # else another worker has put it back
            optuna.storages.RetryHeartbeatStaleTrialCallback(RETRIES)(study, copy.deepcopy(trial))


def _side_by_side(task: Task, objective: Objective, asked: frozenset[int], places: Sequence[str | None]) -> None:
    """Keep a worker in each place until the study is done: one that was killed is replaced."""
    context = multiprocessing.get_context("spawn")  # a GPU can't be used in a fork

    def start(place: int) -> Any:
        process = context.Process(target=_worker, args=(task, objective, asked, places[place]))
        process.start()
        return process

    workers = {place: start(place) for place in range(len(places))}
    deaths = 0
    try:
        while workers:
            wait([process.sentinel for process in workers.values()])
            for place, process in list(workers.items()):
                if process.exitcode is None:
                    continue
                del workers[place]
                if 0 < process.exitcode < KILLED:
                    raise EcgforgeError("a worker of the study failed, its error is above; what was done is kept")
                if process.exitcode:
                    deaths += 1
                    console.err.print("a worker was killed; its trial will be retried", style="red")
                    if deaths > RETRIES * len(places):
                        raise EcgforgeError("workers of the study were killed again and again: is there enough memory for so many?")
                    workers[place] = start(place)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _worker(task: Task, objective: Objective, asked: frozenset[int], place: str | None) -> None:
    """The main function of a worker process."""
    if place is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    end_with_parent()
    try:
        _work(task, objective, asked)
    except KeyboardInterrupt:
        raise SystemExit(KILLED + signal.SIGINT) from None
    except Exception as error:
        console.err.print(f"ecgforge: {explained(error)}", style="red")
        raise SystemExit(1) from None
