"""matrix.yaml: lists for the matrices in dvc.yaml that follow from params.yaml.

DVC's templates cannot compute, so the rounds of cross-fitting, the sources of the merged dataset
and the cells of the sweeps are listed in a file of their own.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from filelock import FileLock

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.folders import RAW
from ecgforge.params import MOST_MERGED, Params
from ecgforge.sweeps.common import cells

MATRIX = Path("matrix.yaml")
LOCK = Path(".ecgforge/matrix.lock")
HEADING = "# Lists for dvc.yaml, written by `ecgforge matrix` from params.yaml. Do not edit.\n"


def text(params: Params) -> str:
    """Return the content of matrix.yaml."""
    lists = {
        "merges": {"merged": _merge(params.merged)} if params.merged else {},
        "rounds": {one.name: one.dataset for one in params.rounds},
        "record_sets": params.record_sets,
        "sweep_cells": cells.in_dvc(params),
        "equal_size": {
            f"{pair.train}-{pair.test}": pair.model_dump() for pair in params.equal_size_pairs
        },
    }
    return HEADING + yaml.safe_dump(lists, sort_keys=False, width=1000, default_flow_style=None)


def _merge(sources: list[str]) -> dict[str, object]:
    """Return what the stage `merge` reads, as options of its command and as dependencies.

    A template cannot set the number of dependencies, so the last one is repeated.
    """
    raw = [(RAW / source).as_posix() for source in sources]
    options = " ".join(f"--raw {folder}" for folder in raw)
    return {"options": options, "raw": raw + raw[-1:] * (MOST_MERGED - len(raw))}


def write(params: Params, file: Path = MATRIX) -> bool:
    """Write matrix.yaml where it differs from the parameters; return whether it did."""
    if _fits(params, file):
        return False
    lock = file.parent / LOCK
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):  # two commands that start at once would write the same temporary file
        if _fits(params, file):
            return False
        with atomic_write(file) as scratch:
            scratch.write_text(text(params), encoding="utf-8")
        return True


def _fits(params: Params, file: Path) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text(params)


def check(params: Params, file: Path = MATRIX) -> None:
    """Check that matrix.yaml fits the parameters.

    Raises:
        EcgforgeError: it does not, or it is missing.
    """
    if not _fits(params, file):
        raise EcgforgeError(
            f"{file} does not fit the parameters: run `ecgforge matrix`, then `dvc repro` again "
            "(`ecgforge repro` does both)"
        )
