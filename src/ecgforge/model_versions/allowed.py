"""The files and entries that ecgforge writes into the folder of a version; all else is refused.

Registration and every later read of a version check its files here. MLflow reads `MLmodel` before
any code of ecgforge runs. Entries of that file can extend Python's path or import modules, so an
unknown entry is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import graphs
from ecgforge.model_versions.pyfunc_signature import DIGEST, FILES, GRAPH, LOADER, WEIGHTS_FILE
from ecgforge.tracking.mlflow_internals import PICKLE_MODULE

EXAMPLES = ("input_example.json", "serving_input_example.json")
DESCRIPTIONS = ("classifier.json", "generator.json", "preprocessing.json", "sampling.json")
PACKAGES = ("requirements.txt", "conda.yaml", "python_env.yaml")
NEEDED = {"MLmodel", GRAPH, *PACKAGES}
KNOWN = NEEDED | {*EXAMPLES, *(f"{FILES}/{name}" for name in (*DESCRIPTIONS, WEIGHTS_FILE))}
FOLDERS = {"data", FILES}
STARTS = {".json": rb"\s*[\[{]", ".safetensors": rb"(?s:.{8})\s*\{", ".pt2": rb"PK\x03\x04"}
TEXT = rb"[\x20-\x7e]"

PACKAGE = re.compile(r"(mlflow|numpy|torch)==\d[\w.]*")
BUILD = re.compile(r"(pip|setuptools|wheel)(==\d[\w.]*)?")
VERSION = re.compile(r"\d[\w.+]*")
PLAIN = {  # keys of MLmodel that MLflow only displays
    "is_signature_from_type_hint",
    "mlflow_version",
    "model_id",
    "model_size_bytes",
    "model_uuid",
    "prompts",
    "run_id",
    "signature",
    "type_hint_from_example",
    "utc_time_created",
}
ENVIRONMENT = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
OWN_PYFUNC = {"env": ENVIRONMENT, "loader_module": LOADER}
# of a classifier without a pyfunc loader of ecgforge: MLflow's own loader of the graph
MLFLOW_PYFUNC = {
    "config": {"device": None},
    "data": "data",
    "env": ENVIRONMENT,
    "loader_module": "mlflow.pytorch",
    "pickle_module_name": PICKLE_MODULE,
}


def check(label: str, folder: Path) -> None:
    """Check that a folder holds only what ecgforge writes for a version.

    Args:
        label: the version, for messages.

    Raises:
        EcgforgeError: names the first file, link or entry that ecgforge does not write.
    """
    check_names(label, folder)
    check_contents(label, folder)


def check_names(label: str, folder: Path) -> None:
    """Check names, file types and first bytes; this is safe before the digest is checked.

    Raises:
        EcgforgeError: a file, folder or link that ecgforge does not write, or a file whose content
            does not match its suffix.
    """
    held = sorted(folder.rglob("*"))
    if not any(path.is_file() for path in held):
        raise EcgforgeError(f"the files of {label} are no longer available")
    for path in held:
        name = path.relative_to(folder).as_posix()
        plain = not path.is_symlink() and (
            path.is_file() if name in KNOWN else path.is_dir() and name in FOLDERS
        )
        if not plain:
            raise _refused(label, f"holds {name}, which ecgforge does not write")
        if path.is_file() and not _starts_right(path):
            raise _refused(label, f"holds {name}, whose content does not match its name")


def _starts_right(file: Path) -> bool:
    with file.open("rb") as stream:
        return re.match(STARTS.get(file.suffix, TEXT), stream.read(64)) is not None


def check_contents(label: str, folder: Path) -> None:
    """Check the content of the files; call `check_names` first.

    Raises:
        EcgforgeError: an entry that ecgforge does not write, or a file that cannot be read.
    """
    for name in sorted(NEEDED):
        if not (folder / name).is_file():
            raise EcgforgeError(
                f"{label} lacks {name}: refused; train and register the model again"
            )
    checks: dict[str, Callable[[Path], Iterator[str]]] = {
        ".json": _json,
        ".safetensors": _safetensors,
        ".pt2": graphs.faults,
    }
    known = {
        "MLmodel": _description,
        "requirements.txt": _requirements,
        "conda.yaml": _conda,
        "python_env.yaml": _python_env,
    }
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        check = known.get(file.name) or checks[file.suffix]
        for fault in check(file):
            raise _refused(
                label,
                f"holds {file.relative_to(folder)}, with an entry that ecgforge does not "
                f"write: {fault}",
            )


def _refused(label: str, what: str) -> EcgforgeError:
    return EcgforgeError(
        f"{label} {what}; loading it could execute code, so it is refused: train and register "
        "the model again"
    )


def _json(file: Path) -> Iterator[str]:
    try:
        json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        yield "no JSON"


def _safetensors(file: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy"):
            pass
    except (SafetensorError, OSError):
        yield "no tensors"


def _tree(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = None
    return tree if isinstance(tree, dict) else {"no YAML": True}


def _description(file: Path) -> Iterator[str]:
    """Yield the entries of `MLmodel` that ecgforge does not write.

    Flavours must be equal to those that ecgforge writes, and the files they name must exist. Keys
    that MLflow only displays may have any value.
    """
    tree, folder = _tree(file), file.parent
    yield from (
        f"the entry {str(key)[:60]}"
        for key in tree
        if key not in {*PLAIN, "flavors", "metadata", "saved_input_example_info"}
    )
    flavors = tree.get("flavors")
    flavors = dict(flavors) if isinstance(flavors, dict) else {}
    pytorch, pyfunc = flavors.pop("pytorch", None), flavors.pop("python_function", None)
    yield from (f"the flavour {str(key)[:60]}" for key in flavors)
    extra = sorted(f"{FILES}/{path.name}" for path in (folder / FILES).glob("*"))
    if not _is_pytorch(pytorch, extra):
        yield "another flavour pytorch"
    if pyfunc is not None and not (
        isinstance(pyfunc, dict)
        and _without_version(pyfunc, "python_version") in (OWN_PYFUNC, MLFLOW_PYFUNC)
    ):
        yield "another flavour python_function"
    if not _is_digest(tree.get("metadata")):
        yield "other metadata"
    example = tree.get("saved_input_example_info") or {}
    if not isinstance(example, dict) or {
        key: example.get(key) for key in ("artifact_path", "serving_input_path")
    } not in (
        {"artifact_path": EXAMPLES[0], "serving_input_path": EXAMPLES[1]},
        {"artifact_path": EXAMPLES[0], "serving_input_path": None},
        {"artifact_path": None, "serving_input_path": None},
    ):
        yield "another example"


def _is_pytorch(flavour: Any, extra: list[str]) -> bool:
    if not isinstance(flavour, dict):
        return False
    found = _without_version(flavour, "pytorch_version")
    listed = found.pop("extra_files", None) or []
    named = isinstance(listed, list) and sorted(
        str(one.get("path")) for one in listed if isinstance(one, dict) and set(one) == {"path"}
    )
    return (
        found == {"code": None, "model_data": "data"}
        and named == extra
        and len(listed) == len(extra)
    )


def _without_version(flavour: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a flavour without its version entry, if that entry is a version number."""
    return {
        name: value
        for name, value in flavour.items()
        if name != key or not VERSION.fullmatch(str(value))
    }


def _is_digest(metadata: Any) -> bool:
    return metadata is None or (
        isinstance(metadata, dict)
        and set(metadata) == {DIGEST}
        and isinstance(metadata[DIGEST], str)
    )


def _requirements(file: Path) -> Iterator[str]:
    yield from (
        line[:60]
        for line in file.read_text(errors="replace").split("\n")
        if line and not PACKAGE.fullmatch(line)
    )


def _conda(file: Path) -> Iterator[str]:
    tree, wanted = (
        _tree(file),
        (file.parent / "requirements.txt").read_text(errors="replace").split(),
    )
    listed = tree.get("dependencies")
    python, pip, packages = (
        listed if isinstance(listed, list) and len(listed) == 3 else ("", "", None)
    )
    right = (
        re.fullmatch(r"python=\d[\w.]*", str(python))
        and re.fullmatch(r"pip(<=\d[\w.]*)?", str(pip))
        and packages == {"pip": wanted}
    )
    if not right or tree | {"dependencies": []} != {
        "channels": ["conda-forge"],
        "dependencies": [],
        "name": "mlflow-env",
    }:
        yield "other packages"


def _python_env(file: Path) -> Iterator[str]:
    tree = _tree(file)
    build, python = tree.get("build_dependencies"), str(tree.get("python"))
    right = (
        isinstance(build, list)
        and all(BUILD.fullmatch(str(one)) for one in build)
        and VERSION.fullmatch(python)
    )
    rest = {
        key: value for key, value in tree.items() if key not in ("build_dependencies", "python")
    }
    if not right or rest != {"dependencies": ["-r requirements.txt"]}:
        yield "other packages"
