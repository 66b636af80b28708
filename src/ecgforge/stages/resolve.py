"""Write what the stages in dvc.yaml depend on, besides data."""

from __future__ import annotations

import json
from pathlib import Path

from ecgforge.files import atomic_write
from ecgforge.stages import matrix, parameters
from ecgforge.stages.common import code


def resolve(file: Path, out: Path) -> None:
    """Write `out`/params.json, the resolved parameters, and `out`/code.json, digests of the code.

    The files are JSON since DVC parses them again for every stage, and parses YAML fifty times
    slower.

    Args:
        file: params.yaml.

    Raises:
        EcgforgeError: matrix.yaml does not fit params.yaml.
    """
    params = parameters.read(file)
    matrix.check(params, file.with_name(matrix.MATRIX.name))
    trees = {
        "params.json": parameters.resolved(params),
        "code.json": code.resolved(params),
    }
    for name, tree in trees.items():
        with atomic_write(out / name) as scratch:
            scratch.write_text(f"{json.dumps(tree, indent=1)}\n", encoding="utf-8")
