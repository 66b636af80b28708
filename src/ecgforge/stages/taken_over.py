"""Copy the keys of a parameter file with a `base` into params.yaml, which DVC reads."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.params import read_tree, read_yaml
from ecgforge.stages import parameters
from ecgforge.tracking.store import git

Parts = list[tuple[str, list[str]]]


def take_over(file: Path, params: Path) -> bool:
    """Replace the keys of `params` that `file` has or implies, and add its profiles; keep all
    other lines.

    Args:
        file: a parameter file whose `base` is `params`.
        params: params.yaml.

    Returns:
        Whether `params` changed.

    Raises:
        EcgforgeError: a file is invalid; or `params` has changes that would be lost.
    """
    parameters.read(file)
    wanted = read_tree(file, "name a file that `ecgforge init` wrote")
    named = read_yaml(file, "")
    if "base" not in named or (file.parent / named["base"]).resolve() != params.resolve():
        raise EcgforgeError(
            f"{file} cannot be copied into {params}: its key `base` must name {params}, as in "
            f"`base: {params.name}`"
        )
    before = read_yaml(params, "")
    if before == wanted:
        return False
    if git(params.resolve().parent, "status", "--porcelain", "--", params.name):
        raise EcgforgeError(
            f"{params} has changes that are not committed, and `--params {file}` would replace "
            f"some of them: run `git commit {params}`, or `git checkout {params}`, and then this "
            "again"
        )
    implied = {
        key: value for key, value in wanted.items() if key not in named and before[key] != value
    }
    patch = f"{file.read_text(encoding='utf-8')}\n{yaml.safe_dump(implied)}"
    with atomic_write(params) as scratch:
        text = merged(params.read_text(encoding="utf-8"), patch)
        scratch.write_text(text, encoding="utf-8")
        if read_yaml(scratch, "") != wanted:
            raise EcgforgeError(f"{file} cannot be copied into {params}: copy its keys by hand")
    return True


def merged(text: str, patch: str) -> str:
    """Return the text of a parameter file with the keys and profiles of another one."""
    new = _keys(patch.splitlines(), 0)
    profiles = _keys(new.pop("profiles", [])[1:], 2)
    new.pop("base", None)
    parts = [
        (key, [lines[0], *_replaced(_parts(lines[1:], 2), profiles)])
        if key == "profiles"
        else (key, lines)
        for key, lines in _parts(text.splitlines(), 0)
    ]
    return "\n".join([*_replaced(parts, new), ""])


def _replaced(parts: Parts, new: dict[str, list[str]]) -> list[str]:
    """Return the lines of all parts, those of `new` instead of others, or after them."""
    there = {key for key, _ in parts}
    kept = [line for key, lines in parts for line in new.get(key, lines)]
    return kept + [line for key, lines in new.items() if key not in there for line in lines]


def _keys(lines: list[str], indent: int) -> dict[str, list[str]]:
    return {key: part for key, part in _parts(lines, indent) if key}


def _parts(lines: list[str], indent: int) -> Parts:
    """Return the lines of each key at an indent, and of the comments between them (key "")."""
    found: Parts = []
    between: list[str] = []
    for line in lines:
        key = re.match(rf" {{{indent}}}([A-Za-z]\w*):", line)
        if not line.strip() or line.lstrip().startswith("#"):
            between.append(line)
        elif key:
            found += [("", between), (key[1], [line])]
            between = []
        else:  # comments in a value are a part of it
            found[-1][1].extend([*between, line])
            between = []
    return [*found, ("", between)]
