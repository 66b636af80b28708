"""Check versions against DVC's records of stages.

The records show whether the stage of a version made its weights from its inputs, and how a
generator's records scored. MLflow alone is not evidence: anyone with write access to the registry
can change it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ruamel.yaml import YAMLError

from ecgforge.dvc.lock import load
from ecgforge.model_versions.pyfunc_signature import WEIGHTS, WEIGHTS_FILE
from ecgforge.model_versions.versions import Version
from ecgforge.provenance.dvc_store import LOCK, DvcStore
from ecgforge.tracking.runs import INPUT
from ecgforge.tracking.store import git

OVERALL = "all"  # value of the column `rhythm` in scores.csv for scores over all rhythms


@dataclass(frozen=True)
class Scored:
    """Scores of a generator's records, from DVC's record of a stage `quality`.

    Attributes:
        stage: its name.
        digest: of the stage's output.
        sampling: how the records were sampled, from the description of their set.
        scores: values by metric; bounds and baseline by metric with the suffix `_low`, `_high` or
            `_baseline`.
        fingerprint: of the run that scored them.
    """

    stage: str
    digest: str
    sampling: Any
    scores: dict[str, float]
    fingerprint: str


def quality(
    dataset: str, generator: str, files: str, real: str, content: DvcStore
) -> Iterator[Scored]:
    """Yield the scores of a generator's records against real records, the newest first.

    Args:
        files: digest of the folder with the generator's weights and description; scores of other
            generators are left out.
        real: digest of the real record set; scores against other sets are left out.
    """
    stage, name, seen = f"quality@{dataset}-{generator}", f"{dataset}/{generator}", set()
    for text in _all_locks(content):
        record = _record(text, stage) if real in text else {}
        out, synthetic = (
            _digest(record, "outs", f"results/quality/{name}"),
            _digest(record, "deps", f"data/synthetic/{name}"),
        )
        if _digest(record, "deps", f"data/prepared/{dataset}") != real or (out, synthetic) in seen:
            continue
        seen.add((out, synthetic))
        made = _made(content.read(synthetic, "about.json", f"data/synthetic/{name}"))
        table, fingerprint = (
            content.read(out, file, f"results/quality/{name}")
            for file in ("scores.csv", "fingerprint.txt")
        )
        scores = _scores(table or b"")
        if scores and made.get("generator_md5") == files:
            yield Scored(
                stage,
                out,
                made.get("sampling"),
                scores,
                (fingerprint or b"").decode(errors="replace").strip(),
            )


def _made(about: bytes | None) -> dict[str, Any]:
    """Return how a synthetic set was sampled, from its description; empty if that is damaged."""
    try:
        made = json.loads(about or b"{}")["made"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def _scores(table: bytes) -> dict[str, float]:
    """Return the scores over all rhythms in a scores.csv, without missing values.

    Empty if the file is missing or damaged.
    """
    columns = {"value": "", "low": "_low", "high": "_high", "baseline": "_baseline"}
    found: dict[str, float] = {}
    try:
        rows = [
            row for row in csv.DictReader(io.StringIO(table.decode())) if row["rhythm"] == OVERALL
        ]
        for row in rows:
            found |= {
                row["metric"] + end: float(row[column])
                for column, end in columns.items()
                if row[column]
            }
    except (ValueError, TypeError, KeyError, csv.Error):
        return {}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def missing(version: Version, content: DvcStore) -> str:
    """Return the description of a record that DVC lacks; empty if it has the record.

    DVC writes its record when a stage ends. So the record is in the commit that the version names,
    in a later one, or, before the commit, in the working tree.
    """
    stage, commit = version.tags.get("dvc.stage", ""), version.tags.get("git.commit", "")
    inputs = {value for key, value in version.tags.items() if key.startswith(INPUT)}
    for text in _locks(commit, content):
        record = _record(text, stage)
        known = {
            entry.get("md5", "") for kind in ("deps", "outs") for entry in _entries(record, kind)
        }
        if inputs <= known and any(
            _holds(entry, version.tags.get(WEIGHTS, ""), content)
            for entry in _entries(record, "outs")
        ):
            return ""
    return (
        f"a record of stage {stage or '(none)'} with these weights and inputs, in {LOCK} of commit "
        f"{commit[:8] or '(none)'} or later"
    )


def _locks(commit: str, content: DvcStore) -> Iterator[str]:
    """Yield dvc.lock of `commit`, of all later commits, and of a working tree based on it."""
    root = content.root
    if not commit or git(root, "cat-file", "-t", commit) != "commit":
        return
    lock = root / LOCK
    if lock.is_file() and git(root, "merge-base", commit, "HEAD") == git(root, "rev-parse", commit):
        yield lock.read_text(errors="replace")
    after = git(
        root, "rev-list", "--all", f"--ancestry-path={commit}", f"^{commit}", "--", LOCK
    ).split()
    for one in (commit, *after):
        yield git(root, "show", f"{one}:./{LOCK}")


def _all_locks(content: DvcStore) -> Iterator[str]:
    """Yield dvc.lock of the working tree, and of all commits that changed it, the newest first."""
    lock = content.root / LOCK
    if lock.is_file():
        yield lock.read_text(errors="replace")
    for commit in git(
        content.root, "log", "--all", "--full-history", "--format=%H", "--", LOCK
    ).split():
        yield git(content.root, "show", f"{commit}:./{LOCK}")


def _record(text: str, stage: str) -> Any:
    try:
        return (load(text) or {})["stages"][stage]
    except (YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _entries(record: Any, kind: str) -> list[dict[str, str]]:
    listed = record.get(kind) if isinstance(record, dict) else None
    return (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )


def _digest(record: Any, kind: str, path: str) -> str:
    """Return the digest of a stage's input or output at a path; empty if its record has none."""
    return next(
        (
            str(entry.get("md5") or "")
            for entry in _entries(record, kind)
            if entry.get("path") == path
        ),
        "",
    )


def _holds(entry: dict[str, str], weights: str, content: DvcStore) -> bool:
    """Return whether an output is, or contains, the weights.

    The content is looked up in DVC's cache or remote, or in an unchanged working tree.
    """
    path, digest = str(entry.get("path", "")), str(entry.get("md5", ""))
    if not weights or not digest:
        return False
    if digest == weights:
        return True
    held = content.listing(digest)
    if held or content.digest(path) != digest:
        return any(
            name == weights and PurePosixPath(file).name == WEIGHTS_FILE
            for file, name in held.items()
        )
    return any(
        content.digest(file.relative_to(content.root).as_posix()) == weights
        for file in (content.root / path).rglob(WEIGHTS_FILE)
    )
