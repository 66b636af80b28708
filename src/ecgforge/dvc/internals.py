"""Changes to DVC while a block lasts. All private names of DVC are here; tests/test_dvc.py guards them."""

from __future__ import annotations

import functools
import io
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ecgforge.dvc import lock
from ecgforge.files import whole


@contextmanager
def each_file_once() -> Iterator[None]:
    """Within, DVC looks at each file once. It would parse params.yaml and look through data for every stage that names them, which is
    most of the time of finding that there is nothing to do."""
    from dvc.dependency import param
    from dvc.output import Output

    known: dict[str, Any] = {}
    get_hash = Output.get_hash

    def remembered(output: Output) -> Any:
        if output.fs_path not in known:
            known[output.fs_path] = get_hash(output)
        return known[output.fs_path]

    with (
        patch.object(param, "load_path", functools.cache(param.load_path)),
        patch.object(Output, "get_hash", remembered),
        parameters_looked_up(),
    ):
        yield


@contextmanager
def parameters_looked_up() -> Iterator[None]:
    """Within, DVC looks a parameter up by its name; it would walk through all of params.yaml for each."""
    from dvc.dependency import param

    def straight(tree: Any, path: str, separator: str) -> Any:
        try:
            return functools.reduce(operator.getitem, path.split(separator), tree)
        except TypeError:  # of a section that is null: the parameter is missing, and the check of all of them says where
            raise KeyError(path) from None

    with patch.object(param.dpath, "get", straight):
        yield


@contextmanager
def whole_writes() -> Iterator[None]:
    """Within, DVC writes dvc.lock and its other YAML files whole or not at all, and a copy of dvc.lock is kept.

    DVC empties the file and writes it again, so that a kill leaves a part of it.
    """
    from dvc.utils.serialize import _common, _yaml

    def dump(path: Any, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any) -> None:  # noqa: ARG001
        text = io.StringIO()
        dumper(data, text, **options)
        with whole(Path(path)) as scratch:
            scratch.write_text(text.getvalue(), encoding="utf-8")
        if Path(path).name == lock.LOCK:
            lock.keep(Path(path).parent)

    with patch.object(_common, "_dump_data", dump), patch.object(_yaml, "_dump_data", dump):
        yield
