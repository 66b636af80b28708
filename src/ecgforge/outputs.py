"""Checks of output paths: a command replaces neither the user's files nor its own inputs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from ecgforge.errors import EcgforgeError


def expanded(path: str) -> Path:
    """Return a path with `~` replaced by the user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise EcgforgeError(f"{path}: there is no user with this name") from None


def overlap(one: Path, other: Path) -> bool:
    """Return whether two paths are equal or one contains the other; links are followed."""
    first, second = one.resolve(), other.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def refuse(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Reject an output path without a name, or one that overlaps an input.

    Raises:
        EcgforgeError: names the path.
    """
    if out.name in ("", ".."):
        raise EcgforgeError(f"{out} cannot be an output: name a new folder")
    for one in inputs:
        if overlap(out, one):
            raise EcgforgeError(f"{out} overlaps the input {one}: name another folder")


def foreign(folder: Path, known: Iterable[str]) -> list[str]:
    """Return the relative paths of files in `folder` that are not `known`, empty if none."""
    if not folder.is_dir():
        return [folder.name] if folder.exists() else []
    listed = set(known)
    return sorted(
        name
        for file in folder.rglob("*")
        if not file.is_dir() and (name := file.relative_to(folder).as_posix()) not in listed
    )


# Files in the folders that commands replace; acquire, prepare and synthesize have their own checks,
# and tuning writes files.
CLASSIFIERS = ("weights.safetensors", "classifier.json", "predictions.csv", "runs.csv")
SWEEPS = ("predictions.csv", "runs.csv", "variations.csv")
HOLD = {
    "train-generator": ("weights.safetensors", "generator.json"),
    "train-classifier": CLASSIFIERS,
    "sweep": SWEEPS,
    "quality": ("fingerprint.txt", "scores.csv", "views.csv"),
    "report": (
        "answers.json",
        "results.csv",
        "confusions.csv",
        "verdicts.csv",
        "score_utility.csv",
        "metrics.json",
        "report.html",
        "*.svg",
        "mixtures.csv",
        "fine_tuning.csv",
        "sizes.csv",
        "confusion_*.csv",
    ),
}


def of_command(command: str, folder: Path) -> Path:
    """Return the output folder of a command after a check that it holds only the command's files.

    Raises:
        EcgforgeError: it holds another file, or has no name.
    """
    if command in HOLD:
        refuse(folder)
        patterns = (*HOLD[command], ".gitignore")  # written by DVC for tracked outputs
        there = foreign(folder, ())
        other = [
            name
            for name in there
            if not any(fnmatch.fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)
        ]
        if other:
            raise EcgforgeError(
                f"{folder} exists, and `ecgforge {command}` does not write its file "
                f"{other[0]}: name another folder"
            )
    return folder


def check_file(
    path: Path, ending: str, wrote: re.Pattern[bytes], inputs: Iterable[Path] = ()
) -> None:
    """Check that a command may write the file `path`; call it before long work.

    Args:
        ending: suffix of the file.
        wrote: matches the first bytes of an older output of this command; other files are kept.
        inputs: folders that the command reads.

    Raises:
        EcgforgeError: the suffix is wrong, another program wrote the file, or it is in an input
            folder.
    """
    if path.suffix != ending or path.is_dir():
        raise EcgforgeError(f"{path} cannot be written: name a file that ends in {ending}")
    for one in inputs:
        if (
            one.is_dir()
            and path.resolve().is_relative_to(one.resolve())
            and one.resolve() != Path.cwd().resolve()
        ):
            raise EcgforgeError(f"{path} is in the input folder {one}: name a file elsewhere")
    if path.exists():
        with path.open("rb") as file:
            if not wrote.match(file.read(4096)):
                raise EcgforgeError(
                    f"{path} exists and was not written by this command: name another file"
                )
