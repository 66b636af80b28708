"""Find the runs and versions that are still needed, and delete the others: see `stages.collect`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ecgforge.model_versions import history, orphans
from ecgforge.model_versions.pyfunc_signature import WEIGHTS
from ecgforge.model_versions.versions import Version, all_versions, versions
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.tracking import home, runs, store
from ecgforge.tracking.runs import FINGERPRINT, INPUT
from ecgforge.tracking.store import client, has_commit, local_database, tolerating, with_retry

# kinds of runs that may be deleted; others, such as trials, stay
KINDS = ("generator", "classifier", "quality")
SAME = (
    *("kind", "dataset", "generator", "setting", "backbone", "sweep", "point"),
    *("augmented", "fold", "draw", "seed", "dvc.stage", "dvc.exp"),
)
# Files of results that name runs by fingerprint.
FINGERPRINT_FILES = {"runs.csv", "fingerprint.txt"}
RUN = re.compile(r"[0-9a-f]{32}")
LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")  # URI of a version's logged model


@dataclass
class Needed:
    """What must stay: digests of files and folders, fingerprints, run ids, labels of versions."""

    digests: set[str] = field(default_factory=set)
    fingerprints: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)


@dataclass
class Stale:
    """What MLflow has and nothing needs.

    Attributes:
        versions: to delete, with their logged models.
        runs: to delete, by name and id.
        ended: fingerprints whose checkpoints are no longer used, because the outputs are in use, or
            because a later run of the same experiment has ended. A fingerprint that is not in this
            store may belong to another store.
        models: ids of logged models without a version, from processes that were killed before
            registration.
        killed: runs by name and id that are RUNNING without a process; they are set to KILLED and
            kept.
        left: labels of versions and names of runs that are not needed, but may belong to another
            project, or have files outside of this store's folder.
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
    for version in _champions():
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
        for name in FINGERPRINT_FILES & files.keys():
            # every digest in the text counts, so a damaged file loses nothing
            text = content.read(digest, name) or b""
            found.fingerprints |= set(re.split(r'[,"\s]+', text.decode(errors="replace"))) - {""}
    return found


def _champions() -> Iterator[Version]:
    """Yield the versions with an alias, and all former champions: a rollback may need them."""
    for model in client().search_registered_models(max_results=1000):
        numbers = {str(number) for number in dict(model.aliases).values()}
        for entry in history.entries(model.name):
            numbers |= {entry.version, entry.former}
        yield from (version for version in versions(model.name) if version.number in numbers)


def unread_history() -> str:
    """Return which history entries cannot be read and what to do; empty if all can be read."""
    for model in client().search_registered_models(max_results=1000):
        for fault in history.damaged(model.name):
            return (
                f"{model.name}: {fault}, so former champions are unknown and nothing may be "
                "removed: restore the tag's text, or remove the tag if no version that it "
                f"could name is needed; see `ecgforge history {model.name}`"
            )
    return ""


def stale(needed: Needed, unfinished: set[str]) -> Stale:
    """Return what MLflow has and nothing needs.

    A version is stale if no commit has its weights or results. A run without a needed version is
    stale if a later run of the same experiment superseded it, if it failed for good, or if its data
    is no longer stored.

    An interrupted stage resumes from the checkpoints of all its runs, including finished ones. DVC
    has no record of its outputs until the stage ends.

    Args:
        unfinished: fingerprints with checkpoints from which a stage can resume.
    """
    known = all_versions()
    done = needed.fingerprints | {
        version.tags.get(FINGERPRINT, "") for version in known if _wanted(version, needed)
    }
    found = [run for run in store.runs() if FINGERPRINT in run.data.tags]
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
        run.data.tags[FINGERPRINT]
        for run in found
        if run.info.run_id in superseded
        or (run.info.status == "FINISHED" and run.data.tags[FINGERPRINT] in done)
    }
    at_work = unfinished - ended
    gone = [
        version
        for version in known
        if not _wanted(version, needed) and version.tags[FINGERPRINT] not in at_work
    ]
    doomed = {version.label for version in gone}
    kept = {version.run_id for version in known if version.label not in doomed}
    keep = needed.runs | kept | {run.data.tags.get("mlflow.parentRunId") for run in found}
    over = [
        run
        for run in found
        if _over(run, superseded, needed)
        and run.info.run_id not in keep
        and run.data.tags[FINGERPRINT] not in needed.fingerprints | at_work
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
        if one.tags[FINGERPRINT] not in at_work and _frees(one.model_id, one)
    ]
    running = [run for run in found if run.info.status == "RUNNING"]
    stale.killed = [
        _named(run) for run in running if store.is_own() and not runs.at_work(run.info.run_id)
    ]
    return stale


def _named(run: Any) -> tuple[str, str]:
    return run.info.run_name, run.info.run_id


def _over(run: Any, superseded: set[str], needed: Needed) -> bool:
    """Return whether a run is superseded, failed, or used data that is no longer stored."""
    if run.data.tags.get("kind") not in KINDS or run.info.status in ("RUNNING", "SCHEDULED"):
        return False
    lost = any(
        key.startswith(INPUT) and value not in needed.digests
        for key, value in run.data.tags.items()
    )
    return run.info.run_id in superseded or lost or run.info.status in ("FAILED", "KILLED")


def _removable(version: Version) -> bool:
    """Return whether a version and its files belong to this project."""
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
    """Return whether this project made a version or run; other projects may share its store."""
    return store.is_own() or _has_commit(store.project_root(), tags.get("git.commit", ""))


_has_commit = functools.cache(has_commit)


def _wanted(version: Version, needed: Needed) -> bool:
    held = (
        version.tags.get(WEIGHTS) in needed.digests
        or version.tags.get(FINGERPRINT) in needed.fingerprints
    )
    return (
        held
        or bool(version.aliases)
        or version.label in needed.versions
        or FINGERPRINT not in version.tags
    )


def remove(stale: Stale) -> None:
    """Delete versions, runs and models, and end runs that were killed.

    In a local store, files are deleted first, so that an interrupted deletion can be repeated. The
    files of a server are left to its `mlflow gc`.
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
