"""Studies: trials in a database, run by one or several processes that may be killed at any time.

One process runs a study (`search`). Its workers take trials from the database one by one, under a
lock. A trial of a killed worker is queued again with its reported values, and resumes from its
checkpoint. Each trial has an `index`; a retry has the index of the trial that it repeats.

On a cluster, the database is on a server, and each worker has a number and runs on some machine
(`take_part`). A worker that is started again ends the trial of its former attempt.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from ecgforge.workers import end_with_parent, use_gpu

Direction = Literal["maximize", "minimize"]

SQLITE, POSTGRESQL = "sqlite:///", "postgresql"  # URLs of databases start like this
LOCKS = Path(".ecgforge")  # folder of the locks for studies on a database server
INDEX, WORKER, REASON = "index", "worker", "reason"  # attributes of a trial in the database
RETRIES = 3  # of a trial whose worker was killed
UNPRUNED = 4  # number of trials to finish before pruning starts
# Percent of trials that continue at a step. Optuna's default, half of them, is too few if the
# learning rate is searched.
KEPT = 75.0
KILLED = 128  # exit codes below 0 and above 128 encode a signal
PATIENCE = 60  # s, waiting time for the lock of a SQLite database
LOOK_EVERY = 2.0  # s, between looks at the trials of other workers
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Task:
    """A study.

    Attributes:
        name: a digest of the target, inputs, space and code; equal names mean the same study.
        url: of the database, in SQLAlchemy's form.
        space: ranges of the parameters.
        defaults: the point of the first trial.
        directions: of each objective; trials report the first objective during training.
        seed: of the sampler.
        warmup: number of steps without pruning; None turns pruning off, as do two objectives.
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
    """A running trial: its index, its point, and the function that reports its curve.

    `report(value, step)` raises PrunedError if the trial is pruned.
    """

    number: int
    point: Point
    report: Callable[[float, int], None]


Objective = Callable[[Attempt], Sequence[float]]  # raises TrialError if the point is at fault


@dataclass(frozen=True)
class TrialResult:
    """A finished trial.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        values: of each objective; empty unless complete.
        reason: of the failure or the pruning.
    """

    number: int
    state: str
    values: tuple[float, ...]
    point: Point
    reason: str


def search(
    task: Task, objective: Objective, n_trials: int, places: Sequence[str | None]
) -> list[TrialResult]:
    """Run a study until it has `n_trials` finished trials, and return all of them.

    Args:
        objective: must be picklable for several workers.
        places: CUDA_VISIBLE_DEVICES of each worker, None for all GPUs. A single worker runs in this
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
                _work(task, objective, n_trials, os.getpid())
            else:
                _side_by_side(task, objective, n_trials, places)
    except Timeout:
        raise EcgforgeError(
            f"another process runs the study '{task.name}': wait until it has ended"
        ) from None
    return results(study, n_trials)


def take_part(task: Task, objective: Objective, n_trials: int, number: int) -> list[TrialResult]:
    """Run trials as one of several workers on a cluster until none is left.

    Args:
        number: of this worker. Worker 0 also waits for the trials of the others, and runs those
            that are queued again.

    Returns:
        All trials to worker 0, and none to the others, which can end earlier.

    Raises:
        EcgforgeError: the database cannot be used.
    """
    study, worker = _opened(task), f"worker {number}"
    _end_lost(task, study, worker)
    _work(task, objective, n_trials, worker)
    if number:
        return []
    while _unfinished(study, n_trials):
        time.sleep(LOOK_EVERY)
        _work(task, objective, n_trials, worker)
    return results(study, n_trials)


def _unfinished(study: optuna.Study, n_trials: int) -> bool:
    """Return whether one of the first `n_trials` runs, or is queued."""
    attempts = _attempts(study)
    return any(
        _open(attempts.get(index, [])) or attempts[index][-1].state == TrialState.RUNNING
        for index in range(n_trials)
    )


def results(study: optuna.Study, n_trials: int) -> list[TrialResult]:
    """Return the results of the first `n_trials` trials of a study, each from its last attempt."""
    last = {index: attempts[-1] for index, attempts in _attempts(study).items()}
    return [
        TrialResult(
            index,
            WORDS[trial.state],
            tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
            trial.params,
            trial.user_attrs.get(REASON, "its worker was killed too often" if _lost(trial) else ""),
        )
        for index, trial in sorted(last.items())[:n_trials]
    ]


def best(trials: Sequence[TrialResult], directions: Sequence[Direction]) -> TrialResult:
    """Return the trial with the best first value, the earliest of equal ones.

    If there is a second value, only trials that are not worse than the first trial in it count.

    Raises:
        EcgforgeError: no trial is complete.
    """
    done = [trial for trial in trials if trial.values]
    if not done:
        raise EcgforgeError(f"no trial was completed; the first one: {trials[0].reason}")
    if len(directions) > 1 and trials[0].values:
        done = [
            trial
            for trial in done
            if _gain(trial, directions, 1) >= _gain(trials[0], directions, 1)
        ]
    return max(done, key=lambda trial: (_gain(trial, directions, 0), -trial.number))


def front(trials: Sequence[TrialResult], directions: Sequence[Direction]) -> list[TrialResult]:
    """Return the Pareto front of the trials, sorted by first value."""
    gains = {
        trial.number: [_gain(trial, directions, part) for part in range(len(directions))]
        for trial in trials
        if trial.values
    }

    def dominated(gain: list[float]) -> bool:
        return any(
            other != gain and all(a >= b for a, b in zip(other, gain, strict=True))
            for other in gains.values()
        )

    kept = [trial for trial in trials if trial.values and not dominated(gains[trial.number])]
    return sorted(kept, key=lambda trial: gains[trial.number], reverse=True)


def _gain(trial: TrialResult, directions: Sequence[Direction], part: int) -> float:
    return trial.values[part] * (1 if directions[part] == "maximize" else -1)


def opened(task: Task) -> optuna.Study:
    """Return the study of a task, new or existing."""
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
    """Open a study under a lock: two processes that create a database at once damage it."""
    try:
        with _turn(task):
            return opened(task)
    except Exception as error:  # SQLAlchemy, missing drivers and the file system raise many classes
        where = task.url.rpartition("@")[2]  # without user and password
        reason = " ".join(str(error).split())[:300]
        raise EcgforgeError(
            f"the tuning database {where} cannot be used ({reason}): correct or unset "
            "ECGFORGE_TUNING_STORAGE"
        ) from error


@contextmanager
def _turn(task: Task) -> Iterator[None]:
    """Let one process at a time take or end trials: on all machines, if a PostgreSQL server has the
    trials, and on this one otherwise.
    """
    if not task.url.startswith(POSTGRESQL):
        with _lock(task):
            yield
        return
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    key = int.from_bytes(hashlib.sha256(b"ecgforge").digest()[:8], signed=True)
    with create_engine(task.url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        yield  # the lock ends with the connection


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
    """Return whether the worker of a trial was killed: all other failures have a reason."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def _end_lost(task: Task, study: optuna.Study, worker: int | str | None) -> None:
    """Set the running trials of a killed worker to failed; None means all workers."""
    with _turn(task):  # a living worker takes a trial and registers its name under this lock
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if worker in (None, trial.user_attrs.get(WORKER, worker)):
                study.tell(trial.number, state=TrialState.FAIL)


def _work(task: Task, objective: Objective, n_trials: int, worker: int | str) -> None:
    """Run trials until none of the first `n_trials` is left.

    Args:
        worker: its name in the database: a process of this machine, or a worker of a cluster.
    """
    study = opened(task)
    while trial := _take(task, study, n_trials, worker):
        _run(task, study, objective, trial)


def _take(task: Task, study: optuna.Study, n_trials: int, worker: int | str) -> Trial | None:
    """Take the first trial that was not run or whose worker was killed; None if none is left."""
    with _turn(task):
        attempts = _attempts(study)
        index = next((one for one in range(n_trials) if _open(attempts.get(one, []))), None)
        if index is None:
            return None
        _queue(task, study, index, attempts.get(index, []))
        # The seed depends on the index only, so that neither the worker nor earlier kills change
        # the point.
        seed = int(np.random.SeedSequence([task.seed, index]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        trial = study.ask()
        trial.set_user_attr(WORKER, worker)
        return trial


def _open(attempts: list[FrozenTrial]) -> bool:
    if not attempts or attempts[-1].state == TrialState.WAITING:
        return True
    return _lost(attempts[-1]) and len(attempts) <= RETRIES


def _queue(task: Task, study: optuna.Study, index: int, attempts: list[FrozenTrial]) -> None:
    """Queue a trial again, with the point and the curve of the attempt before."""
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
    """Run a trial and record its result.

    An interruption is not a result: the trial stays running, and the next process resumes it.
    """
    point, index = suggest(trial, task.space), trial.user_attrs[INDEX]
    known = study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def report(value: float, step: int) -> None:
        if len(task.directions) > 1:
            return
        if step not in known:
            trial.report(value, step)
        # the first trial is never pruned: others are compared with it
        if index and trial.should_prune():
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
    """Keep one worker running per place until the study is done; killed workers are replaced."""
    context = multiprocessing.get_context("spawn")  # a GPU cannot be used after a fork

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
                        "a worker of the study failed, its error is above; finished trials are kept"
                    )
                if process.exitcode:
                    deaths += 1
                    _end_lost(task, study, process.pid)
                    console.err.print("a worker was killed; its trial will be retried", style="red")
                    if deaths > RETRIES * len(places):
                        raise EcgforgeError(
                            "workers of the study were killed repeatedly: is there enough "
                            "memory for all workers?"
                        )
                    workers[place] = start(place)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _worker(task: Task, objective: Objective, n_trials: int, place: str | None) -> None:
    """Run a worker process."""
    use_gpu(place)
    end_with_parent()
    try:
        _work(task, objective, n_trials, os.getpid())
    except KeyboardInterrupt:
        raise SystemExit(KILLED + signal.SIGINT) from None
    except Exception as error:
        console.err.print(f"ecgforge: {explained(error)}", style="red")
        raise SystemExit(1) from None
