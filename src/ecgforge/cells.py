"""Run DVC's stages side by side: DVC itself runs one at a time.

Here each is a `dvc repro` of its own, started when those before it are done, in worker processes that load DVC once. DVC stays
the judge of what is up to date, and holds its locks; this only decides the order.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import operator
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from ecgforge import warm
from ecgforge.errors import EcgforgeError
from ecgforge.workers import obey

LOCK, TRIES = Path(".dvc/tmp/rwlock"), 10

console = Console(stderr=True)

# What most stages load, together 12 s.
SLOW = (
    "mlflow.pytorch",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "neurokit2",
    "sklearn.manifold",
    "ecgforge.stages.assess",
    "ecgforge.stages.classify",
    "ecgforge.stages.parameters",
    "ecgforge.stages.sweeps",
    "ecgforge.stages.synthesize",
    "ecgforge.stages.train_generator",
)


def repro(targets: list[str], jobs: int) -> int:
    """Bring `targets`, or all stages, and what they need up to date, `jobs` of them at a time; return the exit code.

    Raises:
        EcgforgeError: a target is no stage or cell, DVC cannot read the stages, or another process is at work on them.
    """
    from dvc.exceptions import DvcException

    from ecgforge.stages import parameters

    _mend_lock()
    try:
        stages = _stale_stages(targets)
    except DvcException as error:
        raise EcgforgeError(" ".join(str(error).split())) from None
    if not stages:
        console.print("Data and pipelines are up to date.")
        return 0
    parameters.read(Path("params.yaml"))
    # Threads that share a core spend their time waiting for each other; compute.threads sets those of torch.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with warm.server(SLOW, "ecgforge.cli:main"):
        return _run(stages, jobs)


def _mend_lock() -> None:
    """Remove DVC's note of who reads and writes what where a process was killed in the midst of writing it: DVC would refuse to start."""
    for _ in range(TRIES):  # a process that lives is through with it at once
        try:
            json.loads(LOCK.read_text())
            return
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(0.1)
    LOCK.unlink(missing_ok=True)


def _stale_stages(targets: list[str]) -> dict[str, set[str]]:
    """Return the stages to run, each with those of them that come before it."""
    from dvc.repo import Repo, lock_repo

    with each_file_once(), Repo() as repo, lock_repo(repo):
        _check_targets(targets, [stage.addressing for stage in repo.index.stages])
        stale = set(repo.status())
        if not stale:
            return {}
        graph = repo.index.graph
        wanted = _with_ancestors(graph, targets) if targets else {stage.addressing for stage in graph}
        waiting = {stage.addressing: {up.addressing for up in graph.successors(stage)} for stage in graph if stage.addressing in wanted}
    return _downstream(waiting, wanted & stale)


def _check_targets(targets: list[str], cells: list[str]) -> None:
    stages = dict.fromkeys(name.partition("@")[0] for name in cells)
    for target in targets:
        if target not in (*cells, *stages):
            named = [name for name in cells if name.startswith(f"{target.partition('@')[0]}@")]
            example = [f"and cells of these, such as {name}" for name in cells if "@" in name][:1]
            raise EcgforgeError(f"'{target}' is no stage and no cell of this study: there are {', '.join(named or [*stages, *example])}")


@contextmanager
def each_file_once() -> Iterator[None]:
    """Within, DVC looks at each file once. It would parse params.yaml and look through data for every stage that names them, which is
    most of the time of finding that there is nothing to do."""
    from dvc.dependency import param
    from dvc.output import Output

    known: dict[str, Any] = {}
    get_hash = Output.get_hash

    def remembered(output: Output) -> Any:
        if output.fs_path not in known:
            known[output.fs_path] = get_hash(output)
        return known[output.fs_path]

    with (
        patch.object(param, "load_path", functools.cache(param.load_path)),
        patch.object(Output, "get_hash", remembered),
        _parameters_looked_up(),
    ):
        yield


@contextmanager
def _parameters_looked_up() -> Iterator[None]:
    """Within, DVC looks a parameter up by its name; it would walk through all of params.yaml for each."""
    from dvc.dependency import param

    def straight(tree: Any, path: str, separator: str) -> Any:
        try:
            return functools.reduce(operator.getitem, path.split(separator), tree)
        except TypeError:  # of a section that is null: the parameter is missing, and the check of all of them says where
            raise KeyError(path) from None

    with patch.object(param.dpath, "get", straight):
        yield


def _with_ancestors(graph: Any, targets: list[str]) -> set[str]:
    import networkx

    found: set[str] = set()
    for stage in graph:
        if stage.addressing in targets or stage.addressing.partition("@")[0] in targets:
            found |= {stage.addressing, *(up.addressing for up in networkx.descendants(graph, stage))}
    return found


def _downstream(waiting: dict[str, set[str]], stale: set[str]) -> dict[str, set[str]]:
    """Keep of the stages those that are stale or come after a stale one."""
    kept: dict[str, set[str]] = {}
    for name in TopologicalSorter(waiting).static_order():
        needed = waiting[name] & kept.keys()
        if name in stale or needed:
            kept[name] = needed
    return kept


def _run(waiting: dict[str, set[str]], jobs: int) -> int:
    sorter = TopologicalSorter(waiting)
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[bool], str] = {}
    done, failed, started = 0, False, time.monotonic()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The stage that a worker waits for hears of an interruption itself; the worker stays to note how it ended.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=obey) as pool:
        try:
            while running or (sorter.is_active() and not failed):
                ready += sorter.get_ready()
                # No more than there are workers: a pool would start what it has queued after a failure or an interruption, too.
                while ready and len(running) < jobs and not failed:
                    name = ready.pop(0)
                    running[pool.submit(_repro_one, name)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if future.result():
                        done += 1
                        console.print(f"[{done}/{len(waiting)}] {name}", highlight=False, markup=False)
                        sorter.done(name)
                    else:
                        failed = True
                        console.print(
                            f"{name} failed, its error is above; what was done is kept, so mend it and run this again", style="red"
                        )
        except KeyboardInterrupt:
            _interrupt_stages()
            raise
    console.print(f"{done} of {len(waiting)} cells in {timedelta(seconds=round(time.monotonic() - started))}", highlight=False)
    return int(failed)


def _repro_one(name: str) -> bool:
    """Bring one stage up to date; return whether it succeeded. The stage has told on the terminal what went wrong."""
    import logging

    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with _parameters_looked_up(), Repo(_wait_for_lock=True) as repo:
            repo.reproduce([name], single_item=True)
    except DvcException as error:
        console.print(f"{name}: {error}", style="red", highlight=False, markup=False)
        return False
    return True


def _interrupt_stages() -> None:
    """Pass an interruption on to the running stages; at a terminal they heard of it already."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        if "ecgforge" in " ".join(process.cmdline()[:2]):
            process.send_signal(signal.SIGINT)
