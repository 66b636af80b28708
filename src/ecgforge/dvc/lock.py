"""Repair of files that a kill of DVC can damage.

A copy of the last valid dvc.lock is kept, and an incomplete one is restored from it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

from ruamel.yaml import YAML, YAMLError

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write

LOCK = "dvc.lock"
KEPT, DAMAGED = Path(".ecgforge/dvc.lock"), Path(".ecgforge/dvc.lock.damaged")
# DVC's list of the paths that each process reads and writes
IN_USE, TRIES = Path(".dvc/tmp/rwlock"), 10
STAGE = re.compile(r"^  \S", re.MULTILINE)  # start of a stage's entry
CONFLICT = re.compile(r"^<<<<<<< ", re.MULTILINE)
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")

Stages = dict[str, Any]


def keep(root: Path) -> None:
    """Copy the dvc.lock in `root` to `KEPT`, if it is complete and has changed."""
    text = _text(root / LOCK)
    if text and text != _text(root / KEPT) and not _torn(root, stages(_text(root / KEPT))):
        write_copy(root, text)


def write_entries(root: Path, entries: Stages) -> None:
    """Add the entries of stages, by name, to the dvc.lock in `root`; call this under DVC's lock.

    Raises:
        EcgforgeError: dvc.lock is damaged.
    """
    found = stages(_text(root / LOCK)) if (root / LOCK).exists() else {}
    if found is None:
        raise EcgforgeError(f"{LOCK} is damaged: run this again, `ecgforge repro` restores it")
    merged = io.StringIO()
    dump({"schema": "2.0", "stages": found | entries}, merged)
    with atomic_write(root / LOCK) as scratch:
        scratch.write_text(merged.getvalue(), encoding="utf-8")
    write_copy(root, merged.getvalue())


def write_copy(root: Path, text: str) -> None:
    """Write `text`, a complete dvc.lock of the project in `root`, to `KEPT`."""
    with atomic_write(root / KEPT) as scratch:
        scratch.write_text(text, encoding="utf-8")


def mend(root: Path) -> str:
    """Restore an incomplete dvc.lock in `root`; call this under DVC's lock.

    It is restored from the copy that `keep` made, or from the last commit. The damaged file is
    moved to `DAMAGED`.

    Returns:
        A message; empty if the lock is complete.

    Raises:
        EcgforgeError: it is incomplete, and there is nothing to restore it from.
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
            f"{LOCK} has a merge conflict: resolve it, for example with `git checkout --ours "
            f"{LOCK}`, and run `ecgforge repro`"
        )
    kept = _text(root / KEPT)
    if kept and kept == _text(root / LOCK):
        return ""
    copies = {
        "the copy of the last finished stage": kept,
        "the last commit": _git(root, "show", f"HEAD:./{LOCK}") + "\n",
    }
    origin, text = next(
        ((origin, text) for origin, text in copies.items() if stages(text) is not None), ("", "")
    )
    if not _torn(root, stages(text)):
        return ""
    if not text:
        raise EcgforgeError(
            f"{LOCK} is damaged and there is no copy of it: move it away, and `ecgforge "
            "repro` makes a new one"
        )
    _restore(root, text)
    return (
        f"{LOCK} was damaged, by a kill or a full disk while DVC wrote it: restored from "
        f"{origin}; the damaged file is now {DAMAGED}"
    )


def mend_list_of_users(root: Path) -> None:
    """Remove DVC's list of readers and writers if a killed process left it incomplete.

    DVC would not start with such a list.
    """
    for _ in range(TRIES):  # a living process finishes writing within these tries
        try:
            json.loads((root / IN_USE).read_text())
            return
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(0.1)
    (root / IN_USE).unlink(missing_ok=True)


def mend_run_cache(runs: Path) -> None:
    """Remove empty folders that a kill left in DVC's run cache, the folder `runs`.

    DVC cannot run a stage that has an empty folder there.
    """
    for folder in runs.glob("*/*"):
        for left in folder.glob(".*.partial"):
            left.unlink()
        with suppress(OSError):  # the folder has records
            folder.rmdir()


def load(text: str) -> Any:
    """Parse a dvc.lock as DVC does. PyYAML would read `5e-05` as text, and `no` as false.

    Raises:
        YAMLError, ValueError: the text is damaged.
    """
    return YAML(typ="safe").load(text)


def dump(tree: Any, stream: TextIO) -> None:
    """Write the content of a dvc.lock in DVC's layout, with the YAML writer in C."""
    writer = YAML(typ="safe")
    writer.default_flow_style = cast("None", False)  # its annotation is too narrow
    writer.sort_base_mapping_type_on_output = cast("None", False)
    writer.Representer.add_representer(OrderedDict, writer.Representer.represent_dict)
    writer.dump(tree, stream)


def stages(text: str) -> Stages | None:
    """Return the stages in the text of a dvc.lock by name; None if the text is incomplete."""
    try:
        tree = load(text)
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
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _complete(item: dict[str, Any]) -> bool:
    """Return whether an input or output of a stage has its path and its whole digest."""
    hashed = item.get("hash", "md5" if "md5" in item else "")
    return (
        "path" in item
        and len(item) > 1
        and (hashed != "md5" or bool(MD5.fullmatch(str(item.get("md5", "")))))
    )


def _torn(root: Path, kept: Stages | None) -> bool:
    """Return whether the dvc.lock in `root` is incomplete.

    A cut file can be valid YAML with fewer stages. So a lock also counts as incomplete if its
    stages are the first ones of `kept`, and git does not know this version of the file.
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
    # the last stage may be cut
    newer = stages(torn[: max((found.start() for found in STAGE.finditer(torn)), default=0)]) or {}
    if any(kept.get(name) != entry for name, entry in newer.items()):
        merged = io.StringIO()
        dump({"schema": "2.0", "stages": kept | newer}, merged)
        text = merged.getvalue()
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
