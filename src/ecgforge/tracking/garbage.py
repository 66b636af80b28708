"""What is still needed, and which runs and versions are not: see `stages.collect`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ecgforge.tracking import history, lineage, store
from ecgforge.tracking.content import Content
from ecgforge.tracking.models import WEIGHTS
from ecgforge.tracking.runs import CELL, INPUT
from ecgforge.tracking.store import client, local_database, patiently
from ecgforge.tracking.versions import Version, everything, versions

KINDS = ("generator", "classifier", "quality")  # runs of other kinds, such as trials, are left alone
SAME = ("kind", "dataset", "generator", "setting", "backbone", "sweep", "point", "seed", "dvc.stage", "dvc.exp")
RUN = re.compile(r"[0-9a-f]{32}")


@dataclass
class Needed:
    """Digests of files and folders, identities of cells, ids of runs, and labels of versions that must stay."""

    digests: set[str] = field(default_factory=set)
    cells: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)


@dataclass
class Stale:
    """Versions and runs that nothing needs, runs by name and id; and the identities of cells whose checkpoints are of no more use, since
    what their runs made is needed somewhere, or later ones of the same cells have ended. A run that this store does not know may be
    another store's."""

    versions: list[Version]
    runs: list[tuple[str, str]]
    ended: set[str]


def needed(content: Content) -> Needed:
    """Return what aliases, the history of champions, commits and the working tree need."""
    found = Needed()
    roots = set(content.used())
    walker = lineage.Walker(content)
    for version in _honoured():
        for node in walker.version(version).all():
            roots.add(node.digest)
            if node.version:
                found.versions.add(node.version.label)
                found.runs |= {node.version.run_id, *RUN.findall(node.version.tags.get("verdict", ""))}
                step = lineage.step_of(node.version, content)
                roots |= {*step.deps.values(), *step.outs.values()} if step else set()
    for digest in roots - {""}:
        files = content.listing(digest)
        found.digests |= {digest, *files.values()}
        if "cells.csv" in files and (table := content.read(digest, "cells.csv")):
            found.cells |= set(pd.read_csv(io.BytesIO(table), keep_default_na=False)["cell"])
        if "cell.txt" in files and (text := content.read(digest, "cell.txt")):
            found.cells.add(text.decode().strip())
    return found


def _honoured() -> Iterator[Version]:
    """Yield the versions that have an alias, and those that were champion, to which a rollback could go."""
    for model in client().search_registered_models(max_results=1000):
        numbers = {str(number) for number in dict(model.aliases).values()}
        for entry in history.entries(model.name):
            numbers |= {entry.version, entry.former}
        yield from (version for version in versions(model.name) if version.number in numbers)


def stale(needed: Needed, unfinished: set[str]) -> Stale:
    """Return what MLflow has that is not needed: versions whose weights and results are no longer any commit's, and runs without a needed
    version that were superseded by a later one of the same cell, failed for good, or used data that is no longer kept.

    A stage that was cut off goes on from the checkpoints of all its cells, those that had ended among them. Until it has ended, DVC knows
    nothing of what they made.

    Args:
        unfinished: identities of cells that have checkpoints to go on from.
    """
    known = everything()
    done = needed.cells | {version.tags.get(CELL, "") for version in known if _wanted(version, needed)}
    runs = [run for run in store.runs() if CELL in run.data.tags]
    latest = {_same(run): run.info for run in sorted(runs, key=lambda run: run.info.start_time) if run.info.status == "FINISHED"}
    superseded = {run.info.run_id for run in runs if latest.get(_same(run), run.info).start_time > run.info.start_time}
    ended = {
        run.data.tags[CELL]
        for run in runs
        if run.info.run_id in superseded or (run.info.status == "FINISHED" and run.data.tags[CELL] in done)
    }
    at_work = unfinished - ended
    gone = [version for version in known if not _wanted(version, needed) and version.tags[CELL] not in at_work]
    doomed = {version.label for version in gone}
    kept = {version.run_id for version in known if version.label not in doomed}
    keep = needed.runs | kept | {run.data.tags.get("mlflow.parentRunId") for run in runs}
    removable: list[tuple[str, str]] = []
    for run in runs:
        if run.data.tags.get("kind") not in KINDS or run.info.status in ("RUNNING", "SCHEDULED"):
            continue
        lost = any(key.startswith(INPUT) and value not in needed.digests for key, value in run.data.tags.items())
        over = run.info.run_id in superseded or lost or run.info.status in ("FAILED", "KILLED")
        if over and run.info.run_id not in keep and run.data.tags[CELL] not in needed.cells | at_work:
            removable.append((run.info.run_name, run.info.run_id))
    return Stale(gone, removable, ended)


def _wanted(version: Version, needed: Needed) -> bool:
    held = version.tags.get(WEIGHTS) in needed.digests or version.tags.get(CELL) in needed.cells
    return held or bool(version.aliases) or version.label in needed.versions or CELL not in version.tags


def remove(stale: Stale) -> None:
    """Delete versions and runs. Where the store is this machine's, their files go first, since who is interrupted then finds the rest
    again; a server's files are left to its `mlflow gc`."""
    registry, ours = client(), local_database() is not None
    for version in stale.versions:
        model = version.source.rsplit("/", 1)[-1]
        if ours:
            _free(patiently(registry.get_logged_model, model).artifact_location)
        patiently(registry.delete_model_version, version.name, version.number)
        patiently(registry.delete_logged_model, model)
    for _, run_id in stale.runs:
        if ours:
            _free(patiently(registry.get_run, run_id).info.artifact_uri)
        patiently(registry.delete_run, run_id)


def _free(address: str) -> None:
    # `mlflow gc` would do this too, and more: all that anyone ever deleted, where it is given no ids of a kind.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(address).delete_artifacts()


def _same(run: Any) -> tuple[str | None, ...]:
    return tuple(run.data.tags.get(name) for name in SAME)
