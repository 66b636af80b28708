"""Synthetic records that a sweep needs only while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

DRAWN = Path(".ecgforge/drawn")
LOCK = ".lock"  # the ending of a lock file next to each folder


@contextmanager
def held(drawn: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a folder of `DRAWN` while the block lasts; that of a killed process is held by nobody,
    and `ecgforge gc` removes it.

    Raises:
        filelock.Timeout: another process still holds it after so many seconds; less than 0 waits
            for ever.
    """
    drawn.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(drawn.with_name(f"{drawn.name}{LOCK}"), timeout):
        yield
