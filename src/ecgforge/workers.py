"""Worker processes that end with their parent; those of a standard pool would wait forever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress


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
