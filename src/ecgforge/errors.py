"""Errors that the command line prints as one line with a non-zero exit code."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

LOG = Path(".ecgforge/traceback.txt")
NEARLY_FULL = 2**23  # bytes; a disk with less free space counts as full
REMEDY = ": free some space and run this again; finished stages are kept"
REMEDIES = {
    errno.ENOSPC: REMEDY,
    errno.EDQUOT: REMEDY,
    errno.EEXIST: ": name another path",
    errno.ENOTDIR: ": a part of this path is a file, and a folder is needed; name another path",
    errno.EACCES: ": change its permissions, or name another path",
    errno.EROFS: ": name a path on a disk that can be written",
}


class EcgforgeError(Exception):
    """An error that the user can correct; the message says what is wrong and what to do next."""


class TrialError(EcgforgeError):
    """A trial of tuning failed because of its parameters, not because of the machine or project."""


class PrunedError(TrialError):
    """A trial of tuning was pruned."""


class SupersededError(EcgforgeError):
    """Another process has taken up the run of this one."""


def explained(error: Exception) -> str:
    """Return an error as one line.

    The traceback of an unexpected error is written to `LOG`, if the folder is a project.
    """
    if isinstance(error, EcgforgeError):
        return str(error)
    if isinstance(error, MemoryError):
        return (
            "not enough memory: close other programs, or lower batch_size, chunk or the number of "
            "--jobs"
        )
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}{REMEDIES.get(error.errno or 0, '')}"
    if full := _full():  # libraries in C report a failed write with errors of any kind
        return f"{os.strerror(errno.ENOSPC)} ({full}){REMEDY}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind, place = type(error).__name__, f"{Path(frame.filename).name}, line {frame.lineno}"
    text = " ".join(str(error).split())[:300]
    return (
        f"unexpected {kind} in {place}: {text}; this is an error in ecgforge, please report "
        f"it{_logged(error)}"
    )


def _full() -> str:
    """Return the folder on a full disk that the process writes to; empty if there is none."""
    with suppress(OSError):
        for folder in (str(Path.cwd()), tempfile.gettempdir()):
            if shutil.disk_usage(folder).free < NEARLY_FULL:
                return folder
    return ""


def _logged(error: Exception) -> str:
    if not Path("params.yaml").exists():
        return " (set ECGFORGE_DEBUG=1 to see the traceback)"
    try:
        LOG.parent.mkdir(exist_ok=True)
        LOG.write_text(
            "".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return " (set ECGFORGE_DEBUG=1 to see the traceback)"
    return f" with {LOG}"
