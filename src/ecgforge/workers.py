"""Worker processes: how many there can be, the GPU of each, and their end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress

VISIBLE = "CUDA_VISIBLE_DEVICES"
# a process needs 4 s to start, the time to prepare some 400 records
RECORDS_PER_PROCESS = 1000


def cores() -> int:
    """Return how many CPU cores this process may use: of its affinity and its cgroup's quota, as a
    scheduler or a container sets them.
    """
    from joblib import cpu_count

    found: int = cpu_count()
    return found


def for_records(count: int) -> int:
    """Return how many processes to read so many records with."""
    return min(cores(), 1 + count // RECORDS_PER_PROCESS)


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as values of CUDA_VISIBLE_DEVICES.

    This process does not load CUDA.
    """
    if VISIBLE in os.environ:
        listed = [one.strip() for one in os.environ[VISIBLE].split(",")]
        # CUDA ignores an invalid entry, such as -1, and all after it
        return listed[: next((i for i, one in enumerate(listed) if one in ("", "-1")), None)]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def slots(use_gpus: bool) -> tuple[int, str]:
    """Return how many cells run in parallel by default, and what each has: a GPU or a core."""
    found = gpus() if use_gpus else []
    return (len(found), "GPU") if found else (cores(), "core")


def assign_gpus(workers: int, visible: Sequence[str]) -> list[str | None]:
    """Assign the `visible` GPUs to workers; a worker alone sees them all.

    Several workers share a GPU if there are too few.
    """
    if workers == 1 or not visible:
        return [None] * workers
    return [visible[worker % len(visible)] for worker in range(workers)]


def use_gpu(gpu: str | None) -> None:
    """Let this process and its children see one GPU; None changes nothing."""
    if gpu is not None:
        os.environ[VISIBLE] = gpu


def init_worker() -> None:
    """Set up a worker: ignore Ctrl-C, which the parent handles, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Kill this process and its children when the parent has ended."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    import psutil

    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    started = [child.pid for child in psutil.Process().children(recursive=True)]
    # The kills follow each other at once: a surviving process could see a killed child as a failure
    # and record it.
    for pid in [*started, os.getpid()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
