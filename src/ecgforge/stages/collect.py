"""Remove what nothing needs: of DVC's cache, of MLflow's runs and versions, of checkpoints, and of records that a sweep drew for itself.

Needed is what any commit that git names, or the working tree, has in its dvc.lock; all of the lineage of a version that has an alias or
was champion; what a stage that was cut off has made so far; and what is not known to be superseded. DVC's remote is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from ecgforge.errors import EcgforgeError
from ecgforge.files import remove
from ecgforge.stages.inputs import DRAWN, LOCK, UNFINISHED, held
from ecgforge.tracking import garbage, store
from ecgforge.tracking.content import Content
from ecgforge.tracking.garbage import Stale

console = Console(highlight=False)


def collect(really: bool) -> None:
    """Print what nothing needs, and remove it where `really` is set.

    Raises:
        EcgforgeError: a stage is at work, which may need what no record names yet.
    """
    store.ensure_reachable()
    content = Content()
    with content.locked():
        busy = content.at_work()
        if busy:
            raise EcgforgeError(f"DVC is at work ({busy}), and what it makes is not on record yet: run `ecgforge gc` when it has ended")
        found = plan(content)
        for kind, names in found.told.items():
            console.print(f"{len(names)} {kind}" + (f": {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else ""))
        console.print(f"{found.size / 1e6:.1f} MB of files")
        if not really:
            console.print("Nothing was removed: `ecgforge gc --yes` removes these.")
            return
        for path in found.files:
            remove(path)
        garbage.remove(found.stale)
    console.print("Removed.")


@dataclass
class Plan:
    """What would be removed: files, and what MLflow has."""

    files: list[Path]
    stale: Stale
    told: dict[str, list[str]]
    size: int


def plan(content: Content) -> Plan:
    """Find what nothing needs. Removes nothing."""
    needed = garbage.needed(content)
    stale = garbage.stale(needed, {folder.name for folder in _unfinished(content.root)})
    objects = [path for path in content.objects() if path.parent.name + path.name not in needed.digests]
    checkpoints = [folder for folder in _unfinished(content.root) if folder.name in stale.ended]
    drawn = [path for path in _drawn(content.root) if _free(path)]
    files = [*objects, *checkpoints, *drawn]
    told = {
        "files of DVC's cache": [path.parent.name + path.name for path in objects],
        "versions": [version.label for version in stale.versions],
        "runs": [name for name, _ in stale.runs],
        "checkpoints": [folder.name for folder in checkpoints],
        "record sets of sweeps that were killed": [path.name for path in drawn],
    }
    return Plan(files, stale, told, sum(_size(path) for path in files))


def _unfinished(root: Path) -> list[Path]:
    folder = root / UNFINISHED
    return sorted(folder.iterdir()) if folder.exists() else []


def _drawn(root: Path) -> list[Path]:
    folder = root / DRAWN
    return sorted(path for path in folder.iterdir() if path.suffix != LOCK) if folder.exists() else []


def _free(drawn: Path) -> bool:
    whole_name = drawn.name.removeprefix(".").removesuffix(".partial")  # as `files.whole` names what is not complete yet
    try:
        with held(drawn.with_name(whole_name), timeout=0):
            return True
    except Timeout:
        return False


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
