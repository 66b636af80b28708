"""Write what the stages in dvc.yaml depend on, besides data."""

from __future__ import annotations

from pathlib import Path

import yaml

from ecgforge.files import atomic_write
from ecgforge.stages import matrix, parameters
from ecgforge.stages.common import code


def resolve(file: Path, out: Path) -> None:
    """Write `out`/params.yaml, the resolved parameters, and `out`/code.yaml, digests of the code.

    Args:
        file: params.yaml.

    Raises:
        EcgforgeError: matrix.yaml does not fit params.yaml.
    """
    params = parameters.read(file)
    matrix.check(params, file.with_name(matrix.MATRIX.name))
    texts = {
        "params.yaml": parameters.resolved(params),
        "code.yaml": yaml.safe_dump(code.resolved(params)),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
