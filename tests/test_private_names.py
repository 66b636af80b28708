"""Private names of MLflow, DVC and Optuna: each exists, and one file for each package uses them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ecgforge.errors import EcgforgeError
from ecgforge.private_names import private

SOURCE = Path(__file__).parent.parent / "src/ecgforge"
PUBLIC = {
    "mlflow": {
        "mlflow",
        "mlflow.artifacts",
        "mlflow.data.dataset_source",
        "mlflow.entities",
        "mlflow.entities.model_registry",
        "mlflow.exceptions",
        "mlflow.models",
        "mlflow.pyfunc",
        "mlflow.pytorch",
        "mlflow.types",
        "mlflow.types.schema",
    },
    "dvc": {"dvc.api", "dvc.exceptions", "dvc.repo"},
    "optuna": {
        "optuna",
        "optuna.exceptions",
        "optuna.logging",
        "optuna.pruners",
        "optuna.samplers",
        "optuna.storages",
        "optuna.trial",
        "optuna.visualization.matplotlib",
    },
}
ALLOWED = {"mlflow": "tracking/mlflow_internals.py", "dvc": "dvc/internals.py"}
PATH = re.compile(rf"(?:{'|'.join(PUBLIC)})(?:\.\w+){{2,}}(?::.*)?")


def used(file: str) -> list[str]:
    """Return the names that a file asks `private` for."""
    calls = [one for one in ast.walk(tree(SOURCE / file)) if isinstance(one, ast.Call)]
    named = [one for one in calls if getattr(one.func, "id", "") in ("private", "_error")]
    return sorted(one.args[0].value for one in named if isinstance(one.args[0], ast.Constant))


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@pytest.mark.parametrize("name", [name for file in ALLOWED.values() for name in used(file)])
def test_the_installed_packages_have_each_private_name(name: str) -> None:
    private(name)


def test_a_missing_name_is_reported_with_the_version() -> None:
    for name in ("mlflow.store.nowhere:f", "mlflow.store.db.utils:_nothing"):
        with pytest.raises(EcgforgeError, match=rf"^mlflow [\d.]+ has no {name}, which ecgforge"):
            private(name)


def test_private_functions_take_what_they_are_given(tmp_path: Path) -> None:
    from dvc.repo import Repo
    from mlflow.data.dataset_source import DatasetSource

    from ecgforge.tracking import mlflow_internals

    assert "_wait_for_lock" in inspect.signature(Repo).parameters
    make_lock = inspect.signature(private("dvc.lock:make_lock"))
    make_lock.bind("file.lock", tmp_dir="tmp", hardlink_lock=False)
    inspect.signature(private("mlflow.models.utils:_save_example")).bind("model", "example", "path")
    conda = inspect.signature(private("mlflow.utils.environment:_mlflow_conda_env"))
    conda.bind(additional_pip_deps=["torch==2.0"], install_mlflow=False)
    for name in ("_get_source_type", "_can_resolve", "_resolve"):  # what a plugin must define
        assert hasattr(DatasetSource, name), name
    assert mlflow_internals.local_folder(str(tmp_path)) == tmp_path
    assert mlflow_internals.local_folder(tmp_path.as_uri()) == tmp_path
    for name in mlflow_internals.STORES:
        assert find_spec(name), name


def foreign(file: Path, own: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the private names of these packages in a file: the package, and where and what."""
    nodes = list(ast.walk(tree(file)))
    packages = set()
    for node in nodes:
        for module, name in imported(node):
            package = module.partition(".")[0]
            if package in PUBLIC:
                packages.add(package)
                private_module = module not in PUBLIC[package]
                if (
                    private_module
                    or name.startswith("_")
                    or (module, name) == ("dvc.repo", "lock_repo")
                ):
                    yield package, (f"line {node.lineno}: {module} {name}")  # type: ignore[attr-defined]
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and PATH.fullmatch(node.value)
        ):
            module = node.value.partition(":")[0]
            package = module.partition(".")[0]
            if module not in PUBLIC[package] and is_module(module):
                yield package, f"line {node.lineno}: {node.value}"
    for node in nodes:
        name = (
            node.attr
            if isinstance(node, ast.Attribute)
            else getattr(node, "arg", None)
            if isinstance(node, ast.keyword)
            else None
        )
        if name and name.startswith("_") and not name.startswith("__") and name not in own:
            for package in packages:
                yield package, f"line {getattr(node, 'lineno', 0)}: {name}"
        for package in packages & set(PUBLIC):
            path = dotted(node)
            if path.startswith(f"{package}.") and is_module(path) and path not in PUBLIC[package]:
                yield package, f"line {node.lineno}: {path}"  # type: ignore[attr-defined]


def imported(node: ast.AST) -> list[tuple[str, str]]:
    if isinstance(node, ast.Import):
        return [(one.name, "") for one in node.names]
    return (
        [(node.module or "", one.name) for one in node.names]
        if isinstance(node, ast.ImportFrom)
        else []
    )


def dotted(node: ast.AST) -> str:
    """Return a chain of attributes of a name as text, empty where it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    before = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before and isinstance(node, ast.Attribute) else ""


def is_module(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def defined(file: Path) -> Iterator[str]:
    """Yield the names that a file of ours defines or assigns."""
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and dotted(node.value) == "self"
        ):
            yield node.attr


def test_no_other_file_uses_private_names() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    own = {name for file in files for name in defined(file)}
    found = [
        f"{file.relative_to(SOURCE)}, {what}"
        for file in files
        for package, what in foreign(file, own)
        if file != SOURCE / ALLOWED.get(package, "nowhere")
    ]
    assert not found, "private names of other packages belong into their internals file"


@pytest.mark.parametrize(
    "text",
    [
        "from mlflow.store.db import utils",
        "from mlflow.models import _x",
        "import mlflow\nmlflow.MlflowClient()._tracking_client",
        "import mlflow\nmlflow.utils.file_utils.x()",
        "from dvc.repo import lock_repo",
        "from dvc.repo import Repo\nRepo(_wait_for_lock=True)",
        "import importlib\nimportlib.import_module('dvc.utils.serialize')",
        "import optuna\noptuna.create_study()._storage",
    ],
)
def test_the_scan_finds_private_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.py").write_text(text)
    assert list(foreign(tmp_path / "one.py", set()))


def test_the_scan_lets_public_names_pass(tmp_path: Path) -> None:
    text = (
        "import mlflow\nfrom mlflow.models import "
        "Model\nmlflow.pyfunc.load_model('dvc.stage')\nself._own"
    )
    (tmp_path / "one.py").write_text(text)
    assert not list(foreign(tmp_path / "one.py", {"_own"}))
