"""Damaged files of models: each is reported in one line that names it and says what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from champions import PARAMS
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.commands import generate_records
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Shape
from ecgforge.model_versions.pyfunc_signature import SAMPLING
from ecgforge.model_versions.versions import Version
from ecgforge.records.record_set import About
from ecgforge.registry.serving import PREPROCESSING, Predictor, differences

LABEL = "ecg-model/1"
PREPARED = {
    "sampling_rate": 100,
    "duration": 2,
    "band": [0.5, 40],
    "max_amplitude": 20,
    "amplitude": "mV",
}
ABOUT = About(100, 200, "mV", ("SR", "AFIB"), "simulated", {})


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    settings = PARAMS.classifier
    classifiers.save(
        classifiers.create(settings, ABOUT.rhythms, torch.ones(8), 0),
        settings.backbone,
        tmp_path / "model",
    )
    (tmp_path / "model" / PREPROCESSING).write_text(json.dumps(PREPARED))
    return tmp_path / "model"


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    network = PARAMS.generator("diffwave").network | {"layers": 1, "channels": 4}
    generators.save(
        generators.create("diffwave", Shape(8, 200, 2, 100), network, torch.ones(8), 0),
        tmp_path / "model",
    )
    sampling = {
        "sampling": PARAMS.generator("diffwave").sampling,
        "rhythms": ABOUT.rhythms,
        "units": "mV",
    }
    (tmp_path / "model" / SAMPLING).write_text(json.dumps(sampling))
    return tmp_path / "model"


def changed(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def without(file: Path, key: str) -> None:
    tree = json.loads(file.read_text())
    del tree[key]
    file.write_text(json.dumps(tree))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def without_scale(file: Path) -> None:
    weights = load_file(file)
    del weights["scale"]
    save_file(weights, file)


TEXTS: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda file: file.write_bytes(b""),
    "no JSON": lambda file: file.write_text("{"),
    "a list": lambda file: file.write_text("[1]"),
    "null": lambda file: file.write_text("null"),
    "without end": lambda file: file.write_text("[" * 100_000),
    "no UTF-8": lambda file: file.write_bytes(b'{"a": "\xff"}'),
}
WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda file: file.write_bytes(b""),
    "cut off": cut,
    "no safetensors": lambda file: file.write_text("weights"),
    "of another network": lambda file: save_file({"scale": torch.ones(8)}, file),
    "without a scale": without_scale,
    "with a scale of no leads": lambda file: save_file({"scale": torch.tensor(1.0)}, file),
}
DESCRIBED = TEXTS | {
    "a list for the name": lambda file: changed(file, backbone=[], name=[]),
    "no name": lambda file: without(file, "backbone" if "backbone" in file.read_text() else "name"),
    "no network": lambda file: without(file, "network"),
}
LOADED = [("classifier.json", what) for what in DESCRIBED] + [
    ("weights.safetensors", what) for what in WEIGHTS
]


def message_of(look: Callable[[], Any], *words: str) -> None:
    with pytest.raises(EcgforgeError) as refusal:
        look()
    message = str(refusal.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "Error" not in message


@pytest.mark.parametrize(("name", "what"), LOADED)
def test_a_damaged_classifier_is_reported(classifier: Path, name: str, what: str) -> None:
    (WEIGHTS if name.startswith("weights") else DESCRIBED)[what](classifier / name)
    message_of(
        lambda: classifiers.load(classifier, LABEL),
        LABEL,
        name,
        "train and register the model again",
    )
    message_of(
        lambda: classifiers.load(classifier), str(classifier), name, "run `dvc repro` or `dvc pull`"
    )


@pytest.mark.parametrize("rhythms", ["SR", [], ["SR", "SR"], [1, 2], {"SR": 1}])
def test_invalid_rhythms_are_reported(classifier: Path, rhythms: Any) -> None:
    changed(classifier / "classifier.json", rhythms=rhythms)
    message_of(
        lambda: classifiers.load(classifier, LABEL),
        f"{LABEL} is not a complete classifier: classifier.json is damaged",
    )


@pytest.mark.parametrize(("name", "what"), LOADED)
def test_a_damaged_generator_is_reported(generator: Path, name: str, what: str) -> None:
    name = name.replace("classifier", "generator")
    (WEIGHTS if name.startswith("weights") else DESCRIBED)[what](generator / name)
    message_of(
        lambda: generators.load(generator, LABEL), LABEL, name, "train and register the model again"
    )


@pytest.mark.parametrize("load", [classifiers.load, generators.load])
def test_a_folder_that_is_no_model_is_reported(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    message_of(lambda: load(tmp_path), str(tmp_path), "is missing; run `dvc repro` or `dvc pull`")


PREPARED_BADLY = TEXTS | {
    "no amplitude": lambda file: without(file, "amplitude"),
    "another amplitude": lambda file: changed(file, amplitude=["mV"]),
    "no rate": lambda file: without(file, "sampling_rate"),
    "a word for a rate": lambda file: changed(file, sampling_rate="fast"),
    "no band": lambda file: changed(file, band=None),
}


@pytest.mark.parametrize("what", PREPARED_BADLY)
def test_damaged_preprocessing_is_reported(classifier: Path, what: str) -> None:
    assert differences(classifier, ABOUT, LABEL) == []
    PREPARED_BADLY[what](classifier / PREPROCESSING)
    message_of(lambda: Predictor.open(classifier, LABEL), LABEL, PREPROCESSING)
    message_of(lambda: differences(classifier, ABOUT, LABEL), LABEL, PREPROCESSING)


DRAWN_BADLY = TEXTS | {
    "no units": lambda file: without(file, "units"),
    "other units": lambda file: changed(file, units="V"),
    "no rhythms": lambda file: changed(file, rhythms=[]),
    "a number for rhythms": lambda file: changed(file, rhythms=3),
    "no sampling": lambda file: changed(file, sampling=None),
    "another sampling": lambda file: changed(file, sampling={"steps": "many"}),
}


@pytest.mark.parametrize("what", DRAWN_BADLY)
def test_damaged_sampling_is_reported(
    generator: Path, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DRAWN_BADLY[what](generator / SAMPLING)
    monkeypatch.setattr(
        generate_records.versions, "find", lambda _: Version("ecg-model", "1", "", "", {}, ())
    )
    monkeypatch.setattr(generate_records.signing, "files", lambda _: nullcontext(generator))
    message_of(
        lambda: generate_records.generate(LABEL, "SR", 1, 0, tmp_path / "out"), LABEL, SAMPLING
    )
    assert not (tmp_path / "out").exists()
