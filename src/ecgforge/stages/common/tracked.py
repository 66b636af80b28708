"""The one way to a tracked run, with its inputs, fingerprint and folder for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgforge import folders
from ecgforge.files import cached_md5, remove
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common import code
from ecgforge.tracking import runs
from ecgforge.tracking.runs import DatasetInput

CURVES = "curves.jsonl"

Sets = Iterable[tuple[str, RecordSet]]


@dataclass(frozen=True)
class Stage:
    """A stage at work: its name in `code.ROOTS`, and the values of its matrix."""

    name: str
    params: Params
    item: Mapping[str, str]

    def code(self) -> dict[str, str]:
        """Return the digests of the files that it depends on, by name."""
        return code.files(self.name, self.params, self.item)


@dataclass(frozen=True)
class TrackedRun:
    """A run that is open, or was.

    Attributes:
        run: to log to.
        fingerprint: see `tracking.runs.fingerprint`.
        checkpoints: where training keeps its checkpoints; see `remove_checkpoints`.
    """

    run: runs.Run
    fingerprint: str
    checkpoints: Path

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints: call it once the results are written."""
        remove(self.checkpoints)


@contextmanager
def tracked(
    stage: Stage,
    key: runs.RunKey,
    params: dict[str, Any],
    sets: Sets,
    decides: Mapping[str, str] | None = None,
) -> Iterator[TrackedRun]:
    """Open the run with this key, or take up the one with the same fingerprint.

    Args:
        key: which run of the study it is.
        params: resolved parameters, as JSON has them.
        sets: the record sets that go in, each with its use.
        decides: digests of other inputs that decide the result.
    """
    inputs = record_inputs(sets)
    mark = fingerprint(stage, key, params, inputs, decides)
    folder = folders.unfinished() / mark
    opened = runs.tracked(
        key, fingerprint=mark, params=params, inputs=inputs, resume_file=folder / CURVES
    )
    with opened as run:
        yield TrackedRun(run, mark, folder)


def fingerprint(
    stage: Stage,
    key: runs.RunKey,
    params: dict[str, Any],
    inputs: list[DatasetInput],
    decides: Mapping[str, str] | None = None,
) -> str:
    """Return the fingerprint of a run; see `tracked` for the arguments."""
    digests = {f"{item.context} {item.name}": item.digest for item in inputs} | {**(decides or {})}
    return runs.fingerprint(key, params, digests, stage.code())


def record_inputs(sets: Sets) -> list[DatasetInput]:
    """Describe record sets, each with its use, by the digests that DVC has for them."""
    found = []
    for context, records in sets:
        about, parts = records.about, records.folder.parts
        name = "/".join(parts[-2:]) if about.origin == "synthetic" else records.folder.name
        generated_by, digest = about.made.get("weights_md5", ""), cached_md5(records.folder)
        found.append(
            DatasetInput(name, records.folder, digest, context, about.origin, generated_by)
        )
    return found
