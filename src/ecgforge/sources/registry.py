"""One function to acquire raw records from all kinds of sources."""

from __future__ import annotations

import re
from pathlib import Path

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.outputs import expanded, foreign, refuse
from ecgforge.params import FolderSource, PhysionetSource, SimulatedSource, Source
from ecgforge.sources import FILES

HEAD = (
    "# Written by `ecgforge acquire`, which replaces the folder while it holds these files alone."
)


def acquire(settings: Source, folder: Path, sampling_rate: int) -> None:
    """Write raw WFDB records in the layout `settings.layout` to `folder`, atomically.

    Args:
        settings: the source, from the parameters.
        folder: the new folder; an existing one is replaced if this function wrote all its files.
        sampling_rate: Hz, of the prepared records; selects between published forms of a record.

    Raises:
        EcgforgeError: the source cannot be reached or read.
    """
    refuse(folder, read_from(settings).values())
    _refuse_foreign(folder)
    with atomic_write(folder) as scratch:
        _fetch(settings, scratch, sampling_rate)
        names = sorted(
            file.relative_to(scratch).as_posix() for file in scratch.rglob("*") if file.is_file()
        )
        (scratch / FILES).write_text(
            "\n".join([HEAD, *names]) + "\n", encoding="utf-8", errors="surrogateescape"
        )


def read_from(settings: Source) -> dict[str, Path]:
    """Return the input folders of a source on this machine, by parameter."""
    match settings:
        case FolderSource():
            return {"path": expanded(settings.path)}
        case PhysionetSource():
            path = re.sub("^(file|local):(//)?", "", settings.mirror)
            return {} if "://" in path else {"mirror": expanded(path)}
    return {}


def _refuse_foreign(folder: Path) -> None:
    listed = []
    if (folder / FILES).is_file():
        listed = (folder / FILES).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    known = [*listed[1:], FILES] if listed[:1] == [HEAD] else []
    if more := foreign(folder, known):
        raise EcgforgeError(
            f"{folder} exists, and `ecgforge acquire` did not write "
            f"{', '.join(more[:3])}{' and more' if len(more) > 3 else ''} in it: "
            "name another folder, or move these files away"
        )


def _fetch(settings: Source, folder: Path, sampling_rate: int) -> None:
    # Imported here, since fsspec and the simulation take seconds, and a stage needs only one.
    match settings:
        case SimulatedSource():
            from ecgforge.sources import simulated

            simulated.write(folder, settings)
        case PhysionetSource():
            from ecgforge.sources import physionet

            physionet.fetch(folder, settings, sampling_rate)
        case FolderSource():
            from ecgforge.sources import folder as own

            own.fetch(folder, settings)
