"""Run cells on the nodes of a Ray cluster.

Ray places the cells by what they need, and retries those of dead nodes. This module is not
imported without the extra `ray`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params
from ecgforge.pipeline import node, remote
from ecgforge.pipeline.engine import Cell, Ended, Engine, Needs, short, workers
from ecgforge.tracking import runs, store

RETRIES = 3  # of a cell whose node died or was preempted
GRACE = 60.0  # s, for interrupted cells to end their runs
# Ray retries the cells of a node that does not answer when their connections end. By default, it
# asks for an answer every five minutes, and waits for two.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}


class Board:
    """An actor: which cells have started where, and whether more may start."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._open = True

    def start(self, cell: str, place: str) -> bool:
        if self._open:
            self._lines.append(f"{cell} starts on {place}")
        return self._open

    def news(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        self._open = False


class RayCluster:
    """The engine of a cluster. Cells that are `short` run on this machine.

    Attributes:
        slots: no limit, because Ray queues the cells.
    """

    slots: int | None = None

    def __init__(self, study: node.Study, params: Params, home: Engine) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._study, self._params, self._home = ray, study, params, home
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1}
        self._board = ray.remote(Board).options(**options, max_task_retries=-1).remote()
        self._bundle = ray.put(_bundle())
        retried = {"max_retries": RETRIES, "retry_exceptions": [node.PreemptedError]}
        self._work = ray.remote(**retried)(_work)
        nodes = [one["Resources"] for one in ray.nodes() if one["Alive"]]
        self._most_cores = int(max(one.get("CPU", 1) for one in nodes))
        self._gpus = any(one.get("GPU") for one in nodes)
        self._refs: list[Any] = []

    def submit(self, cell: Cell, needs: Needs) -> Future[Ended]:
        if short(cell, self._params):
            return self._home.submit(cell, needs)
        known = lock.stages(Path(lock.LOCK).read_text(encoding="utf-8")) or {}
        entries = {name: known[name] for name in sorted(cell.above) if name in known}
        work = self._work.options(
            name=cell.name,
            num_cpus=min(needs.cores, self._most_cores),
            num_gpus=needs.gpus if self._gpus else 0,
        )
        numbers = [*range(workers(cell, self._params))] or [None]
        refs = [
            work.remote(self._study, cell.name, entries, [self._bundle], self._board, number)
            for number in numbers
        ]
        self._refs += refs
        return self._first_of(refs)

    def _first_of(self, refs: list[Any]) -> Future[Ended]:
        """Return the end of the first process of a cell, or the failure of another one.

        The others run trials for it, and end with it.
        """
        first, *others = refs
        ended: Future[Ended] = Future()

        def end(found: Ended) -> None:
            with suppress(InvalidStateError):  # another process failed before
                ended.set_result(found)
                for ref in refs:
                    self._ray.cancel(ref)

        def end_if_failed(found: Ended) -> None:
            if not found.succeeded:
                end(found)

        first.future().add_done_callback(lambda future: end(_end(future)))
        for ref in others:
            ref.future().add_done_callback(lambda future: end_if_failed(_end(future)))
        return ended

    def news(self) -> Iterable[str]:
        return [*self._home.news(), *self._ray.get(self._board.news.remote())]

    def start_no_more(self) -> None:
        self._ray.get(self._board.close.remote())

    def interrupt(self) -> None:
        self._home.interrupt()
        self.start_no_more()
        for ref in self._refs:
            self._ray.cancel(ref)
        self._ray.wait(self._refs, num_returns=len(self._refs), timeout=GRACE)


def _end(future: Future[Ended]) -> Ended:
    """Return the end of a cell, also if Ray gave up."""
    error = future.exception()
    return Ended(False, output=f"Ray ended the cell: {error}") if error else future.result()


def _work(
    study: node.Study,
    cell: str,
    entries: lock.Stages,
    bundle: list[Any],
    board: Any,
    worker: int | None,
) -> Ended:
    """Run a cell, or trials of a cell, on the node that Ray has chosen."""
    import ray

    # Ray's setting for the end of child processes ignores this signal. Exit codes would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    place = _node_name(ray)
    name = f"worker {worker} of {cell}" if worker else cell
    if not ray.get(board.start.remote(name, place)):
        return Ended(bool(worker), place, "not started, because another cell failed")
    try:
        return node.work(study, cell, entries, lambda: ray.get(bundle[0]), place, worker)
    except node.PreemptedError:
        raise
    except Exception:
        return Ended(False, place, traceback.format_exc())


def _node_name(ray: Any) -> str:
    """Return the name of this node, as `ray start --node-name` sets it; its address by default."""
    own = ray.get_runtime_context().get_node_id()
    return next(str(one["NodeName"]) for one in ray.nodes() if one["NodeID"] == own)


@contextmanager
def connected(params: Params, cells: Mapping[str, Cell], home: Engine) -> Iterator[RayCluster]:
    """Connect to the cluster at RAY_ADDRESS, or to the one that this machine is a node of.

    Outputs that the cells need and that were made on this machine are pushed first.

    Raises:
        EcgforgeError: Ray is not installed, there is no cluster, or MLflow's server keeps files in
            a folder.
    """
    for name, milliseconds in KEEPALIVE.items():
        os.environ.setdefault(name, milliseconds)
    try:
        import ray
    except ImportError:
        raise EcgforgeError(
            "Ray is not installed: run `pip install -e '.[ray]'`, on each node as well"
        ) from None
    remote.check_server(os.environ.get("MLFLOW_EXPERIMENT_NAME", runs.EXPERIMENT))
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "auto"),
            namespace="ecgforge",
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EcgforgeError(
            f"no Ray cluster can be reached ({' '.join(str(error).split())[:200]}): start one with "
            "`ray start --head`, or set RAY_ADDRESS"
        ) from None
    try:
        made_here = {name for cell in cells.values() for name in cell.above} - cells.keys()
        remote.push(sorted(made_here))
        yield RayCluster(_study(), params, home)
    finally:
        ray.shutdown()


def _study() -> node.Study:
    root = Path.cwd()
    return node.Study(
        name=hashlib.sha256(f"{os.uname().nodename}:{root}".encode()).hexdigest()[:12],
        commit=store.git(root, "rev-parse", "HEAD", needed=True),
        prefix=store.git(root, "rev-parse", "--show-prefix"),
        author=store.author(),
        config=_dvc_config(),
        environment=node.passed_on(),
        packages=node.packages(),
    )


def _dvc_config() -> dict[str, dict[str, str]]:
    """Return the settings of DVC's remote, with absolute paths, and of a shared cache."""
    from dvc.repo import Repo

    with Repo() as repo:
        config = repo.config
        name, shared = config["core"].get("remote"), remote.shared_cache(config)
        found: dict[str, dict[str, str]] = {}
        if name:
            found["core"] = {"remote": name}
            settings = {key: str(value) for key, value in config["remote"][name].items()}
            found[f'remote "{name}"'] = settings
        if shared:
            found["cache"] = {key: str(value) for key, value in config["cache"].items()}
    return found


def _bundle() -> bytes:
    """Return the last commit, with its history, as a git bundle."""
    command = ["git", "bundle", "create", "--quiet", "-", "HEAD"]
    return subprocess.run(command, capture_output=True, check=True).stdout
