"""Runs of classifiers: what the phases of a gradual unfreezing draw, and how they are taken up
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from sklearn.metrics import f1_score

from ecgforge.classifiers.common import registry
from ecgforge.params import ClassifierSettings, ClassifierTraining, Compute, Params
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.stages.common import classifier_runs
from ecgforge.stages.common.classifier_runs import ClassifierRuns
from ecgforge.stages.common.tracked import TrackedRun
from ecgforge.study.experiment import Experiment
from ecgforge.study.settings import TrainingData
from ecgforge.training import devices
from ecgforge.training.fit import Outcome

PARAMS = Params.read(Path(__file__).parent.parent / "params.yaml")
RHYTHMS = ("SR", "AFIB")


@dataclass(frozen=True)
class Watched(RecordSet):
    """Records that note which of them are read together."""

    read: list[bytes] = field(default_factory=list)

    def signals(self, index: np.ndarray | slice | None = None) -> np.ndarray:
        self.read.append(self.rows[slice(None) if index is None else index].tobytes())
        return super().signals(index)


@pytest.fixture
def records(tmp_path: Path) -> RecordSet:
    table = pd.DataFrame(
        {"id": [f"r{i}" for i in range(64)], "rhythm": [RHYTHMS[i % 2] for i in range(64)]}
    )
    table = table.assign(
        patient=table["id"], dataset="ptbxl", split="train", age=50, sex="", origin="simulated"
    )
    with write_record_set(
        tmp_path / "set", About(100, 100, "mV", RHYTHMS, "simulated", {})
    ) as writer:
        writer.append(np.random.default_rng(0).normal(size=(64, 8, 100)), table)
    return RecordSet.open(tmp_path / "set")


def unfrozen(
    records: RecordSet, seed: int, folder: Path, patience: int | None = None
) -> tuple[Outcome, bytes, list[int], list[bytes]]:
    """Unfreeze a classifier gradually; return the outcome, its weights, the steps of its curve and
    the batches it was trained on.
    """
    training = ClassifierTraining(
        steps=30,
        batch_size=16,
        learning_rate=0.001,
        weight_decay=0.0,
        warmup_steps=0,
        gradient_clip=1.0,
        ema_decay=0.0,
        class_balance_power=0.0,
        evaluate_every=2,
        patience=patience,
    )
    network = {"widths": [8, 16, 16], "stem_stride": 2, "kernel": 5, "dropout": 0.1}
    settings = ClassifierSettings(backbone="resnet1d", network=network, training=training)
    classifier, steps = registry.create(settings, RHYTHMS, torch.ones(8), seed=0), []
    watched = Watched(records.folder, records.about, records.records, records.rows)
    tuned = Experiment(
        "TrSTeR", "ptbxl", "resnet1d", seed, start="a classifier", method="gradual_unfreezing"
    )
    run = SimpleNamespace(
        log=lambda found, step: steps.append(step) if "loss/validation" in found else None
    )
    opened = TrackedRun(run, "", folder)  # type: ignore[arg-type]
    data = TrainingData([watched], [records])
    outcome = classifier_runs._fit(classifier, tuned, data, PARAMS, training, opened)
    weights = save({key: value.contiguous() for key, value in classifier.state_dict().items()})
    return outcome, weights, steps, watched.read


@pytest.mark.slow
def test_no_phase_of_an_unfreezing_draws_the_batches_of_another_or_of_another_seed(
    records: RecordSet, tmp_path: Path
) -> None:
    batches = [
        batch for seed in range(3) for batch in unfrozen(records, seed, tmp_path / str(seed))[3]
    ]
    assert len(batches) >= 3 * 30
    assert len(set(batches)) == len(batches)


def test_an_unfreezing_that_was_over_is_taken_up_with_the_same_weights(
    records: RecordSet, tmp_path: Path
) -> None:
    outcome, weights, steps, _ = unfrozen(records, 0, tmp_path / "c", patience=1)
    assert len(steps) < 15, "a phase stopped early"
    again, same, rest, _ = unfrozen(records, 0, tmp_path / "c", patience=1)
    assert (again, same, rest) == (outcome, weights, [])


def trained(
    records: RecordSet, truth: pd.Series, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Run a classifier that prefers SR; return its predictions and metrics."""
    summary: dict[str, float] = {}
    run = SimpleNamespace(summary=summary.update, files=lambda _: None)

    @contextmanager
    def tracked(*_: object) -> Iterator[TrackedRun]:
        yield TrackedRun(run, "", folder)  # type: ignore[arg-type]

    @contextmanager
    def placed(classifier: object, compute: Compute) -> Iterator[None]:
        assert compute == PARAMS.active.compute
        there.append(classifier)
        yield
        there.clear()

    there: list[object] = []

    def probabilities(classifier: object, of: RecordSet) -> np.ndarray:
        assert classifier in there, "it predicts on the device of its training"
        afib = np.where(of.rows % 2, 0.28, 0.12) + 0.3 * (of.rows * 7 % 11) / 11
        return np.stack([1 - afib, afib], axis=1)

    monkeypatch.setattr(devices, "placed", placed)
    monkeypatch.setattr(classifier_runs, "tracked", tracked)
    monkeypatch.setattr(classifier_runs, "_fit", lambda *_: Outcome(1, 0.5, False))
    monkeypatch.setattr(classifier_runs, "probabilities", probabilities)
    # three of four validation records are SR
    kept = ((records.records["rhythm"] == "SR") | (np.arange(64) % 6 == 1)).to_numpy()
    data = TrainingData([records], [records])
    runs = ClassifierRuns(SimpleNamespace(params=PARAMS), True, folder)  # type: ignore[arg-type]
    experiment = Experiment("TrRTeR", "ptbxl", "resnet1d", 0)
    test = records.records.assign(rhythm=truth, split="test")
    validation = records.records[kept].assign(split="validation")
    both = pd.concat([test, validation], ignore_index=True)
    tested_on = replace(records, records=both, rows=np.append(records.rows, records.rows[kept]))
    runs.train(experiment, data, tested_on, PARAMS.classifier_settings("resnet1d"))
    return runs.tested[0].predictions, summary


def test_the_tuned_decision_is_that_of_validation_records_whatever_the_test_records_are(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = records.records["rhythm"]
    found, summary = trained(records, truth, tmp_path, monkeypatch)
    probabilities = found[["p_SR", "p_AFIB"]].to_numpy()
    likeliest = np.array(RHYTHMS)[probabilities.argmax(axis=1)]
    assert summary["validation/tau"] > 0, "AFIB is rare, and decided for too rarely"
    gained = (found["tuned"] == "AFIB") & (likeliest == "SR")
    assert gained.any()
    assert not ((found["tuned"] == "SR") & (likeliest == "AFIB")).any()
    assert summary["test/f1_macro_tuned"] == pytest.approx(
        f1_score(found["truth"], found["tuned"], average="macro")
    )
    permuted = truth.sample(frac=1, random_state=0, ignore_index=True)
    again, others = trained(records, permuted, tmp_path, monkeypatch)
    assert others["test/f1_macro_tuned"] != summary["test/f1_macro_tuned"]
    assert others["validation/tau"] == summary["validation/tau"]
    assert again["tuned"].tolist() == found["tuned"].tolist()


def test_a_version_names_its_training_records(records: RecordSet) -> None:
    real = replace(records, folder=Path("data/prepared/ptbxl"))
    made = replace(
        records.split("train"),
        folder=Path("data/synthetic/ptbxl/diffwave"),
        about=replace(records.about, origin="synthetic"),
    )
    data = TrainingData([real, made], [real])
    assert classifier_runs._facts(data, 0.84213) == {
        "validation_f1_macro": "0.8421",
        "data": f"{len(records)} of ptbxl, {len(made)} of diffwave",
        "origin": f"{records.about.origin}, synthetic",
    }
