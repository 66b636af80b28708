"""Cells on several machines: exchange of inputs and outputs by DVC's remote and dvc.lock.

A machine that runs a cell has a clone of its own. It gets the entries of the cells above, pulls
their outputs, runs the cell, pushes its outputs, and returns the cell's entry. All objects have
content addresses, so machines cannot overwrite each other's results. Only the machine that
distributes the cells writes the study's dvc.lock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from ecgforge import console, folders
from ecgforge.dvc import internals, lock
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.params import Params
from ecgforge.pipeline import local
from ecgforge.pipeline.engine import TUNES, Cell, short
from ecgforge.tracking import store

TRIES = 4  # of a transfer
GRACE = 30.0  # s, for a stage to end its run
PREEMPTED = 128 + signal.SIGTERM  # exit code of a cell that was terminated and can resume


def check(root: Path) -> None:
    """Check that other machines can run the cells of this project; call it before work starts.

    Raises:
        EcgforgeError: they cannot; the message says what to set up.
    """
    uri = store.configure()
    if not uri.startswith(("http://", "https://")):
        kind = "a SQLite file" if uri.startswith(store.SQLITE) else "a database without a server"
        raise EcgforgeError(
            f"MLflow keeps its runs in {kind}, and machines cannot share its files: start `mlflow "
            "server` with --artifacts-destination, and set MLFLOW_TRACKING_URI to its http address"
        )
    changed = store.git(root, "status", "--porcelain", "--", ".", f":(exclude){lock.LOCK}")
    if changed or not store.git(root, "rev-parse", "HEAD"):
        raise EcgforgeError(
            "other machines run the last commit, and some files differ from it "
            f"({', '.join(line[3:] for line in changed.splitlines()[:3]) or 'there is no commit'}):"
            " commit them first"
        )
    _check_exchange(root)


def _check_exchange(root: Path) -> None:
    """Check that there is a place that all machines can read and write."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        config = repo.config
        if shared_cache(config):
            return
        remote = config["core"].get("remote")
        url = config["remote"].get(remote, {}).get("url", "") if remote else ""
    if not url or url.startswith(("http://", "https://")):
        reason = f"the remote '{remote}' is at {url}" if url else "there is no default remote"
        raise EcgforgeError(
            f"machines exchange outputs by a DVC remote that they can write, and {reason}: run "
            "`dvc remote add --default NAME URL` with a bucket or a shared folder"
        )


def check_tuning(cells: Iterable[Cell], params: Params) -> None:
    """Check that machines can share the trials of tuning, if any cell has some.

    Raises:
        EcgforgeError: they cannot.
    """
    tuned = [cell.name for cell in cells if cell.stage in TUNES and not short(cell, params)]
    if tuned and not os.environ.get(folders.TUNING_STORAGE, "").startswith("postgresql"):
        raise EcgforgeError(
            f"{tuned[0]} has trials, and machines share trials in a PostgreSQL database only: set "
            f"{folders.TUNING_STORAGE} to its URL, such as postgresql+psycopg://user:password@host/db"
        )


def check_server(experiment: str) -> None:
    """Check that MLflow's server takes files from other machines.

    Raises:
        EcgforgeError: it does not.
    """
    store.ensure_reachable()
    found = store.with_retry(store.client().get_experiment_by_name, experiment)
    address = found.artifact_location if found else "mlflow-artifacts:"
    if "://" not in address and not address.startswith("mlflow-artifacts:"):
        raise EcgforgeError(
            f"MLflow's experiment '{experiment}' keeps files in the folder {address} of one "
            "machine: start `mlflow server` with --artifacts-destination and a new database, or "
            "set MLFLOW_EXPERIMENT_NAME"
        )


def shared_cache(config: Any) -> str:
    """Return the folder of a DVC cache that was set for all machines; empty if there is none."""
    return str(config["cache"].get("dir") or "")


def run_alone(name: str, given: Path | None, entry: Path | None) -> int:
    """Run a cell in this clone, as the only one, and return the exit code.

    Args:
        given: a file with entries of dvc.lock for the cells above; None if dvc.lock has them.
        entry: where to write the entry of the cell.
    """
    end_with_sigterm()
    end_with_sigint()
    if given:
        found = lock.stages(given.read_text(encoding="utf-8"))
        if found is None:
            raise EcgforgeError(f"{given} is not complete: write it again from dvc.lock")
        lock.write_entries(Path(), found)
    if not run(name):
        return 1
    if entry and os.environ.get(folders.WORKER, "0") == "0":
        ended = (lock.stages(Path(lock.LOCK).read_text(encoding="utf-8")) or {})[name]
        with atomic_write(entry) as scratch, scratch.open("w", encoding="utf-8") as file:
            lock.dump({"schema": "2.0", "stages": {name: ended}}, file)
    return 0


def above(name: str) -> list[str]:
    """Return the cells whose outputs a cell reads.

    Raises:
        EcgforgeError: there is no such cell.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        graph = repo.index.graph
        for stage in graph:
            if stage.addressing == name:
                return [up.addressing for up in graph.successors(stage)]
    raise EcgforgeError(f"'{name}' is not a cell of this study: `dvc stage list` lists them")


def run(name: str) -> bool:
    """Pull the inputs of a cell, run it, and push its outputs.

    Returns:
        Whether the cell succeeded; its error is printed.
    """
    from dvc.exceptions import DvcException

    try:
        pull(above(name))
        if os.environ.get(folders.WORKER, "0") != "0":
            return _run_trials(name)
        if not local.repro_one(name):
            return False
        push([name])
    except (DvcException, OSError) as error:
        reasons = [str(one) for one in (error, error.__cause__) if one]
        console.err.print(f"{name}: {': '.join(reasons)}", style="red", markup=False)
        return False
    return True


def _run_trials(name: str) -> bool:
    """Run the command of a cell, as a worker that has no part in its outputs."""
    from dvc.repo import Repo

    with Repo() as repo:
        command = next(stage.cmd for stage in repo.index.stages if stage.addressing == name)
    return subprocess.run(command, shell=True, check=False).returncode == 0


def _passing(error: BaseException) -> bool:
    from dvc.exceptions import DownloadError, UploadError

    return isinstance(error, OSError | DownloadError | UploadError)


with_retry = retry(
    retry=retry_if_exception(_passing),
    stop=stop_after_attempt(TRIES),
    wait=wait_random_exponential(1, max=20),
    reraise=True,
)


@with_retry
def pull(cells: list[str]) -> None:
    """Get the outputs of cells from the cache or the remote.

    Raises:
        DvcException, OSError: some cannot be had, after several tries.
    """
    if cells:
        with internals.waiting_repo() as repo:
            if repo.config["core"].get("remote"):
                repo.fetch(cells)
            repo.checkout(cells, force=True)


@with_retry
def push(cells: list[str]) -> None:
    """Copy the outputs of cells to the remote, if there is one.

    Raises:
        DvcException, OSError: some could not be copied, after several tries.
    """
    if cells:
        with internals.waiting_repo() as repo:
            if repo.config["core"].get("remote"):
                repo.push(cells)


def end_with_sigint() -> None:
    """Let SIGINT interrupt this process and its stages.

    Ray blocks this signal in the processes of nodes, and a shell ignores it in the background. Both
    settings are inherited.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with_sigterm() -> None:
    """On SIGTERM, let the stages of this process end their runs, and exit with `PREEMPTED`."""
    import psutil

    def terminate(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        children = psutil.Process().children(recursive=True)
        for child in children:
            child.terminate()
        psutil.wait_procs(children, timeout=GRACE)
        sys.exit(PREEMPTED)

    signal.signal(signal.SIGTERM, terminate)
