"""What is still needed, and which runs and versions are not: see `stages.collect`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ecgforge.model_versions import history, orphans
from ecgforge.model_versions.models import WEIGHTS
from ecgforge.model_versions.versions import Version, all_versions, versions
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.tracking import home, runs, store
from ecgforge.tracking.runs import CELL, INPUT
from ecgforge.tracking.store import client, has_commit, local_database, tolerating, with_retry

# runs of other kinds, such as trials, are left alone
KINDS = ("generator", "classifier", "quality")
SAME = (
    *("kind", "dataset", "generator", "setting", "backbone", "sweep", "point"),
    *("augmented", "fold", "draw", "seed", "dvc.stage", "dvc.exp"),
)
# Files in results that name runs; the last two in those of earlier commits.
FINGERPRINTS = {"runs.csv", "fingerprint.txt", "cells.csv", "cell.txt"}
RUN = re.compile(r"[0-9a-f]{32}")
LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")  # the address of a version that is a logged model


@dataclass
class Needed:
    """Digests of files and folders, identities of cells, ids of runs, and labels of versions that
    must stay.
    """

    digests: set[str] = field(default_factory=set)
    cells: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)


@dataclass
class Stale:
    """What MLflow has that nothing needs.

    Attributes:
        versions: with their logged models.
        runs: by name and id.
        ended: identities of cells whose checkpoints are of no more use, since what their runs made
            is needed somewhere, or later ones of the same cells have ended. A run that this store
            does not know may be another store's.
        models: ids of logged models without a version: a process was killed before it registered
            them.
        killed: runs by name and id that are RUNNING, and that no process works on; they are ended,
            and stay.
        left: labels of versions and names of runs that are not needed either, but may be another
            project's, or have files that do not lie where this store keeps its own.
    """

    versions: list[Version]
    runs: list[tuple[str, str]]
    ended: set[str]
    models: list[str] = field(default_factory=list)
    killed: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def needed(content: DvcStore) -> Needed:
    """Return what aliases, the history of champions, commits and the working tree need."""
    found = Needed()
    roots = set(content.used())
    walker = lineage.Walker(content)
    for version in _honoured():
        for node in walker.version(version).all():
            roots.add(node.digest)
            if node.version:
                found.versions.add(node.version.label)
                found.runs |= {
                    node.version.run_id,
                    *RUN.findall(node.version.tags.get("verdict", "")),
                }
                step = lineage.step_of(node.version, content)
                roots |= {*step.deps.values(), *step.outs.values()} if step else set()
    for digest in roots - {""}:
        files = content.listing(digest)
        found.digests |= {digest, *files.values()}
        for name in FINGERPRINTS & files.keys():
            # all that they say, so damage loses nothing
            text = content.read(digest, name) or b""
            found.cells |= set(re.split(r'[,"\s]+', text.decode(errors="replace"))) - {""}
    return found


def _honoured() -> Iterator[Version]:
    """Yield the versions that have an alias, and those that were champion, to which a rollback
    could go.
    """
    for model in client().search_registered_models(max_results=1000):
        numbers = {str(number) for number in dict(model.aliases).values()}
        for entry in history.entries(model.name):
            numbers |= {entry.version, entry.former}
        yield from (version for version in versions(model.name) if version.number in numbers)


def unread_history() -> str:
    """Say which entry in the history of champions cannot be read, and what to do; empty where all
    can be.
    """
    for model in client().search_registered_models(max_results=1000):
        for fault in history.damaged(model.name):
            return (
                f"{model.name}: {fault}, so which versions were champion is not known and nothing "
                "may be removed: write the tag's former "
                "text back, or remove the tag if no version that it could name is needed, and see "
                f"`ecgforge history {model.name}`"
            )
    return ""


def stale(needed: Needed, unfinished: set[str]) -> Stale:
    """Return what MLflow has that is not needed: versions whose weights and results are no longer
    any commit's, and runs without a needed version that were superseded by a later one of the same
    cell, failed for good, or used data that is no longer kept.

    A stage that was cut off goes on from the checkpoints of all its cells, those that had ended
    among them. Until it has ended, DVC knows nothing of what they made.

    Args:
        unfinished: identities of cells that have checkpoints to go on from.
    """
    known = all_versions()
    done = needed.cells | {
        version.tags.get(CELL, "") for version in known if _wanted(version, needed)
    }
    found = [run for run in store.runs() if CELL in run.data.tags]
    latest = {
        _same(run): run.info
        for run in sorted(found, key=lambda run: run.info.start_time)
        if run.info.status == "FINISHED"
    }
    superseded = {
        run.info.run_id
        for run in found
        if latest.get(_same(run), run.info).start_time > run.info.start_time
    }
    ended = {
        run.data.tags[CELL]
        for run in found
        if run.info.run_id in superseded
        or (run.info.status == "FINISHED" and run.data.tags[CELL] in done)
    }
    at_work = unfinished - ended
    gone = [
        version
        for version in known
        if not _wanted(version, needed) and version.tags[CELL] not in at_work
    ]
    doomed = {version.label for version in gone}
    kept = {version.run_id for version in known if version.label not in doomed}
    keep = needed.runs | kept | {run.data.tags.get("mlflow.parentRunId") for run in found}
    over = [
        run
        for run in found
        if _over(run, superseded, needed)
        and run.info.run_id not in keep
        and run.data.tags[CELL] not in needed.cells | at_work
    ]
    stale = Stale(
        [one for one in gone if _removable(one)], [_named(run) for run in over if _ours(run)], ended
    )
    stale.left = [one.label for one in gone if not _removable(one)] + [
        run.info.run_name for run in over if not _ours(run)
    ]
    stale.models = [
        one.model_id
        for one in orphans.without_version(known)
        if one.tags[CELL] not in at_work and _frees(one.model_id, one)
    ]
    running = [run for run in found if run.info.status == "RUNNING"]
    stale.killed = [
        _named(run) for run in running if store.is_own() and not runs.at_work(run.info.run_id)
    ]
    return stale


def _named(run: Any) -> tuple[str, str]:
    return run.info.run_name, run.info.run_id


def _over(run: Any, superseded: set[str], needed: Needed) -> bool:
    """Whether a run has had its day."""
    if run.data.tags.get("kind") not in KINDS or run.info.status in ("RUNNING", "SCHEDULED"):
        return False
    lost = any(
        key.startswith(INPUT) and value not in needed.digests
        for key, value in run.data.tags.items()
    )
    return run.info.run_id in superseded or lost or run.info.status in ("FAILED", "KILLED")


def _removable(version: Version) -> bool:
    """Whether a version is this project's, and its files, too."""
    model = LOGGED.fullmatch(version.source)
    if not model or not _of_this_project(version.tags):
        return False
    with tolerating("RESOURCE_DOES_NOT_EXIST"):
        return _frees(model[1], with_retry(client().get_logged_model, model[1]))
    return True


def _ours(run: Any) -> bool:
    return _of_this_project(run.data.tags) and home.keeps(
        local_database(), run.info.artifact_uri, run.info.run_id
    )


def _frees(model_id: str, model: Any) -> bool:
    return _of_this_project(model.tags) and home.keeps(
        local_database(), model.artifact_location, model_id
    )


def _of_this_project(tags: dict[str, str]) -> bool:
    """Whether a version or a run was made by this project, and not by another one that shares a
    store outside of both.
    """
    return store.is_own() or _has_commit(store.project_root(), tags.get("git.commit", ""))


_has_commit = functools.cache(has_commit)


def _wanted(version: Version, needed: Needed) -> bool:
    held = version.tags.get(WEIGHTS) in needed.digests or version.tags.get(CELL) in needed.cells
    return (
        held
        or bool(version.aliases)
        or version.label in needed.versions
        or CELL not in version.tags
    )


def remove(stale: Stale) -> None:
    """Delete versions, runs and models, and end runs that were killed.

    Where the store is this machine's, files go first, since who is interrupted then finds the rest
    again; a server's files are left to its `mlflow gc`.
    """
    registry, database = client(), local_database()
    for version in stale.versions:
        model = version.source.rsplit("/", 1)[-1]
        with tolerating("RESOURCE_DOES_NOT_EXIST"):
            home.free(
                database, with_retry(registry.get_logged_model, model).artifact_location, model
            )
        with_retry(registry.delete_model_version, version.name, version.number)
        with tolerating("RESOURCE_DOES_NOT_EXIST"):
            with_retry(registry.delete_logged_model, model)
    for model in stale.models:
        home.free(database, with_retry(registry.get_logged_model, model).artifact_location, model)
        with_retry(registry.delete_logged_model, model)
    for _, run_id in stale.runs:
        home.free(database, with_retry(registry.get_run, run_id).info.artifact_uri, run_id)
        with_retry(registry.delete_run, run_id)
    runs.end_killed(run_id for _, run_id in stale.killed)


def _same(run: Any) -> tuple[str | None, ...]:
    return tuple(run.data.tags.get(name) for name in SAME)
