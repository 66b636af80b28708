"""The contract of every registered classifier, and the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ecgforge.classifiers import base, baselines
from ecgforge.classifiers.registry import CLASSIFIERS
from ecgforge.params import ClassifierSettings, Compute, Training
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.training.fit import fit

RHYTHMS = ("SR", "SB", "AFIB")
NETWORKS: dict[str, dict[str, Any]] = {"resnet1d": {"widths": [8, 16], "stem_stride": 2, "kernel": 5, "dropout": 0.1}}
TRAINING = Training(
    steps=60,
    batch_size=16,
    learning_rate=0.01,
    weight_decay=0.0,
    warmup_steps=5,
    gradient_clip=1.0,
    ema_decay=0.0,
    balance=0.5,
    evaluate_every=20,
    patience=None,
)
COMPUTE = Compute(accelerator="cpu", devices=1, precision="auto", threads=1)


def settings(backbone: str) -> ClassifierSettings:
    return ClassifierSettings(backbone=backbone, network=NETWORKS[backbone], training=TRAINING)


@pytest.fixture(params=list(CLASSIFIERS))
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def classifier(backbone: str) -> base.Classifier:
    return base.create(settings(backbone), RHYTHMS, torch.full((8,), 0.2), seed=0)


def beats(rng: np.random.Generator, rhythm: str, samples: int = 1000) -> np.ndarray:
    """A train of narrow beats at 100 Hz: regular at 75 or 45 bpm, or irregular at 75."""
    mean = {"SR": 80, "SB": 133, "AFIB": 80}[rhythm]
    intervals = rng.normal(mean, 25 if rhythm == "AFIB" else 2, 40).clip(35)
    times = rng.integers(0, 80) + np.cumsum(intervals)
    wave = np.exp(-0.5 * ((np.arange(samples)[:, None] - times) / 1.5) ** 2).sum(axis=1)
    return wave * rng.normal(1, 0.1, (8, 1)) + rng.normal(0, 0.03, (8, samples))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RecordSet:
    rng = np.random.default_rng(0)
    rhythms = [RHYTHMS[i % 3] for i in range(120)]
    ids = [f"r{i}" for i in range(120)]
    splits = ["test" if i >= 90 else "validation" if i >= 72 else "train" for i in range(120)]
    table = pd.DataFrame({"id": ids, "patient": ids, "rhythm": rhythms, "split": splits})
    folder = tmp_path_factory.mktemp("records") / "set"
    with write_record_set(folder, About(100, 1000, "mV", RHYTHMS, "simulated", {})) as writer:
        writer.append(
            np.stack([beats(rng, rhythm) for rhythm in rhythms]), table.assign(dataset="ptbxl", age=50, sex="", origin="simulated")
        )
    return RecordSet.open(folder)


def test_logits_for_any_batch(classifier: base.Classifier) -> None:
    for batch in (1, 3):
        assert classifier.eval()(torch.randn(batch, 8, 1000)).shape == (batch, len(RHYTHMS))


def test_the_scale_of_the_training_signals_is_part_of_the_model(backbone: str) -> None:
    small, large = (base.create(settings(backbone), RHYTHMS, torch.full((8,), scale), seed=0).eval() for scale in (0.2, 2.0))
    signals = torch.randn(2, 8, 1000)
    torch.testing.assert_close(small(signals), large(10 * signals))


def test_seeds_decide_the_weights_and_nothing_else_does(backbone: str) -> None:
    scale = torch.ones(8)
    torch.manual_seed(1)
    first = base.create(settings(backbone), RHYTHMS, scale, seed=0).state_dict()
    torch.manual_seed(2)
    second = base.create(settings(backbone), RHYTHMS, scale, seed=0).state_dict()
    other = base.create(settings(backbone), RHYTHMS, scale, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_saved_and_loaded_it_is_the_same_to_the_byte(classifier: base.Classifier, backbone: str, tmp_path: Path) -> None:
    base.save(classifier, backbone, tmp_path / "a")
    loaded = base.load(tmp_path / "a")
    base.save(loaded, backbone, tmp_path / "b")
    for name in ("weights.safetensors", "classifier.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    signals = torch.randn(2, 8, 1000)
    torch.testing.assert_close(loaded(signals), classifier.eval()(signals), rtol=0, atol=0)
    assert loaded.rhythms == RHYTHMS


def test_every_weight_has_a_gradient(classifier: base.Classifier) -> None:
    losses = classifier.train().objective().loss(torch.randn(4, 8, 1000), torch.tensor([0, 1, 2, 0]), torch.Generator())
    losses["loss"].backward()
    assert [name for name, parameter in classifier.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_it_learns_and_beats_the_baselines(backbone: str, records: RecordSet, tmp_path: Path) -> None:
    classifier = base.create(settings(backbone), RHYTHMS, torch.full((8,), 0.3), seed=0)
    train, validation, test = (records.split(name) for name in ("train", "validation", "test"))
    outcome = fit(classifier.objective(), [train], [validation], TRAINING, COMPUTE, seed=0, folder=tmp_path, log=lambda *_: None)
    found = base.probabilities(classifier, test)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert outcome.best > 0.85
    assert (found.argmax(axis=1) == test.labels).mean() > 0.85


def test_batches_do_not_change_what_is_predicted(classifier: base.Classifier, records: RecordSet) -> None:
    np.testing.assert_allclose(base.probabilities(classifier, records, 7), base.probabilities(classifier, records, 64), atol=1e-6)


def test_the_majority_baseline_gives_the_training_shares(records: RecordSet) -> None:
    train = records.split("train").select(np.arange(10))  # rhythms in turn: 4, 3, 3
    np.testing.assert_allclose(baselines.majority(train, records.split("test")), np.tile([0.4, 0.3, 0.3], (30, 1)))


def test_the_regression_on_beat_times_tells_rhythms_that_differ_in_them(records: RecordSet) -> None:
    found = baselines.logistic_regression_rr(records.split("train"), records.split("test"))
    assert (found.argmax(axis=1) == records.split("test").labels).mean() > 0.9


def test_rr_features_know_nothing_but_beat_times(records: RecordSet, tmp_path: Path) -> None:
    some = records.select(np.arange(9))
    with write_record_set(tmp_path / "flipped", records.about) as writer:
        writer.append(-3 * some.signals(), some.records)
    np.testing.assert_allclose(baselines.rr_features(RecordSet.open(tmp_path / "flipped")), baselines.rr_features(some))
    rates = baselines.rr_features(some)[:, 0]
    np.testing.assert_allclose(rates[some.labels == 1], 45, atol=2)
