"""Access to private names of other packages, which a new version may move or remove.

Three files use it: `tracking/mlflow_internals.py`, `dvc/internals.py` and
`tuning/optuna_internals.py`. `tests/test_private_names.py` checks that each name exists, and that
no other file uses a private name of these packages.
"""

from __future__ import annotations

import pkgutil
from importlib.metadata import version
from typing import Any

from ecgforge.errors import EcgforgeError


def private(name: str) -> Any:
    """Return the object `name`, written as "package.module:attribute".

    Raises:
        EcgforgeError: the installed version of the package has no such object.
    """
    package = name.partition(".")[0]
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise EcgforgeError(
            f"{package} {version(package)} has no {name}, which ecgforge uses: install the version "
            f"of {package} in requirements.txt"
        ) from error
