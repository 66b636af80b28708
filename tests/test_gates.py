"""Each kind of model gets the verdict that it deserves: worse, equal, better, lopsided, badly
calibrated, leaking, memorising.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgforge.params import ClassifierGates, GeneratorGates
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.registry import gates, promotion

RHYTHMS = ("SR", "AFIB", "ST")
RECORDS = 300
TRUTH = np.arange(RECORDS) % len(RHYTHMS)
BOUNDS = ClassifierGates(
    margin=0.0,
    baseline_margin=-0.1,
    recall_margin=0.1,
    calibration_error=0.15,
    latency=50,
    size=100,
)
GENERATOR = GeneratorGates(
    two_sample=0.3,
    coverage=0.15,
    heart_rate=3,
    rr_cv=3,
    copied_share=0.04,
    dcr_ratio=0.75,
    membership_auc=0.6,
)
REAL = {
    "c2st_accuracy_baseline": 0.5,
    "coverage_baseline": 0.95,
    "heart_rate_w1_baseline": 1.0,
    "rr_cv_w1_baseline": 0.3,
    "copied_share_baseline": 0.01,
}
GOOD = REAL | {
    "c2st_accuracy": 0.7,
    "coverage": 0.9,
    "heart_rate_w1": 2.0,
    "rr_cv_w1": 1.0,
    "copied_share": 0.02,
    "dcr_ratio": 0.95,
    "membership_auc": 0.52,
}


def model(
    accuracy: dict[int, float] | float, confidence: float | None = None, seed: int = 0
) -> np.ndarray:
    """Probabilities of a model that is right about so many of each rhythm's records, and as sure of
    itself as it is right, or otherwise.
    """
    shares = (
        accuracy if isinstance(accuracy, dict) else dict.fromkeys(range(len(RHYTHMS)), accuracy)
    )
    right = np.zeros(RECORDS, dtype=bool)
    for label, share in shares.items():
        drawn = np.random.default_rng([seed, label]).permutation(np.flatnonzero(label == TRUTH))
        right[drawn[: round(share * len(drawn))]] = True
    answer = np.where(right, TRUTH, (TRUTH + 1) % len(RHYTHMS))
    sure = confidence if confidence is not None else float(np.mean(right))
    found = np.full((RECORDS, len(RHYTHMS)), (1 - sure) / (len(RHYTHMS) - 1))
    found[np.arange(RECORDS), answer] = sure
    return found


def failed(
    challenger: np.ndarray, references: dict[str, np.ndarray], has_champion: bool
) -> list[str]:
    test = gates.Test(
        TRUTH, np.arange(RECORDS).astype(str), RHYTHMS, challenger, references, has_champion
    )
    return [
        gate.name for gate in gates.classifier_gates(test, BOUNDS, 0.95, 500) if not gate.passed
    ]


CHAMPION = model(0.85)


@pytest.mark.parametrize(
    ("challenger", "expected"),
    [
        (model(0.7, seed=1), ["macro_f1", "recall"]),
        (CHAMPION, ["macro_f1"]),
        (model(0.85, seed=1), ["macro_f1"]),
        (model(0.96, seed=1), []),
        (model({0: 1.0, 1: 1.0, 2: 0.74}, seed=1), ["recall"]),
        (model(0.96, confidence=0.6, seed=1), ["calibration"]),
    ],
    ids=[
        "worse",
        "the same",
        "as good",
        "better",
        "better, but gives up a rhythm",
        "better, but unsure",
    ],
)
def test_a_challenger_must_be_better_in_every_way(
    challenger: np.ndarray, expected: list[str]
) -> None:
    assert failed(challenger, {"champion": CHAMPION}, True) == expected


def failed_without_champion(challenger: np.ndarray) -> list[str]:
    majority = np.tile([0.5, 0.25, 0.25], (RECORDS, 1))
    return failed(challenger, {"majority": majority, "regression": CHAMPION}, False)


def test_the_first_champion_is_gated_against_the_baselines() -> None:
    assert failed_without_champion(CHAMPION) == []
    assert failed_without_champion(model(0.6)) == ["macro_f1.regression"]
    assert failed_without_champion(model({0: 1.0, 1: 1.0, 2: 0.0}, confidence=0.7)) == [
        "macro_f1.regression",
        "recall",
    ]


def test_records_of_one_patient_count_as_one() -> None:
    better = model(0.9, seed=1)
    references = {"champion": model(0.85, seed=2)}

    def width(patients: np.ndarray) -> float:
        value = gates.classifier_gates(
            gates.Test(TRUTH, patients, RHYTHMS, better, references, True), BOUNDS, 0.95, 500
        )[0].value
        low, high = value.split("(")[1].rstrip(")").split(" to ")
        return float(high) - float(low)

    assert width((np.arange(RECORDS) // 30).astype(str)) != width(np.arange(RECORDS).astype(str))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.4, 0.99), st.integers(0, 100))
def test_calibration_error_is_how_far_confidence_is_from_accuracy(
    confidence: float, seed: int
) -> None:
    found = model(0.8, confidence, seed)
    accuracy = np.mean(found.argmax(axis=1) == TRUTH)
    # single precision
    assert gates.calibration_error(TRUTH, found) == pytest.approx(
        abs(accuracy - confidence), abs=1e-5
    )


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert gates.calibration_error(np.array([0, 1, 0, 1]), probabilities) == pytest.approx(
        (2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.6)) / 4
    )


def records(
    ids: list[str], splits: list[str], patients: list[str] | None = None, dataset: str = "ptbxl"
) -> pd.DataFrame:
    return pd.DataFrame(
        {"id": ids, "patient": patients or ids, "dataset": dataset, "split": splits}
    )


TEST = records(["7", "8"], ["test", "test"], ["p7", "p8"])


@pytest.mark.parametrize(
    ("trained_on", "value"),
    [
        ({"a": records(["1", "7"], ["train", "test"], ["p1", "p7"])}, None),
        ({"a": records(["1", "7"], ["train", "train"], ["p1", "p7"])}, "1 record, 1 patient"),
        (
            {"a": records(["1", "7"], ["train", "validation"], ["p1", "p7"])},
            "1 record, 1 patient",
        ),
        ({"a": records(["1", "9"], ["train", "train"], ["p1", "p8"])}, "0 records, 1 patient"),
        ({"a": records(["ptbxl-8"], ["train"], ["ptbxl-p8"])}, "1 record, 1 patient"),
        ({"a": records(["8"], ["train"], ["p8"], dataset="chapman")}, None),
        ({"a": records(["1"], ["train"]), "b": None}, "unknown"),
        ({}, "unknown"),
    ],
    ids=[
        "clean",
        "trained on",
        "validated on",
        "another record of the patient",
        "in a merged set",
        "of another dataset",
        "lost",
        "no facts",
    ],
)
def test_leakage_is_found_by_record_and_by_patient(
    trained_on: dict[str, pd.DataFrame | None], value: str | None
) -> None:
    gate = gates.leakage(TEST, trained_on)
    assert gate.passed == (value is None)
    assert gate.value == (value or "0 records, 0 patients")


def test_leakage_is_found_by_the_signals() -> None:
    seen = {"a": records(["1", "2"], ["train", "validation"], ["p1", "p2"])}
    gate = gates.leakage(TEST, seen, np.array([False, True]))
    assert (gate.passed, gate.value) == (
        False,
        "0 records, 0 patients, 1 recordings under other names",
    )
    assert gates.leakage(TEST, seen, np.array([False, False])).passed
    assert "signals were not compared" in gates.leakage(TEST, seen).detail
    assert (
        gates.leakage(TEST, {"a": records(["7"], ["train"], ["p7"])}, np.array([True, False])).value
        == "1 record, 1 patient"
    )


def test_a_test_record_under_another_name_in_training_is_found_by_its_signals(
    tmp_path: Path,
) -> None:
    signals = np.random.default_rng(0).normal(size=(4, 8, 200)).astype(np.float32)
    table = records(["7", "8"], ["test", "test"], ["p7", "p8"]).assign(
        age=50.0, sex="", origin="real", rhythm="SR"
    )
    about = About(
        sampling_rate=100, samples=200, units="mV", rhythms=("SR",), origin="real", made={}
    )
    with write_record_set(tmp_path / "test", about) as writer:
        writer.append(signals[:2], table)
    splits = ["train", "test", "validation"]
    with write_record_set(tmp_path / "seen", about) as writer:
        # In its standard deviations, as another unit would have it; the test record of the set was
        # not learned from.
        writer.append(
            np.stack([signals[3], signals[0], signals[1] * 5]),
            records(list("123"), splits, list("abc")).assign(
                age=50.0, sex="", origin="real", rhythm="SR"
            ),
        )
    node = SimpleNamespace(
        real=True, digest="1234.dir", path="seen", kind="record set", made_from=[]
    )
    traced = SimpleNamespace(made_from=[("train", node), ("tuned", node)])
    content = SimpleNamespace(local=lambda _, name, path: tmp_path / path / name)
    test = RecordSet.open(tmp_path / "test")
    same = promotion._recordings(test, traced, content)  # type: ignore[arg-type]
    assert same is not None
    assert same.tolist() == [False, True]
    gone = SimpleNamespace(local=lambda *_: None)
    assert promotion._recordings(test, traced, gone) is None  # type: ignore[arg-type]


def test_a_lost_record_set_is_named() -> None:
    assert "no longer available: merged 1234" in gates.leakage(TEST, {"merged 1234": None}).detail


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"c2st_accuracy": 0.95}, ["two_sample"]),
        ({"coverage": 0.5}, ["coverage"]),
        ({"heart_rate_w1": 9.0, "rr_cv_w1": 30.0}, ["heart_rate", "rr_cv"]),
        (
            {"copied_share": 0.8, "dcr_ratio": 0.3, "membership_auc": 0.9},
            ["copied", "nearest", "membership"],
        ),
        ({"coverage": float("nan")}, ["coverage"]),
    ],
    ids=["good", "separable", "narrow", "wrong rhythms", "memorising", "not measured"],
)
def test_generators_are_gated_beyond_their_floors(
    change: dict[str, float], expected: list[str]
) -> None:
    assert [
        gate.name for gate in gates.generator_gates(GOOD | change, GENERATOR) if not gate.passed
    ] == expected


def test_intervals_stand_next_to_the_scores_of_a_generator() -> None:
    ends = {
        "coverage_low": 0.86,
        "coverage_high": 0.93,
        "dcr_ratio_low": 0.9,
        "dcr_ratio_high": 0.99,
        "membership_auc_low": 0.48,
    }
    details = {gate.name: gate.detail for gate in gates.generator_gates(GOOD | ends, GENERATOR)}
    assert details["coverage"].endswith("; baseline 0.95; 95 % interval 0.86 to 0.93")
    assert details["nearest"].endswith("; 95 % interval 0.9 to 0.99")
    assert all("interval" not in details[name] for name in ("two_sample", "copied", "membership"))


def test_a_score_that_is_missing_fails() -> None:
    assert not any(gate.passed for gate in gates.generator_gates({}, GENERATOR))
