"""Errors that the command line turns into a single line and a non-zero exit."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

LOG = Path(".ecgforge/traceback.txt")
NEARLY_FULL = 2**23  # bytes that are free
REMEDY = ": free some space and run this again; what was finished is kept"


class EcgforgeError(Exception):
    """Something the user can mend; the message says what is wrong and what to do next."""


class TrialError(EcgforgeError):
    """A trial of a study of tuning came to nothing: parameters that cannot be trained, not a fault
    of machine or project.
    """


class PrunedError(TrialError):
    """A trial of a study of tuning was not worth going on with."""


def explained(error: Exception) -> str:
    """Return one line for a person.

    The traceback of an error that nobody foresaw goes to `LOG`, where the folder is a project's.
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
        return f"{error.strerror}{where}" + (
            REMEDY if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        )
    if full := _full():  # libraries in C end a write with any kind of error
        return f"{os.strerror(errno.ENOSPC)} ({full}){REMEDY}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind, place = type(error).__name__, f"{Path(frame.filename).name}, line {frame.lineno}"
    text = " ".join(str(error).split())[:300]
    return (
        f"unexpected {kind} in {place}: {text}; this is a fault of ecgforge, please report "
        f"it{_logged(error)}"
    )


def _full() -> str:
    """Return the folder that the process writes to and whose disk is full, empty where there is
    none.
    """
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
