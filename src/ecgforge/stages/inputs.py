"""What the tracked stages share: their record sets as inputs, and where a run that may be cut off keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ecgforge.files import md5
from ecgforge.records.record_set import RecordSet
from ecgforge.tracking.runs import DatasetInput

UNFINISHED = Path(".ecgforge/unfinished")  # outside the stages' outputs, which DVC clears before it starts them

DRAWN = Path(".ecgforge/drawn")  # synthetic records that a sweep needs while it runs
LOCK = ".lock"  # beside each of these


def checkpoints(identity: str) -> Path:
    """Return the folder of a run's checkpoints; it belongs to one stage on one set of inputs."""
    return UNFINISHED / identity


def curves(identity: str) -> Path:
    """Return the file of a run's curves that are not sent yet."""
    return checkpoints(identity) / "curves.jsonl"


@contextmanager
def held(drawn: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a folder of `DRAWN` while the block lasts; that of a killed process is held by nobody, and `ecgforge gc` removes it.

    Raises:
        filelock.Timeout: another process still holds it after so many seconds; less than 0 waits for ever.
    """
    drawn.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(drawn.with_name(f"{drawn.name}{LOCK}"), timeout):
        yield


def record_inputs(sets: Iterable[tuple[str, RecordSet]]) -> list[DatasetInput]:
    """Describe record sets, each with what it is used for, by the digests that DVC knows them by."""
    found = []
    for context, records in sets:
        name = "/".join(records.folder.parts[-2:]) if records.about.origin == "synthetic" else records.folder.name
        drawn_by = records.about.made.get("weights_md5", "")
        found.append(DatasetInput(name, records.folder, md5(records.folder), context, records.about.origin, drawn_by))
    return found


def digests(inputs: Iterable[DatasetInput]) -> dict[str, str]:
    """Return the digests of inputs by use and name."""
    return {f"{item.context} {item.name}": item.digest for item in inputs}
