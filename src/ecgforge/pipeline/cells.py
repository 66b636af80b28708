"""Run DVC's stages in parallel; DVC itself runs one at a time.

Each stage is a `dvc repro` of its own in a worker process that loads DVC once. It starts when the
stages before it are done. DVC decides which stages are up to date, and holds its locks; this module
only decides the order.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from datetime import timedelta
from graphlib import TopologicalSorter
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from ecgforge import console, workers
from ecgforge.dvc import internals, lock
from ecgforge.errors import EcgforgeError
from ecgforge.pipeline import warm
from ecgforge.tracking import mlflow_internals

# modules that most stages import, which takes 12 s in total
SLOW = (
    "mlflow.pytorch",
    *mlflow_internals.STORES,
    "sklearn.manifold",
    "ecgforge.stages.ablation",
    "ecgforge.stages.classify",
    "ecgforge.stages.quality",
    "ecgforge.stages.resolve",
    "ecgforge.stages.synthesize",
    "ecgforge.stages.train_generator",
)

RESOLVE = "resolve"  # the stage that writes parameters and code digests for the others


def repro(targets: list[str], jobs: int | None = None) -> int:
    """Bring `targets`, or all stages, up to date with all that they need.

    Args:
        targets: stages or cells; empty for all.
        jobs: cells to run in parallel, each with a GPU of its own if there are enough. None is the
            number of GPUs in use, or else of CPU cores.

    Returns:
        The exit code.

    Raises:
        EcgforgeError: a target is not a stage or cell, DVC cannot read the stages, or another
            process runs them.
    """
    from dvc.exceptions import DvcException

    from ecgforge.params import Params
    from ecgforge.stages import matrix, parameters

    if matrix.write(Params.read(Path("params.yaml"))):
        console.err.print("matrix.yaml now fits params.yaml: commit it with your results.")
    lock.mend_list_of_users(Path())
    try:
        stages = _stale_stages(targets)
        if stages:
            # reports a bad value before anything runs
            compute = parameters.read(Path("params.yaml")).active.compute
        if RESOLVE in stages:  # DVC can tell which other stages are stale only after this one
            if not _repro_one(RESOLVE):
                return 1
            stages = _stale_stages(targets)
    except DvcException as error:
        raise EcgforgeError(" ".join(str(error).split())) from None
    if not stages:
        console.err.print("Data and pipelines are up to date.")
        return 0
    visible = [] if compute.accelerator == "cpu" else workers.gpus()
    jobs = jobs or len(visible) or workers.cores()
    # More threads than cores slow each other down; compute.threads sets the threads of torch.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, workers.cores() // jobs)))
    with _temporary_files(), warm.server(SLOW, "ecgforge.cli:main"):
        return _run(stages, workers.assign_gpus(jobs, visible))


@contextmanager
def _temporary_files() -> Iterator[None]:
    """Set a temporary folder for the stages, and remove those of earlier runs that were killed."""
    import psutil

    prefix = f"ecgforge-{hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if left.stat().st_uid == os.getuid() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    before, known = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(
        prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = known
            del os.environ["TMPDIR"]
            os.environ |= {"TMPDIR": before} if before else {}


def _stale_stages(targets: list[str]) -> dict[str, set[str]]:
    """Return the stages to run, each with those of them that it depends on."""
    with internals.each_file_once(), internals.locked_repo() as repo:
        if mended := lock.mend(Path(repo.root_dir)):
            console.err.print(mended, style="yellow")
        lock.keep(Path(repo.root_dir))
        lock.mend_run_cache(Path(repo.stage_cache.cache_dir))
        _check_targets(targets, [stage.addressing for stage in repo.index.stages])
        stale = set(repo.status())
        if not stale:
            return {}
        graph = repo.index.graph
        wanted = (
            _with_ancestors(graph, targets) if targets else {stage.addressing for stage in graph}
        )
        waiting = {
            stage.addressing: {up.addressing for up in graph.successors(stage)}
            for stage in graph
            if stage.addressing in wanted
        }
    return _downstream(waiting, wanted & stale)


def _check_targets(targets: list[str], cells: list[str]) -> None:
    stages = dict.fromkeys(name.partition("@")[0] for name in cells)
    for target in targets:
        if target not in (*cells, *stages):
            named = [name for name in cells if name.startswith(f"{target.partition('@')[0]}@")]
            example = [f"and cells such as {name}" for name in cells if "@" in name][:1]
            raise EcgforgeError(
                f"'{target}' is not a stage or cell of this study: there are "
                f"{', '.join(named or [*stages, *example])}"
            )


def _with_ancestors(graph: Any, targets: list[str]) -> set[str]:
    import networkx

    found: set[str] = set()
    for stage in graph:
        if stage.addressing in targets or stage.addressing.partition("@")[0] in targets:
            found |= {
                stage.addressing,
                *(up.addressing for up in networkx.descendants(graph, stage)),
            }
    return found


def _downstream(waiting: dict[str, set[str]], stale: set[str]) -> dict[str, set[str]]:
    """Return the stages that are stale or depend on a stale one."""
    kept: dict[str, set[str]] = {}
    for name in TopologicalSorter(waiting).static_order():
        needed = waiting[name] & kept.keys()
        if name in stale or needed:
            kept[name] = needed
    return kept


def _run(waiting: dict[str, set[str]], places: list[str | None]) -> int:
    """Run the stages in as many workers as there are `places`, see `workers.assign_gpus`."""
    jobs = len(places)
    sorter = TopologicalSorter(waiting)
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[bool], str] = {}
    done, failed, started = 0, False, time.monotonic()
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    )
    # A stage receives an interruption itself; its worker stays to record how it ended.
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for place in places:
        free.put(place)
    with ProcessPoolExecutor(jobs, context, initializer=_init_worker, initargs=(free,)) as pool:
        try:
            while running or (sorter.is_active() and not failed):
                ready += sorter.get_ready()
                # Not more than there are workers: a pool would start queued stages even after a
                # failure or an interruption.
                while ready and len(running) < jobs and not failed:
                    name = ready.pop(0)
                    running[pool.submit(_repro_one, name)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if future.result():
                        done += 1
                        console.err.print(f"[{done}/{len(waiting)}] {name}")
                        sorter.done(name)
                    else:
                        failed = True
                        console.err.print(
                            f"{name} failed, its error is above; finished stages are kept: "
                            "correct the error and run this again",
                            style="red",
                        )
        except KeyboardInterrupt:
            _interrupt_stages()
            raise
        except BrokenProcessPool:
            _kill_stages()
            names = ", ".join([name, *running.values()])
            raise EcgforgeError(
                "a worker process was killed, perhaps for lack of memory, while these ran: "
                f"{names}; run this again (with a lower --jobs if memory is short): finished "
                "stages are kept"
            ) from None
    console.err.print(
        f"{done} of {len(waiting)} cells in {timedelta(seconds=round(time.monotonic() - started))}"
    )
    return int(failed)


def _init_worker(free: SimpleQueue[str | None]) -> None:
    """Set up a worker, and take one of the GPUs."""
    workers.init_worker()
    workers.use_gpu(free.get())


def _repro_one(name: str) -> bool:
    """Bring one stage up to date; return whether it succeeded.

    The stage prints its own errors.
    """
    import logging

    from dvc.exceptions import DvcException

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with (
            internals.parameters_read_once(),
            internals.atomic_writes(),
            internals.waiting_repo() as repo,
        ):
            repo.reproduce([name], single_item=True)
    except DvcException as error:
        reasons = [str(one) for one in (error, error.__cause__) if one]
        console.err.print(f"{name}: {': '.join(reasons)}", style="red")
        return False
    return True


def _interrupt_stages() -> None:
    """Pass an interruption on to the running stages; a terminal sends it to them directly."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        if "ecgforge" in " ".join(process.cmdline()[:2]):
            process.send_signal(signal.SIGINT)


def _kill_stages() -> None:
    """Kill the stages of dead workers: nothing would record their end, so they would run again."""
    import psutil

    address = os.environ.get(warm.ADDRESS)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = (
                address
                and process.pid != os.getpid()
                and process.environ().get(warm.ADDRESS) == address
            )
            # the pool ends its own processes
            if ours and "multiprocessing" not in " ".join(process.cmdline()):
                process.kill()
