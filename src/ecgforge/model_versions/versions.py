"""Find registered model versions by name, and check their files before anything reads them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import allowed
from ecgforge.model_versions.pyfunc_signature import DIGEST, FILES, WEIGHTS, WEIGHTS_FILE
from ecgforge.tracking.mlflow_internals import local_folder, version_note
from ecgforge.tracking.store import (
    absent,
    client,
    local_database,
    project_root,
    tolerating,
    with_retry,
)

REFERENCE = re.compile(
    r"^(?:models:/)?(?P<name>[A-Za-z0-9_.-]+)(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>\d+))$"
)
SOURCE = re.compile(r"models:/m-[0-9a-f]{32}")
# name of a registered model: MLflow forbids / and :, and its filters have no escape for quotes
NAME = re.compile(r"[^/:'\"`\0]+")


@dataclass(frozen=True)
class Version:
    """A registered model version.

    Attributes:
        name, number: as in MLflow's registry.
        run_id: the run that trained it.
        source: MLflow's URI of its files.
        tags: its provenance, see `tracking.runs`.
        aliases: such as `champion`.
    """

    name: str
    number: str
    run_id: str
    source: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name to type on the command line."""
        return f"{self.name}/{self.number}"


def find(reference: str) -> Version:
    """Return the version `name@alias` or `name/number`; a prefix `models:/` is allowed.

    Raises:
        EcgforgeError: the reference has another form, or the version does not exist; the message
            lists those that do.
    """
    words = REFERENCE.match(reference)
    if words is None:
        raise EcgforgeError(
            f"'{reference}' is not a model version: write name@alias or name/number, as in "
            "ecg-classifier-merged@champion"
        )
    if found := _only(**words.groupdict()):
        return found
    known = versions(words["name"])
    if not known:
        raise EcgforgeError(
            f"no model is registered as '{words['name']}': "
            f"{_registered_models() or _how_to_have_models()}"
        )
    aliases = sorted({alias for version in known for alias in version.aliases})
    numbers = f"version{f's {known[0].number} to' if len(known) > 1 else ''} {known[-1].number}"
    named = (
        f"the alias{'es' if len(aliases) > 1 else ''} {', '.join(aliases)}"
        if aliases
        else "no alias yet: `ecgforge promote` sets champion"
    )
    lacks = f"alias {words['alias']}" if words["alias"] else f"version {words['version']}"
    raise EcgforgeError(f"'{words['name']}' has no {lacks}: it has {numbers}, and {named}")


def _only(name: str, alias: str | None, version: str | None) -> Version | None:
    """Return one version without reading the others; None if it does not exist."""
    registry = client()
    with tolerating("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        if alias:
            found = with_retry(registry.get_model_version_by_alias, name, alias)
        else:
            found = with_retry(registry.get_model_version, name, version)
        # MLflow also takes 01 for 1, and knows an alias `latest` of its own
        if version == str(found.version) or alias in found.aliases:
            return _version(found, tuple(sorted(found.aliases)))
    return None


def _registered_models() -> str:
    names = ", ".join(
        sorted(
            model.name for model in with_retry(client().search_registered_models, max_results=1000)
        )
    )
    return names and f"there are {names}"


def _how_to_have_models() -> str:
    root = project_root()
    if local_database() is None or (root / "params.yaml").exists():
        return "run `dvc repro` first"
    return f"{root} has no params.yaml: run this in the project's folder"


def versions(name: str) -> list[Version]:
    """Return all versions of the registered model `name`, oldest first; empty if there are none."""
    registry = client()
    if not NAME.fullmatch(name):
        return []
    with tolerating("RESOURCE_DOES_NOT_EXIST"):
        aliases = with_retry(registry.get_registered_model, name).aliases
        found = sorted(
            with_retry(registry.search_model_versions, f"name = '{name}'"),
            key=lambda one: int(one.version),
        )
        return [
            _version(
                one,
                tuple(
                    sorted(
                        alias
                        for alias, number in aliases.items()
                        if int(number) == int(one.version)
                    )
                ),
            )
            for one in found
        ]
    return []


def all_versions() -> list[Version]:
    """Return all versions of all models, the versions of a model oldest first."""
    return [
        version
        for model in with_retry(client().search_registered_models, max_results=1000)
        for version in versions(model.name)
    ]


def _version(entity: object, aliases: tuple[str, ...]) -> Version:
    number, tags = str(entity.version), dict(entity.tags)  # type: ignore[attr-defined]
    return Version(entity.name, number, entity.run_id, entity.source, tags, aliases)  # type: ignore[attr-defined]


@contextmanager
def files(version: Version) -> Iterator[Path]:
    """Yield a temporary folder with the files that ecgforge wrote for the model.

    Raises:
        EcgforgeError: the files are gone, differ from the registered ones, or hold something that
            ecgforge does not write.
    """
    with fetched(version) as folder:
        yield folder / FILES


@contextmanager
def fetched(version: Version) -> Iterator[Path]:
    """Yield a temporary folder with all files of the model, checked.

    Raises:
        EcgforgeError: as `files`.
    """
    import mlflow.artifacts

    with tempfile.TemporaryDirectory() as scratch:
        try:
            links = _links(version)
            folder = (
                Path(scratch)
                if links
                else Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=version.source, dst_path=scratch
                    )
                )
            )
        except Exception as error:  # MLflow, its stores and the file system have many error classes
            raise EcgforgeError(
                f"the files of {version.label} are no longer available "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        if links:
            raise EcgforgeError(
                f"{version.label} holds the link {links[0]}, which ecgforge does not write; "
                "loading it could execute code: refused"
            )
        (folder / version_note()).unlink(missing_ok=True)
        check(version, folder)
        yield folder


def _links(version: Version) -> list[str]:
    """Return the links among a version's files, if they are on this machine.

    A download would follow the links.
    """
    model = with_retry(client().get_logged_model, version.source.rsplit("/", 1)[-1])
    folder = local_folder(model.artifact_location)
    return (
        [
            path.relative_to(folder).as_posix()
            for path in sorted(folder.rglob("*"))
            if path.is_symlink()
        ]
        if folder
        else []
    )


@contextmanager
def fetched_at(folder: Path) -> Iterator[tuple[Path, Version | None]]:
    """Yield a checked copy of a model that MLflow fetched to `folder`, and its version or None.

    If MLflow fetched it from a registry that still answers, the digest in the registry is compared.
    Otherwise the digest in the model's own description is compared: this detects damage, but not a
    change of both files and description.

    Raises:
        EcgforgeError: as `files`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # Links are copied as links, and then refused.
        copy = shutil.copytree(
            folder,
            Path(scratch) / "model",
            symlinks=True,
            ignore=shutil.ignore_patterns(version_note()),
        )
        version = _registered(folder / version_note())
        if version:
            check(version, copy)
        else:
            allowed.check_names(folder.name, copy)
            if md5(copy / FILES) != _own_digest(copy / "MLmodel"):
                raise _tampered(f"the files at {folder}")
            allowed.check_contents(folder.name, copy)
        yield copy, version


def _own_digest(description: Path) -> Any:
    tree = _mapping(description)
    metadata = tree.get("metadata")
    return metadata.get(DIGEST) if isinstance(metadata, dict) else None


def _mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; empty if there is none."""
    try:
        tree = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _registered(meta: Path) -> Version | None:
    """Return the version named in MLflow's file `meta`.

    None if the file, the registry or the version does not exist.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    # Use the registry of this process: a caller who loads a model may have set another one.
    if not meta.exists() or absent(mlflow.get_registry_uri()):
        return None
    words, registry = _mapping(meta), mlflow.MlflowClient()
    try:
        found = registry.get_model_version(
            str(words.get("model_name")), str(words.get("model_version"))
        )
        aliases = dict(registry.get_registered_model(found.name).aliases)
    except MlflowException:
        return None
    return _version(
        found,
        tuple(
            sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
        ),
    )


def check(version: Version, folder: Path) -> None:
    """Check that `folder` holds the registered files of `version`, and only what ecgforge writes.

    Raises:
        EcgforgeError: a file, link or entry that ecgforge does not write, or files that differ from
            the registered ones.
    """
    if not SOURCE.fullmatch(version.source):
        raise EcgforgeError(
            f"{version.label} has its files at {version.source}, which is not an address that "
            "ecgforge uses: refused"
        )
    allowed.check_names(version.label, folder)
    weights = folder / FILES / WEIGHTS_FILE
    if md5(folder) != version.tags.get(DIGEST) or (
        weights.exists() and md5(weights) != version.tags.get(WEIGHTS)
    ):
        raise _tampered(f"the files of {version.label}")
    allowed.check_contents(version.label, folder)


def _tampered(what: str) -> EcgforgeError:
    return EcgforgeError(
        f"{what} are not those that were registered: refused; train and register the model again"
    )


def read_json(folder: Path, name: str, label: str) -> dict[str, Any]:
    """Return the content of a JSON file of the version `label`.

    Raises:
        EcgforgeError: it cannot be read, or is not a mapping.
    """
    try:
        tree = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise EcgforgeError(f"{label}: {name} is damaged; train and register the model again")
    return tree
