"""What a command may write to: nothing of the user's is replaced, and nothing that the same command
reads.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from ecgforge.errors import EcgforgeError


def expanded(path: str) -> Path:
    """Return a path as the user wrote it, with `~` for the user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise EcgforgeError(
            f"{path}: there is no user of this name whose home could be meant"
        ) from None


def overlap(one: Path, other: Path) -> bool:
    """Whether two paths are the same, or one is inside the other, links followed."""
    first, second = one.resolve(), other.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def refuse(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that has no name, or that is, is inside or contains one of the inputs.

    Raises:
        EcgforgeError: says which.
    """
    if out.name in ("", ".."):
        raise EcgforgeError(f"{out} cannot be replaced by what is written: name a new folder")
    for one in inputs:
        if overlap(out, one):
            raise EcgforgeError(f"{out} overlaps {one}, which is read: name a folder apart from it")


def foreign(folder: Path, known: Iterable[str]) -> list[str]:
    """Name what is in `folder` beyond the files `known`, by relative paths; nothing where it is
    empty or not there.
    """
    if not folder.is_dir():
        return [folder.name] if folder.exists() else []
    listed = set(known)
    return sorted(
        name
        for file in folder.rglob("*")
        if not file.is_dir() and (name := file.relative_to(folder).as_posix()) not in listed
    )


# What is in the folders that commands replace; acquire, prepare and synthesize look more closely,
# and tuning writes files.
CLASSIFIERS = ("weights.safetensors", "classifier.json", "predictions.csv", "runs.csv")
SWEEPS = ("predictions.csv", "runs.csv", "variations.csv")
HOLD = {
    "train-generator": ("weights.safetensors", "generator.json"),
    "train-classifier": CLASSIFIERS,
    "sweep": SWEEPS,
    "quality": ("fingerprint.txt", "scores.csv", "views.csv"),
    "report": (
        "results.csv",
        "confusions.csv",
        "verdicts.csv",
        "metrics.json",
        "report.html",
        "*.svg",
    ),
}


def of_command(command: str, folder: Path) -> Path:
    """Return the folder that a command is to write, once it is known that no file is in it that the
    command does not write.

    Raises:
        EcgforgeError: one is, or the folder has no name.
    """
    if command in HOLD:
        refuse(folder)
        patterns = (*HOLD[command], ".gitignore")  # DVC's, of what it tracks
        there = foreign(folder, ())
        other = [
            name
            for name in there
            if not any(fnmatch.fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)
        ]
        if other:
            raise EcgforgeError(
                f"{folder} exists, and `ecgforge {command}` does not write {other[0]} in it: name "
                "another folder"
            )
    return folder


def check_file(
    path: Path, ending: str, wrote: re.Pattern[bytes], inputs: Iterable[Path] = ()
) -> None:
    """Check that a command may write the file `path`: call it before the work is done.

    Args:
        wrote: what an older file of this command starts with. Any other file is somebody's.
        inputs: folders that are read.

    Raises:
        EcgforgeError: the name does not end in `ending`, the file was not written by this command,
            or it lies among what is read.
    """
    if path.suffix != ending or path.is_dir():
        raise EcgforgeError(f"{path} cannot be written: name a file that ends in {ending}")
    for one in inputs:
        if (
            one.is_dir()
            and path.resolve().is_relative_to(one.resolve())
            and one.resolve() != Path.cwd().resolve()
        ):
            raise EcgforgeError(f"{path} lies in {one}, which is read: name a file elsewhere")
    if path.exists():
        with path.open("rb") as file:
            if not wrote.match(file.read(4096)):
                raise EcgforgeError(
                    f"{path} exists and was not written by this command: name another file"
                )
