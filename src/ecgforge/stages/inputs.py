"""What the tracked stages share: their record sets as inputs, and where a run that may be cut off keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ecgforge.files import md5
from ecgforge.records.record_set import RecordSet
from ecgforge.tracking.runs import DatasetInput

UNFINISHED = Path(".ecgforge/unfinished")  # outside the stages' outputs, which DVC clears before it starts them

DRAWN = Path(".ecgforge/drawn")  # synthetic records that a sweep needs while it runs


def checkpoints(identity: str) -> Path:
    """Return the folder of a run's checkpoints; it belongs to one stage on one set of inputs."""
    return UNFINISHED / identity


def curves(identity: str) -> Path:
    """Return the file of a run's curves that are not sent yet."""
    return checkpoints(identity) / "curves.jsonl"


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
