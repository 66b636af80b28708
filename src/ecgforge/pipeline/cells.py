"""Run DVC's stages in parallel; DVC itself runs one at a time.

A cell is a stage of dvc.yaml with the values of its matrix. An engine runs each cell as a `dvc
repro` of its own, when the cells before it are done. DVC decides which cells are up to date, and
holds its locks; this module only decides the order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ecgforge import console, workers
from ecgforge.dvc import internals, lock
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params
from ecgforge.pipeline import local, remote, warm
from ecgforge.pipeline.engine import Cell, Ended, Engine, needs
from ecgforge.pipeline.progress import Progress
from ecgforge.tracking import mlflow_internals

LOCAL, RAY = "local", "ray"  # engines
LOOK_EVERY = 1.0  # s, longest wait for the end of a cell until the engine's news are shown
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
    "ecgforge.stages.common.code:read_all",  # 0.1 s for each stage otherwise
)

RESOLVE = "resolve"  # the stage that writes parameters and code digests for the others


def repro(targets: list[str], jobs: int | None = None, on: str = LOCAL) -> int:
    """Bring `targets`, or all stages, up to date with all that they need.

    Args:
        targets: stages or cells; empty for all.
        jobs: cells to run in parallel on this machine, each with a GPU of its own if there are
            enough. None is the number of GPUs in use, or else of CPU cores.
        on: the engine: `LOCAL` or `RAY`.

    Returns:
        The exit code.

    Raises:
        EcgforgeError: a target is not a stage or cell, DVC cannot read the stages, another process
            runs them, or the engine cannot be used.
    """
    from dvc.exceptions import DvcException

    from ecgforge.stages import matrix

    # stages find the command `ecgforge` of this environment, which need not be active
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    os.environ["PATH"] = os.pathsep.join(paths)
    if matrix.write(Params.read(Path("params.yaml"))):
        console.err.print("matrix.yaml now fits params.yaml: commit it with your results.")
    lock.mend_list_of_users(Path())
    if on == RAY:
        remote.check(Path())
    try:
        cells = _stale_cells(targets, on != LOCAL)
        if cells:
            from ecgforge.stages import parameters  # imports pandas

            # reports a bad value before anything runs
            params = parameters.read(Path("params.yaml"))
        if RESOLVE in cells:  # DVC can tell which other stages are stale only after this one
            if not local.repro_one(RESOLVE):
                return 1
            cells = _stale_cells(targets, on != LOCAL)
    except DvcException as error:
        raise EcgforgeError(" ".join(str(error).split())) from None
    if not cells:
        console.err.print("Data and pipelines are up to date.")
        return 0
    if on == RAY:
        remote.check_tuning(cells.values(), params)
    with _temporary_files(), _engine(on, jobs, params, cells) as engine:
        return _run(cells, engine, params)


@contextmanager
def _engine(
    on: str, jobs: int | None, params: Params, cells: Mapping[str, Cell]
) -> Iterator[Engine]:
    compute = params.active.compute
    visible = [] if compute.accelerator == "cpu" else workers.gpus()
    jobs = jobs or len(visible) or workers.cores()
    # More threads than cores slow each other down; compute.threads sets the threads of torch.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, workers.cores() // jobs)))
    with warm.server(SLOW, "ecgforge.cli:main"):
        if on == LOCAL:
            with local.pool(workers.assign_gpus(jobs, visible), local.repro_one) as engine:
                yield engine
            return
        from ecgforge.pipeline import ray_cluster

        with (
            local.pool([None] * jobs, remote.run) as home,
            ray_cluster.connected(params, cells, home) as cluster,
        ):
            yield cluster


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


def _stale_cells(targets: list[str], missing: bool) -> dict[str, Cell]:
    """Return the cells to run.

    Args:
        missing: whether a cell is up to date if its outputs are missing here, but nothing that they
            depend on has changed.
    """
    with internals.each_file_once(), internals.locked_repo() as repo:
        if mended := lock.mend(Path(repo.root_dir)):
            console.err.print(mended, style="yellow")
        lock.keep(Path(repo.root_dir))
        lock.mend_run_cache(Path(repo.stage_cache.cache_dir))
        _check_targets(targets, [stage.addressing for stage in repo.index.stages])
        stale = _changed(repo.index.graph) if missing else set(repo.status())
        if not stale:
            return {}
        graph = repo.index.graph
        wanted = (
            _with_ancestors(graph, targets) if targets else {stage.addressing for stage in graph}
        )
        above = {
            stage.addressing: frozenset(up.addressing for up in graph.successors(stage))
            for stage in graph
            if stage.addressing in wanted
        }
    waiting = _downstream(above, wanted & stale)
    return {name: Cell(name, above[name], waits) for name, waits in waiting.items()}


def _changed(graph: Any) -> set[str]:
    """Return the stages whose recorded inputs, command or outputs have changed.

    Outputs may be missing here, except those of `RESOLVE`, which others are compared with.
    """
    found = set()
    for stage in graph:
        upstream = list(graph.successors(stage))
        made = {output.fs_path for one in upstream for output in one.outs}
        if (
            # DVC takes an output that was never made for a missing one,
            not all(output.hash_info for output in stage.outs)
            # and a missing folder of several stages' outputs for an unchanged one.
            or any(not dep.exists and dep.fs_path not in made for dep in stage.deps)
            or stage.changed(allow_missing=stage.addressing != RESOLVE, upstream=upstream)
        ):
            found.add(stage.addressing)
    return found


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


def _downstream(
    waiting: Mapping[str, frozenset[str]], stale: set[str]
) -> dict[str, frozenset[str]]:
    """Return the stages that are stale or depend on a stale one."""
    kept: dict[str, frozenset[str]] = {}
    for name in TopologicalSorter(waiting).static_order():
        needed = waiting[name] & kept.keys()
        if name in stale or needed:
            kept[name] = needed
    return kept


def _print_failure(name: str, ended: Ended) -> None:
    """Print what a failed cell printed on another machine, and what to do."""
    if ended.output:
        console.err.print(ended.output, markup=False)
    console.err.print(
        f"{name} failed{f' on {ended.place}' if ended.place else ''}, its error is above; finished "
        "stages are kept: correct the error and run this again",
        style="red",
    )


def _run(cells: Mapping[str, Cell], engine: Engine, params: Params) -> int:
    """Run the cells by an engine, each after those that it waits for."""
    sorter = TopologicalSorter({cell.name: cell.waits for cell in cells.values()})
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[Ended], tuple[str, float]] = {}
    failed, name, progress = False, "", Progress(cells)
    try:
        while running or (sorter.is_active() and not failed):
            ready += sorter.get_ready()
            # Not more than the engine has slots: a pool would start queued cells even after a
            # failure or an interruption.
            while ready and not failed and (engine.slots is None or len(running) < engine.slots):
                cell = cells[ready.pop(0)]
                name = cell.name
                running[engine.submit(cell, needs(cell, params))] = (name, time.monotonic())
            done = wait(running, LOOK_EVERY, FIRST_COMPLETED).done
            for line in engine.news():
                console.err.print(line)
            for future in done:
                name, started = running.pop(future)
                ended = future.result()
                if ended.succeeded:
                    if ended.entry:
                        with internals.locked_repo(wait=True):
                            lock.write_entries(Path(), {name: ended.entry})
                    console.err.print(progress.line(name, ended.place, started, len(running)))
                    sorter.done(name)
                else:
                    failed = True
                    engine.start_no_more()
                    _print_failure(name, ended)
    except KeyboardInterrupt:
        engine.interrupt()
        raise
    except BrokenProcessPool:
        local.kill_stages()
        names = ", ".join([name, *(other for other, _ in running.values())])
        raise EcgforgeError(
            "a worker process was killed, perhaps for lack of memory, while these ran: "
            f"{names}; run this again (with a lower --jobs if memory is short): finished "
            "stages are kept"
        ) from None
    console.err.print(progress.summary())
    return int(failed)
