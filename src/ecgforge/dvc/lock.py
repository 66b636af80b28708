"""What a kill of DVC can damage.

Of dvc.lock a copy of the last good one is kept, and a torn one is restored from it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write

LOCK = "dvc.lock"
KEPT, DAMAGED = Path(".ecgforge/dvc.lock"), Path(".ecgforge/dvc.lock.damaged")
IN_USE, TRIES = Path(".dvc/tmp/rwlock"), 10  # who reads and writes which path
STAGE = re.compile(r"^  \S", re.MULTILINE)  # where the entry of a stage starts
CONFLICT = re.compile(r"^<<<<<<< ", re.MULTILINE)
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Stages = dict[str, Any]


def keep(root: Path) -> None:
    """Copy the dvc.lock in `root` to `KEPT`, if it is not torn and differs."""
    text = _text(root / LOCK)
    if text and text != _text(root / KEPT) and not _torn(root, stages(_text(root / KEPT))):
        with atomic_write(root / KEPT) as scratch:
            scratch.write_text(text, encoding="utf-8")


def mend(root: Path) -> str:
    """Restore the dvc.lock in `root` if it is torn, from the copy that `keep` made or from the last
    commit. Call it under DVC's lock.

    The damaged file goes to `DAMAGED`.

    Returns:
        A line that says what was done; empty where the lock is not torn.

    Raises:
        EcgforgeError: it is torn, and there is nothing to restore it from.
    """
    if not (root / LOCK).exists():
        return ""
    if not (root / LOCK).is_file():
        raise EcgforgeError(
            f"{LOCK} is a folder: move it away, and restore the file with `git checkout {LOCK}` or "
            "`ecgforge repro`"
        )
    if CONFLICT.search(_text(root / LOCK)):
        raise EcgforgeError(
            f"{LOCK} has a merge conflict: resolve it, for instance by `git checkout --ours "
            f"{LOCK}`, and run `ecgforge repro`"
        )
    copies = {
        "the copy of the last finished stage": _text(root / KEPT),
        "the last commit": _git(root, "show", f"HEAD:./{LOCK}") + "\n",
    }
    origin, text = next(
        ((origin, text) for origin, text in copies.items() if stages(text) is not None), ("", "")
    )
    if not _torn(root, stages(text)):
        return ""
    if not text:
        raise EcgforgeError(
            f"{LOCK} is damaged and there is no copy of it: move it away, and `ecgforge repro` "
            "makes a new one"
        )
    _restore(root, text)
    return (
        f"{LOCK} was damaged, by a kill or a full disk while DVC wrote it: restored from {origin}; "
        f"the damaged one is {DAMAGED}"
    )


def mend_list_of_users(root: Path) -> None:
    """Remove DVC's list of who reads and writes what if a process was killed while it wrote the
    list: DVC would refuse to start.
    """
    for _ in range(TRIES):  # a process that lives has finished at once
        try:
            json.loads((root / IN_USE).read_text())
            return
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(0.1)
    (root / IN_USE).unlink(missing_ok=True)


def mend_run_cache(runs: Path) -> None:
    """Remove what a kill left in DVC's run cache, the folder `runs`:

    DVC cannot run a stage whose folder there is empty.
    """
    for folder in runs.glob("*/*"):
        for left in folder.glob(".*.partial"):
            left.unlink()
        with suppress(OSError):  # it holds records
            folder.rmdir()


def stages(text: str) -> Stages | None:
    """Return the stages in the text of a dvc.lock by name, None where it is not complete."""
    try:
        tree = yaml.load(text, _LOADER)
        entries = tree["stages"].values()
        items = [
            item for entry in entries for kind in ("deps", "outs") for item in entry.get(kind, [])
        ]
        if (
            tree["schema"] != "2.0"
            or not all("cmd" in entry for entry in entries)
            or not all(map(_complete, items))
        ):
            return None
        return dict(tree["stages"])
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return None


def _complete(item: dict[str, Any]) -> bool:
    """Whether what a stage reads or writes has its path and all of its digest."""
    hashed = item.get("hash", "md5" if "md5" in item else "")
    return (
        "path" in item
        and len(item) > 1
        and (hashed != "md5" or bool(MD5.fullmatch(str(item.get("md5", "")))))
    )


def _torn(root: Path, kept: Stages | None) -> bool:
    """Whether the dvc.lock in `root` is a part of a file.

    A cut can leave valid YAML with fewer stages. So a lock is torn as well where its stages are the
    first ones of `kept`, and git does not know this version of the file.
    """
    found = stages(_text(root / LOCK))
    if found is None or kept is None:
        return found is None
    names, all_names = list(found), list(kept)
    if names != all_names:
        return names == all_names[: len(names)] and not _known_to_git(root)
    return bool(names) and len(found[names[-1]].get("outs", [])) < len(
        kept[names[-1]].get("outs", [])
    )


def _restore(root: Path, text: str) -> None:
    (root / DAMAGED).parent.mkdir(exist_ok=True)
    shutil.copyfile(root / LOCK, root / DAMAGED)
    kept, torn = stages(text) or {}, _text(root / LOCK)
    # the last one may be cut
    newer = stages(torn[: max((found.start() for found in STAGE.finditer(torn)), default=0)]) or {}
    if any(kept.get(name) != entry for name, entry in newer.items()):
        text = yaml.safe_dump({"schema": "2.0", "stages": kept | newer}, sort_keys=False)
    with atomic_write(root / LOCK) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _known_to_git(root: Path) -> bool:
    blob = _git(root, "hash-object", LOCK)
    return bool(blob) and _git(root, "cat-file", "-t", blob) == "blob"


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.rstrip("\n")
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return ""
