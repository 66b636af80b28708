"""Signatures of champions, over all files of the version, its card, provenance and history entry.

Sigstore's `model-signing` signs and verifies offline, with keys of the project. params.yaml names
the keys; without keys, nothing is signed or verified. The signature is a tag of the version, so a
copy of the registry keeps it.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import versions
from ecgforge.model_versions.pyfunc_signature import FILES
from ecgforge.model_versions.versions import Version
from ecgforge.params import Signing, checked, read_yaml
from ecgforge.tracking import store
from ecgforge.tracking.store import client, with_retry

SIGNATURE = "signature"
# matches the file names in messages of model-signing
CHANGED = re.compile(r"(?:mismatch for|files (?:found )?in model \\?'\w+\\?':) \\?'?([\w./, -]+)")
PROVENANCE = re.compile(  # tags that are written once, at registration
    r"(git|dvc|input|generated_by)\..*|ecgforge\.fingerprint|(files|weights)\.md5|"
    r"kind|dataset|generator|setting|backbone|sweep|point|"
    r"augmented|fold|draw|seed|simulated|sampling|rhythms"
)


def ready() -> None:
    """Check that a champion can be signed, if the project has keys; call it before any change.

    Raises:
        EcgforgeError: a key cannot be used, the keys are not a pair, or there is only a public key.
    """
    private, public = _keys()
    if public and not private:
        raise EcgforgeError(
            "params.yaml names signing.public_key but not signing.private_key, so a champion "
            "cannot be signed here: name the private key, or promote on the machine that has "
            "it"
        )
    if not private:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, signature = Path(scratch) / "nothing", Path(scratch) / "signature"
        folder.mkdir()
        (folder / "empty").touch()
        _sign(private, folder, signature)
        if public and _faults(public, folder, signature):
            raise EcgforgeError(
                f"the private key {private} and the public key {public} of params.yaml are "
                "not a pair"
            )


def sign(version: Version, entry: str) -> None:
    """Sign a version as champion, if the project has a private key.

    Args:
        entry: key of the history entry that makes it champion.
    """
    private, _ = _keys()
    if private is None:
        return
    with tempfile.TemporaryDirectory() as scratch, versions.fetched(version) as folder:
        signature = Path(scratch) / "signature"
        _sign(private, _covered(version, folder, entry, client(), Path(scratch)), signature)
        text = json.dumps({"entry": entry, "bundle": json.loads(signature.read_text())})
    with_retry(client().set_model_version_tag, version.name, version.number, SIGNATURE, text)


@contextmanager
def renewed(version: Version) -> Iterator[None]:
    """Sign a version again after the block changed its card, if its signature was valid before."""
    held = SIGNATURE in version.tags and not fault(version)
    yield
    if held:
        sign(versions.find(version.label), _parts(version)[0])


@contextmanager
def files(version: Version) -> Iterator[Path]:
    """Yield what `versions.files` yields, if the signature is valid or the project has no key.

    Raises:
        EcgforgeError: as `versions.files`; also if the version has no valid signature.
    """
    with versions.fetched(version) as folder:
        check(version, folder, client() if _keys()[1] else None)
        yield folder / FILES


@contextmanager
def files_at(folder: Path) -> Iterator[tuple[Path, Version | None]]:
    """Yield a checked copy of a model that MLflow fetched to `folder`, and its version if known.

    Raises:
        EcgforgeError: as `files`.
    """
    import mlflow

    with versions.fetched_at(folder) as (copy, version):
        if version is None and _keys()[1]:
            raise EcgforgeError(
                f"{folder} is not a version of this registry, so it has no signature for "
                "signing.public_key: refused"
            )
        if version:
            check(version, copy, mlflow.MlflowClient())
        yield copy / FILES, version


def fault(version: Version) -> str:
    """Return why a version has no valid signature; empty if it has one, or if there are no keys."""
    if _keys()[1] is None:
        return ""
    try:
        with files(version):
            return ""
    except EcgforgeError as error:
        return str(error)


def required(version: Version) -> bool:
    """Return whether a version must have a valid signature: it is or was champion by its tags."""
    return _keys()[1] is not None and ("champion" in version.aliases or SIGNATURE in version.tags)


def check(version: Version, folder: Path, registry: Any) -> None:
    """Verify the signature of the version with files in `folder`, if the project has a public key.

    Raises:
        EcgforgeError: there is no signature, or files, card, entry, provenance, version or key
            differ.
    """
    _, public = _keys()
    if public is None:
        return
    if SIGNATURE not in version.tags:
        raise EcgforgeError(
            f"{version.label} is not signed, and params.yaml names signing.public_key: refused; "
            "promote it to sign it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        entry, bundle = _parts(version)
        signature = Path(scratch) / "signature"
        signature.write_text(json.dumps(bundle))
        found = _faults(
            public, _covered(version, folder, entry, registry, Path(scratch)), signature
        )
    if found:
        raise EcgforgeError(
            f"the signature of {version.label} is not valid ({found}): refused; roll back, or "
            "promote another version"
        )


def _keys() -> tuple[Path | None, Path | None]:
    """Return the paths of the private and the public key; None for a key that params.yaml omits."""
    root = store.project_root()
    file = root / "params.yaml"
    named = _named(file, file.stat().st_mtime_ns) if file.exists() else Signing()
    private, public = (
        root / Path(one).expanduser() if one else None
        for one in (named.private_key, named.public_key)
    )
    return private, public


@lru_cache(maxsize=1)
def _named(file: Path, _: int) -> Signing:
    """Return the section `signing` of a params.yaml.

    The result is cached by modification time, as parsing is slow.
    """
    tree = read_yaml(file, "the file was deleted in the meantime")
    return checked(
        Signing, (tree.get("signing") if isinstance(tree, dict) else None) or {}, f"{file}: signing"
    )


def _parts(version: Version) -> tuple[str, dict[str, Any]]:
    """Return the key of the history entry of a signature, and the signature in Sigstore's form."""
    try:
        tree = json.loads(version.tags[SIGNATURE])
        return str(tree["entry"]), dict(tree["bundle"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EcgforgeError(
            f"the signature of {version.label} is damaged: refused; roll back, or promote another "
            "version"
        ) from None


def _covered(version: Version, folder: Path, entry: str, registry: Any, scratch: Path) -> Path:
    """Write what a signature covers to a folder: files, and texts by name."""
    covered = scratch / "champion"
    shutil.copytree(folder, covered / "files")
    tags = {key: value for key, value in sorted(version.tags.items()) if PROVENANCE.fullmatch(key)}
    texts = {
        "version": version.label,
        "provenance": json.dumps(tags),
        "card": with_retry(registry.get_model_version, version.name, version.number).description
        or "",
        "entry": with_retry(registry.get_registered_model, version.name).tags.get(entry, ""),
    }
    for name, text in texts.items():
        (covered / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return covered


def _sign(private: Path, folder: Path, signature: Path) -> None:
    from model_signing import signing

    try:
        signing.Config().use_elliptic_key_signer(private_key=private).sign(folder, signature)
    # The file system raises some errors, and cryptography has a class for each defect of a key.
    except Exception as error:
        raise _unusable("private", private) from error


def _faults(public: Path, folder: Path, signature: Path) -> str:
    """Return how a folder differs from the signed one, or that another key signed it.

    Empty if the signature is valid.
    """
    from model_signing import hashing, verifying

    try:
        asking = (
            verifying.Config()
            .use_elliptic_key_verifier(public_key=public)
            .set_hashing_config(hashing.Config())
        )
    except Exception as error:  # as above
        raise _unusable("public", public) from error
    try:
        asking.verify(folder, signature)
    except Exception as error:  # a damaged signature raises errors of many classes
        names = CHANGED.findall(str(error))
        return (
            f"changed since it was signed: {', '.join(names)[:200]}"
            if names
            else "signed with another key, or damaged"
        )
    return ""


def _unusable(kind: str, key: Path) -> EcgforgeError:
    return EcgforgeError(
        f"the {kind} key {key}, signing.{kind}_key in params.yaml, cannot be used: it must be "
        "a PEM file without a password, with an elliptic curve key of P-256, P-384 or P-521 "
        "(docs/how-to/sign.md shows how to make one)"
    )
