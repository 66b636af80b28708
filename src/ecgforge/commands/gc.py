"""Garbage collection: remove unneeded files of DVC's cache, MLflow runs and versions, checkpoints,
and leftovers of killed processes.

These are needed: outputs in a dvc.lock of the working tree or of a commit that a git ref reaches;
the lineage of each version that has an alias or was champion; the state of unfinished stages; and
anything that is not known to be superseded. DVC's remote, and files outside the project and its
tracking store, are never removed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import Timeout

from ecgforge import console, folders
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError
from ecgforge.files import remove
from ecgforge.provenance import gc as garbage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.gc import Stale
from ecgforge.stages.common.temporary import LOCK, TEMPORARY, held
from ecgforge.tracking import store

# folders in which a killed process can leave partial files of `files.atomic_write`
SCRATCH = ("data", "models", "results", "resolved", "reports", ".ecgforge")
FORMER = ".former.partial"  # suffix of an output that `files.atomic_write` replaces


def collect(really: bool) -> None:
    """Print everything unneeded, and remove it if `really` is set.

    Raises:
        EcgforgeError: a stage is running, whose outputs are not recorded yet; or git, dvc.lock or
            the champion history cannot be read completely.
    """
    store.ensure_reachable()
    content = DvcStore()
    if content.lacks_git:
        raise EcgforgeError(
            f"{content.root} is not in a git repository: the outputs that its commits need are "
            "unknown, so nothing was removed"
        )
    with content.locked():
        # A truncated dvc.lock lists fewer stages, and the outputs of the others look unneeded.
        if mended := lock.mend(content.root):
            if really:
                raise EcgforgeError(
                    f"{mended}. The latest outputs may be missing from it, so nothing was removed: "
                    "run `ecgforge repro` to complete it"
                )
            console.err.print(mended)
        if really and not _has_stages(content.root):
            raise EcgforgeError(
                f"{lock.LOCK} is missing or has no stages, so all outputs would look unneeded. "
                "Nothing was removed: restore it with "
                f"`git checkout {lock.LOCK}` or `ecgforge repro`"
            )
        busy = content.at_work() or _at_work(content.root)
        if busy:
            raise EcgforgeError(
                f"DVC is running ({busy}), and its outputs are not recorded yet: run `ecgforge gc` "
                "when it has ended"
            )
        unread = garbage.unread_history()
        if unread and really:
            raise EcgforgeError(unread)
        found = plan(content)
        for kind, names in found.listed.items():
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
    """Describe another ecgforge process in the project, also one that DVC did not start; empty if
    there is none.
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
    """The garbage: files and MLflow objects to remove.

    Attributes:
        files: paths to remove.
        stale: MLflow objects to remove.
        listed: names to print, by kind.
        size: bytes of the files.
    """

    files: list[Path]
    stale: Stale
    listed: dict[str, list[str]]
    size: int


def plan(content: DvcStore) -> Plan:
    """Find everything unneeded, without removing it."""
    needed = garbage.needed(content)
    stale = garbage.stale(needed, {folder.name for folder in _unfinished(content.root)})
    objects = [
        path for path in content.objects() if path.parent.name + path.name not in needed.digests
    ]
    checkpoints = [folder for folder in _unfinished(content.root) if folder.name in stale.ended]
    temporary = [path for path in _temporary(content.root) if _free(path)]
    scratch = [path for path in _scratch(content.root) if path not in temporary]
    found = [*checkpoints, *temporary, *scratch]
    files = [*objects, *(path for path in found if _inside(path, content.root))]
    outside = [str(path) for path in found if not _inside(path, content.root)]
    if content.external_cache():
        outside.append(f"DVC's cache {content.external_cache()}")
    listed = {
        "files of DVC's cache": [path.parent.name + path.name for path in objects],
        "versions": [version.label for version in stale.versions],
        "runs": [name for name, _ in stale.runs],
        "unregistered models": stale.models,
        "checkpoints": [folder.name for folder in checkpoints],
        "record sets of killed sweeps": [path.name for path in temporary],
        "incomplete outputs": [path.relative_to(content.root).as_posix() for path in scratch],
    }
    if stale.killed:
        listed["runs of killed processes, which get the status KILLED"] = [
            name for name, _ in stale.killed
        ]
    if stale.left + outside:
        listed["kept, since other projects may need them"] = [*stale.left, *outside]
    return Plan(files, stale, listed, sum(_size(path) for path in files))


def _inside(path: Path, root: Path) -> bool:
    """Whether a path is in the project, with links resolved."""
    return path.parent.resolve().is_relative_to(root.resolve())


def _unfinished(root: Path) -> list[Path]:
    folder = root / folders.unfinished()
    return sorted(folder.iterdir()) if folder.exists() else []


def _temporary(root: Path) -> list[Path]:
    folder = root / TEMPORARY
    return (
        sorted(path for path in folder.iterdir() if path.suffix != LOCK) if folder.exists() else []
    )


def _scratch(root: Path) -> list[Path]:
    """Find partial files of `files.atomic_write` from killed processes. A former output is kept if
    no new one replaced it.
    """
    found = [path for folder in SCRATCH for path in (root / folder).rglob(".*.partial")]
    found += root.glob(".ml*.partial")  # of MLflow's database and its files
    lone = [
        path
        for path in found
        if path.name.endswith(FORMER) and not path.with_name(path.name[1 : -len(FORMER)]).exists()
    ]
    return sorted(path for path in found if path not in lone and not {*path.parents} & {*found})


def _free(folder: Path) -> bool:
    # `files.atomic_write` names incomplete outputs `.name.partial`
    whole_name = folder.name.removeprefix(".").removesuffix(".partial")
    try:
        with held(folder.with_name(whole_name), timeout=0):
            return True
    except Timeout:
        return False


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
