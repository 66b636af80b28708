"""The code that each stage depends on: the import closure of its function, found statically.

`ecgforge resolve` writes it to resolved/code.json, on which the stages in dvc.yaml depend, and the
fingerprints of runs are taken over it, so that DVC and MLflow agree on what has changed. Comments
and docstrings do not count.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ecgforge
from ecgforge.params import Params
from ecgforge.sweeps.common.registry import SWEEPS, WITH_VARIATIONS

PACKAGE = Path(ecgforge.__file__).parent
DATA = (".csv", ".css", ".html", ".yaml")  # files next to a module that it reads

# The modules that a stage starts from. Parts in braces are values of its matrix; registries
# import them by name, which the closure cannot see.
SWEEP = ("stages.sweep", "generators.{generator}", "classifiers.{backbone}")
ROOTS: dict[str, tuple[str, ...]] = {
    "acquire": ("sources.registry",),
    "prepare": ("stages.prepare",),
    "cross_fit": ("stages.cross_fitting",),
    "tune_classifier": ("stages.tune", "classifiers.{backbone}"),
    "tune_generator": ("stages.tune", "generators.{generator}"),
    "train_generator": ("stages.train_generator", "generators.{generator}"),
    "train_variations": ("stages.train_variations", "generators.{generator}", "sweeps.{sweep}"),
    "synthesize": ("stages.synthesize", "generators.{generator}"),
    "classify": ("stages.classify", "classifiers.{backbone}"),
    "quality": ("stages.quality", "classifiers.{backbone}"),
    "scratch": ("stages.sweep", "sweeps.scratch", "classifiers.{backbone}"),
    "backbones": ("stages.sweep", "sweeps.backbones", "classifiers.{backbone}"),
    "sweep": (*SWEEP, "sweeps.{sweep}"),
    "sweep_real": ("stages.sweep", "sweeps.{sweep}", "classifiers.{backbone}"),
    "ablation": (*SWEEP, "stages.ablation", "sweeps.ablation"),
    "cross_dataset": ("stages.sweep", "sweeps.cross_dataset", "classifiers.{backbone}"),
    "equal_size": ("stages.sweep", "sweeps.equal_size", "classifiers.{backbone}"),
    "report": ("stages.report", *(f"sweeps.{name}" for name in SWEEPS)),
}

# Modules that a stage imports without depending on them, and why. What only they import does not
# count either.
EXCEPTIONS = {
    "artifacts": "what MLflow shows of a run",
    "console": "progress on the terminal",
    "dvc": "drives DVC",
    "errors": "error classes and their texts",
    "files": "writes whole files, with whatever content",
    "folders": "the paths are in dvc.yaml",
    "outputs": "refuses to replace files of other people",
    "params": "stages depend on the values, see resolved/params.json",
    "stages.common.code": "finds the code, and names all sweeps",
    "stages.parameters": "reads parameters; stages depend on their values",
    "model_versions": "registers models in MLflow; DVC has their weights",
    "plugins": "imports a class by its name",
    "pipeline": "starts stages, and starts them faster",
    "provenance": "traces models and records back",
    "registry": "what MLflow keeps of a model; DVC has its weights",
    "tracking": "records runs, and does not change their results",
    "workers": "ends worker processes",
}


def files(stage: str, params: Params, item: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the files that a cell of a stage depends on, by name.

    Args:
        stage: one of `ROOTS`.
        item: the values of its matrix, such as generator and sweep.
    """
    return _Code().files(stage, params, item)


def digest(stage: str, params: Params, item: Mapping[str, str]) -> str:
    """Return one digest of `files`."""
    return _Code().digest(stage, params, item)


def resolved(params: Params) -> dict[str, Any]:
    """Return `digest` of all cells: by stage, then by those values of its matrix that matter.

    `dvc exp show` has a column for each digest, and dvc.lock has the digests of each cell.
    """
    generators, targets, digest = params.generators, params.sweep_targets, _Code().digest
    alone = ("acquire", "prepare", "cross_fit", "tune_classifier", "classify", "quality")
    tree: dict[str, Any] = {}
    for stage in (*alone, "scratch", "cross_dataset", "equal_size", "report"):
        tree[stage] = digest(stage, params, {})
    by_generator = ("tune_generator", "train_generator", "synthesize", "ablation")
    for stage in by_generator:
        tree[stage] = {name: digest(stage, params, {"generator": name}) for name in generators}
    tree["train_variations"] = {
        sweep: {
            name: digest("train_variations", params, {"sweep": sweep, "generator": name})
            for name in generators
        }
        for sweep in WITH_VARIATIONS
    }
    tree["backbones"] = {
        name: digest("backbones", params, {"backbone": name}) for name in targets.backbones
    }
    tree["sweep"] = {
        sweep: {
            name: digest("sweep", params, {"sweep": sweep, "generator": name})
            for name in generators
        }
        for sweep in (*targets.sweeps, "generator_seeds")
    }
    tree["sweep_real"] = {
        sweep: digest("sweep_real", params, {"sweep": sweep}) for sweep in targets.real_sweeps
    }
    return tree


def read_all() -> None:
    """Parse all code that stages can depend on, once for all forks of this process."""
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if _file(module.removesuffix(".__init__")):
            _read(file.read_bytes())


class _Code:
    """The code as it is now: each file is found and read once, for all stages that depend on it."""

    def __init__(self) -> None:
        self._file, self._imports, self._digest = cache(_file), cache(_imports), cache(_digest)
        self._data = cache(_data)

    def files(self, stage: str, params: Params, item: Mapping[str, str]) -> dict[str, str]:
        """Return the same as the function `files`."""
        values = {"backbone": params.backbone, **item}
        roots = tuple(root.format(**values) for root in ROOTS[stage])
        closure = self._closure(roots)
        return {file.relative_to(PACKAGE).as_posix(): self._digest(file) for file in closure}

    def digest(self, stage: str, params: Params, item: Mapping[str, str]) -> str:
        """Return one digest of `files`."""
        found = json.dumps(self.files(stage, params, item), sort_keys=True)
        return hashlib.md5(found.encode()).hexdigest()

    def _closure(self, roots: tuple[str, ...]) -> list[Path]:
        """Return the files of some modules and of all that they import, with the data next to
        them.
        """
        waiting, known, found = list(roots), set(roots), set[Path]()
        while waiting:
            file = self._file(waiting.pop())
            if file and file not in found:
                found.add(file)
                new = set(self._imports(file)) - known
                known |= new
                waiting += new
        return sorted(found.union(*(self._data(file.parent) for file in found)))


def _data(folder: Path) -> list[Path]:
    """Return the files in a folder that its modules read."""
    return [path for path in folder.iterdir() if path.suffix in DATA]


def _file(module: str) -> Path | None:
    """Return the file of a module below the package;

    None for a name in a module, or an exception.
    """
    if any(module == name or module.startswith(f"{name}.") for name in EXCEPTIONS):
        return None
    path = PACKAGE.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imports(file: Path) -> tuple[str, ...]:
    """Return what a file imports of the package, also inside functions, as dotted names."""
    return _read(file.read_bytes())[0] if file.suffix == ".py" else ()


def _digest(file: Path) -> str:
    """Return the digest of a file's content; of a Python file, without comments and docstrings."""
    content = file.read_bytes()
    return _read(content)[1] if file.suffix == ".py" else hashlib.md5(content).hexdigest()


@cache
def _read(source: bytes) -> tuple[tuple[str, ...], str]:
    """Return what Python source imports of the package, and the digest of its code."""
    tree = ast.parse(source)
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        found += [name.removeprefix("ecgforge.") for name in names if name.startswith("ecgforge.")]
        _strip_docstring(node)
    imports = (*found, *(parent for name in found for parent in _parents(name)))
    return imports, hashlib.md5(ast.unparse(tree).encode()).hexdigest()


def _parents(module: str) -> Iterator[str]:
    """Yield the packages that are imported along with a module."""
    parts = module.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def _strip_docstring(node: ast.AST) -> None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    first = node.body[0] if node.body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if is_text and isinstance(first.value.value, str):  # type: ignore[union-attr]
        node.body = node.body[1:] or [ast.Pass()]
