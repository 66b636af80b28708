"""Worker processes that end with their parent: those of a pool would wait for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress


def init_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it; a worker calls this at its start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """When the parent is gone, kill this process and all that it has started."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    import psutil

    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    started = [child.pid for child in psutil.Process().children(recursive=True)]
    # One after the other with nothing between: whoever waits for them here would find that they
    # failed, and begin to write so.
    for pid in [*started, os.getpid()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
