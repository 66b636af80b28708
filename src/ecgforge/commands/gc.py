"""Remove what nothing needs: of DVC's cache, of MLflow's runs and versions, of checkpoints, and
what killed processes left.

Needed is what any commit that git names, or the working tree, has in its dvc.lock; all of the
lineage of a version that has an alias or was champion; what a stage that was cut off has made so
far; and what is not known to be superseded. DVC's remote is never touched, nor is anything outside
of the project and its tracking store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import Timeout

from ecgforge import console
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError
from ecgforge.files import remove
from ecgforge.provenance import gc as garbage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.gc import Stale
from ecgforge.stages.common.drawn import DRAWN, LOCK, held
from ecgforge.stages.common.tracked import UNFINISHED
from ecgforge.tracking import store

# folders in which `files.atomic_write` leaves something when its process is killed
SCRATCH = ("data", "models", "results", "resolved", "reports", ".ecgforge")
FORMER = ".former.partial"  # as `files.atomic_write` names the output that it replaces


def collect(really: bool) -> None:
    """Print what nothing needs, and remove it where `really` is set.

    Raises:
        EcgforgeError: a stage is at work, which may need what no record names yet, or the history
            of champions is damaged.
    """
    store.ensure_reachable()
    content = DvcStore()
    if content.lacks_git:
        raise EcgforgeError(
            f"there is no git repository in {content.root}: what its commits need is not known, so "
            "nothing is removed"
        )
    with content.locked():
        # A torn dvc.lock names fewer stages, and what the others made would seem to be needed by
        # none.
        if mended := lock.mend(content.root):
            if really:
                raise EcgforgeError(
                    f"{mended}. It may lack what was made last, so nothing was removed: `ecgforge "
                    "repro` brings it up to date"
                )
            console.err.print(mended)
        if really and not _has_stages(content.root):
            raise EcgforgeError(
                f"{lock.LOCK} is missing or names no stage, so what the study made would seem to "
                "be needed by none. Nothing was removed: "
                f"`git checkout {lock.LOCK}` or `ecgforge repro` brings it back"
            )
        busy = content.at_work() or _at_work(content.root)
        if busy:
            raise EcgforgeError(
                f"DVC is at work ({busy}), and what it makes is not on record yet: run `ecgforge "
                "gc` when it has ended"
            )
        unread = garbage.unread_history()
        if unread and really:
            raise EcgforgeError(unread)
        found = plan(content)
        for kind, names in found.told.items():
            console.out.print(
                f"{len(names)} {kind}"
                + (f": {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else "")
            )
        console.out.print(f"{found.size / 1e6:.1f} MB of files")
        if not really:
            console.out.print(
                "Nothing was removed: `ecgforge gc --yes` removes these."
                if not unread
                else f"Nothing was removed. {unread}"
            )
            return
        for path in found.files:
            remove(path)
        garbage.remove(found.stale)
    console.out.print("Removed.")


def _has_stages(root: Path) -> bool:
    """Whether dvc.lock has a record of a stage, where the project has stages."""
    file = root / lock.LOCK
    return not (root / "dvc.yaml").exists() or (
        file.is_file() and bool(lock.stages(file.read_text(errors="replace")))
    )


def _at_work(root: Path) -> str:
    """Return which other process of ecgforge works in the project, in words; empty where none does.

    Not all are started by DVC.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = [Path(word).name for word in process.info["cmdline"] or []][:3]
        here = process.info["cwd"] is not None and Path(process.info["cwd"]).is_relative_to(root)
        if (
            here
            and process.info["pid"] not in own
            and {"ecgforge", "ecgforge.pipeline.warm"} & {*words}
            and "ui" not in words
        ):
            return f"process {process.info['pid']}: {' '.join(words)}"
    return ""


@dataclass
class Plan:
    """What would be removed: files, and what MLflow has."""

    files: list[Path]
    stale: Stale
    told: dict[str, list[str]]
    size: int


def plan(content: DvcStore) -> Plan:
    """Find what nothing needs. Removes nothing."""
    needed = garbage.needed(content)
    stale = garbage.stale(needed, {folder.name for folder in _unfinished(content.root)})
    objects = [
        path for path in content.objects() if path.parent.name + path.name not in needed.digests
    ]
    checkpoints = [folder for folder in _unfinished(content.root) if folder.name in stale.ended]
    drawn = [path for path in _drawn(content.root) if _free(path)]
    scratch = [path for path in _scratch(content.root) if path not in drawn]
    found = [*checkpoints, *drawn, *scratch]
    files = [*objects, *(path for path in found if _inside(path, content.root))]
    elsewhere = [str(path) for path in found if not _inside(path, content.root)]
    if content.cache_elsewhere():
        elsewhere.append(f"DVC's cache {content.cache_elsewhere()}")
    told = {
        "files of DVC's cache": [path.parent.name + path.name for path in objects],
        "versions": [version.label for version in stale.versions],
        "runs": [name for name, _ in stale.runs],
        "models that were never registered": stale.models,
        "checkpoints": [folder.name for folder in checkpoints],
        "record sets of sweeps that were killed": [path.name for path in drawn],
        "outputs that were never completed": [
            path.relative_to(content.root).as_posix() for path in scratch
        ],
    }
    if stale.killed:
        told["runs whose process was killed: they end as KILLED"] = [
            name for name, _ in stale.killed
        ]
    if stale.left + elsewhere:
        told["left alone, since other projects may need them"] = [*stale.left, *elsewhere]
    return Plan(files, stale, told, sum(_size(path) for path in files))


def _inside(path: Path, root: Path) -> bool:
    """Whether a file or folder lies in the project, and not at the end of a link out of it."""
    return path.parent.resolve().is_relative_to(root.resolve())


def _unfinished(root: Path) -> list[Path]:
    folder = root / UNFINISHED
    return sorted(folder.iterdir()) if folder.exists() else []


def _drawn(root: Path) -> list[Path]:
    folder = root / DRAWN
    return (
        sorted(path for path in folder.iterdir() if path.suffix != LOCK) if folder.exists() else []
    )


def _scratch(root: Path) -> list[Path]:
    """What `files.atomic_write` has left of outputs whose process was killed; a former output stays
    where no new one took its place.
    """
    found = [path for folder in SCRATCH for path in (root / folder).rglob(".*.partial")]
    lone = [
        path
        for path in found
        if path.name.endswith(FORMER) and not path.with_name(path.name[1 : -len(FORMER)]).exists()
    ]
    return sorted(path for path in found if path not in lone and not {*path.parents} & {*found})


def _free(drawn: Path) -> bool:
    # as `files.atomic_write` names what is not complete yet
    whole_name = drawn.name.removeprefix(".").removesuffix(".partial")
    try:
        with held(drawn.with_name(whole_name), timeout=0):
            return True
    except Timeout:
        return False


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
