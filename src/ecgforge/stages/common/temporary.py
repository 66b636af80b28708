"""Synthetic records that a sweep needs only while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

TEMPORARY = Path(".ecgforge/synthetic")
LOCK = ".lock"  # the ending of a lock file next to each folder


@contextmanager
def held(folder: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a folder of `TEMPORARY` while the block lasts.

    If the process is killed, no process holds the folder, and `ecgforge gc` removes it.

    Raises:
        filelock.Timeout: another process still holds it after so many seconds; less than 0 waits
            for ever.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}{LOCK}"), timeout):
        yield
