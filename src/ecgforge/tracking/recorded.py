"""Whether DVC's records say of a version what its tags say: that the stage which they name made these weights from these inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml

from ecgforge.tracking.content import LOCK, Content
from ecgforge.tracking.runs import INPUT
from ecgforge.tracking.served import WEIGHTS, WEIGHTS_FILE
from ecgforge.tracking.store import git
from ecgforge.tracking.versions import Version

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def missing(version: Version, content: Content) -> str:
    """Say what DVC has no record of, empty where it has one.

    DVC writes its record when a stage has ended, so it is in the commit that the version names, in one that came after it, or, not yet
    committed, in the working tree.
    """
    stage, commit = version.tags.get("dvc.stage", ""), version.tags.get("git.commit", "")
    inputs = {value for key, value in version.tags.items() if key.startswith(INPUT)}
    for text in _locks(commit, content):
        record = _record(text, stage)
        known = {entry.get("md5", "") for kind in ("deps", "outs") for entry in _entries(record, kind)}
        if inputs <= known and any(_holds(entry, version.tags.get(WEIGHTS, ""), content) for entry in _entries(record, "outs")):
            return ""
    return f"a record of stage {stage or '(none)'} with these weights and inputs, in {LOCK} of commit {commit[:8] or '(none)'} or later"


def _locks(commit: str, content: Content) -> Iterator[str]:
    """dvc.lock of the working tree, if that goes on from `commit`, of `commit` itself, and of all commits that came after it."""
    root = content.root
    if not commit or git(root, "cat-file", "-t", commit) != "commit":
        return
    lock = root / LOCK
    if lock.is_file() and git(root, "merge-base", commit, "HEAD") == git(root, "rev-parse", commit):
        yield lock.read_text(errors="replace")
    after = git(root, "rev-list", "--all", f"--ancestry-path={commit}", f"^{commit}", "--", LOCK).split()
    for one in (commit, *after):
        yield git(root, "show", f"{one}:./{LOCK}")


def _record(text: str, stage: str) -> Any:
    try:
        return (yaml.load(text, _LOADER) or {})["stages"][stage]
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}


def _entries(record: Any, kind: str) -> list[dict[str, str]]:
    listed = record.get(kind) if isinstance(record, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _holds(entry: dict[str, str], weights: str, content: Content) -> bool:
    """Whether an output is, or has in it, the weights: by DVC's cache or remote, or by the working tree where that is still the same."""
    path, digest = str(entry.get("path", "")), str(entry.get("md5", ""))
    if not weights or not digest:
        return False
    if digest == weights:
        return True
    held = content.listing(digest)
    if held or content.digest(path) != digest:
        return any(name == weights and PurePosixPath(file).name == WEIGHTS_FILE for file, name in held.items())
    return any(content.digest(file.relative_to(content.root).as_posix()) == weights for file in (content.root / path).rglob(WEIGHTS_FILE))
