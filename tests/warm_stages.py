"""A server of stages, see `ecgforge.pipeline.warm`, that is a fork of the process of the tests: it
has loaded already what the stages need.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecgforge.pipeline import cells, warm


@contextmanager
def server() -> Iterator[None]:
    """Run the server during the block for this process and its children."""
    with tempfile.TemporaryDirectory(prefix="ecgforge-", dir="/tmp") as folder:
        address = Path(folder) / "socket"
        reading, writing = os.pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(str(address), reading, writing)
        )
        process.start()
        os.close(reading)
        os.environ[warm.ADDRESS] = str(address)
        try:
            while not address.exists():
                assert process.is_alive()
                time.sleep(0.02)
            yield
        finally:
            del os.environ[warm.ADDRESS]
            os.close(writing)
            process.join()


def _serve(address: str, reading: int, writing: int) -> None:
    os.setsid()
    os.close(writing)
    sys.stdin = os.fdopen(reading)  # ends when the tests do
    warm.serve(address, "ecgforge.cli:main", cells.SLOW)
