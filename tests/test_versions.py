"""Versions by the names that people type, and files that are refused."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import models, versions
from ecgforge.params import ClassifierSettings, Params
from ecgforge.tracking import runs, store

ROOT = Path(__file__).parents[1]
RHYTHMS = ("SR", "AFIB")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real MLflow store with two versions of a small classifier; the second is champion."""
    patch = pytest.MonkeyPatch()
    project = tmp_path_factory.mktemp("project")
    patch.chdir(project)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for seed in (0, 1):
        register(project, seed)
    store.client().set_registered_model_alias("ecg-classifier-merged", "champion", "2")
    yield project
    patch.undo()


def register(project: Path, seed: int) -> None:
    settings: ClassifierSettings = Params.read(ROOT / "params.yaml").classifier
    classifier = classifiers.create(settings, RHYTHMS, torch.ones(8), seed)
    classifiers.save(classifier, settings.backbone, project / f"seed-{seed}")
    key = runs.RunKey(
        "classifier", "merged", seed, True, setting="TrRTeR", backbone=settings.backbone
    )
    with runs.tracked(key, fingerprint=f"run-{seed}", params={}, inputs=[]) as run:
        example = np.zeros((2, 8, 1000), np.float32)
        files = sorted((project / f"seed-{seed}").iterdir())
        models.log_classifier(run, classifier, example, RHYTHMS, name=key.model_name, files=files)


@pytest.mark.parametrize(
    "words",
    [
        "ecg-classifier-merged@champion",
        "models:/ecg-classifier-merged@champion",
        "ecg-classifier-merged/2",
    ],
)
@pytest.mark.usefixtures("registry")
def test_a_version_is_found_by_alias_and_by_number(words: str) -> None:
    found = versions.find(words)
    assert (found.number, found.aliases, found.tags["seed"]) == ("2", ("champion",), "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ecg-classifier-merged", "is not a model version: write name@alias or name/number"),
        (
            "ecg-classifier-mergde@champion",
            "no model is registered as 'ecg-classifier-mergde': there are ecg-classifier-merged$",
        ),
        (
            "ecg-classifier-merged@chapmion",
            "has no alias chapmion: it has versions 1 to 2, and the alias champion$",
        ),
        ("ecg-classifier-merged/7", "has no version 7"),
    ],
)
@pytest.mark.usefixtures("registry")
def test_words_that_mean_no_version_are_reported(words: str, message: str) -> None:
    with pytest.raises(EcgforgeError, match=message):
        versions.find(words)


def test_outside_of_a_project_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "project_root", lambda: tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(EcgforgeError, match=r"has no params.yaml: run this in the project's"):
        versions.find("ecg-classifier-merged@champion")
    (tmp_path / "params.yaml").touch()
    with pytest.raises(EcgforgeError, match="run `dvc repro` first"):
        versions.find("ecg-classifier-merged@champion")


def test_files_are_those_that_were_saved(registry: Path) -> None:
    with versions.files(versions.find("ecg-classifier-merged/1")) as folder:
        assert (folder / "weights.safetensors").read_bytes() == (
            registry / "seed-0" / "weights.safetensors"
        ).read_bytes()
        assert classifiers.load(folder).rhythms == RHYTHMS
    assert not folder.exists()


def tampered(registry: Path, name: str) -> Path:
    """The stored file `name` of version 1, of which a copy is kept next to it."""
    source = versions.find("ecg-classifier-merged/1").source.removeprefix("models:/")
    stored = next(registry.rglob(source)) / "artifacts"
    return stored / name


@pytest.mark.parametrize(
    "name",
    ["extra_files/weights.safetensors", "extra_files/classifier.json", "data/model.pt2", "MLmodel"],
)
def test_a_changed_file_is_refused(registry: Path, name: str) -> None:
    file = tampered(registry, name)
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with (
            pytest.raises(EcgforgeError, match="are not those that were registered"),
            versions.files(versions.find("ecg-classifier-merged/1")),
        ):
            pass
    finally:
        file.write_bytes(before)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["data/model.pth", "extra_files/innocent.json"])
def test_pickle_is_refused_and_not_executed(registry: Path, name: str) -> None:
    file = tampered(registry, name)
    before = file.read_bytes() if file.exists() else None
    if name.endswith(".pth"):
        torch.save({"weights": Bomb()}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb()))
    try:
        with (
            pytest.raises(EcgforgeError, match="could execute"),
            versions.files(versions.find("ecg-classifier-merged/1")),
        ):
            pass
        assert not (registry / "exploded").exists()
    finally:
        file.write_bytes(before) if before else file.unlink()


def test_missing_files_are_reported(registry: Path) -> None:
    version = versions.find("ecg-classifier-merged/1")
    stored = tampered(registry, "MLmodel").parent
    shutil.move(stored, registry / "away")
    try:
        with pytest.raises(EcgforgeError, match="no longer available"), versions.files(version):
            pass
    finally:
        shutil.move(registry / "away", stored)
