"""Run cells on this machine, in worker processes that load DVC once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.queues import SimpleQueue

from ecgforge import console, workers
from ecgforge.dvc import internals
from ecgforge.pipeline import warm
from ecgforge.pipeline.engine import Cell, Ended, Needs


class LocalPool:
    """The engine of one machine; each worker has a core or a GPU.

    Attributes:
        slots: the number of workers.
    """

    def __init__(self, pool: ProcessPoolExecutor, slots: int, work: Callable[[str], bool]) -> None:
        self._pool, self._work = pool, work
        self.slots: int | None = slots

    def submit(self, cell: Cell, needs: Needs) -> Future[Ended]:
        return self._pool.submit(_ended, self._work, cell.name)

    def news(self) -> Iterable[str]:
        return ()  # stages print to the terminal themselves

    def start_no_more(self) -> None:
        """Do nothing: no cell waits in the pool, since there are at most `slots` of them."""

    def interrupt(self) -> None:
        """Pass an interruption on to the running stages; a terminal sends it to them directly."""
        import psutil

        for process in psutil.Process().children(recursive=True):
            if "ecgforge" in " ".join(process.cmdline()[:2]):
                process.send_signal(signal.SIGINT)


@contextmanager
def pool(places: Sequence[str | None], work: Callable[[str], bool]) -> Iterator[LocalPool]:
    """Start as many workers as there are `places`, see `workers.assign_gpus`.

    Args:
        work: brings the cell of a name up to date; a function of a module.
    """
    # A stage receives an interruption itself; its worker stays to record how it ended.
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for place in places:
        free.put(place)
    with ProcessPoolExecutor(
        len(places), context, initializer=_init_worker, initargs=(free,)
    ) as executor:
        yield LocalPool(executor, len(places), work)


def _init_worker(free: SimpleQueue[str | None]) -> None:
    """Set up a worker, and take one of the GPUs."""
    workers.init_worker()
    workers.use_gpu(free.get())


def _ended(work: Callable[[str], bool], name: str) -> Ended:
    return Ended(work(name))


def repro_one(name: str) -> bool:
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


def kill_stages() -> None:
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
