"""The five settings: what goes into training, early stopping and testing, and what must never."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgforge.errors import EcgforgeError
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.study.settings import SETTINGS, evenly, number_mixed_in, training_data

RHYTHMS = ("SR", "SB")


def record_set(folder: Path, origin: str, counts: dict[str, int]) -> RecordSet:
    """`counts` records of SR and half as many of SB in each split."""
    rows = [
        (f"{origin}-{split}-{rhythm}-{i}", rhythm, split)
        for split, count in counts.items()
        for rhythm, share in zip(RHYTHMS, (1, 2), strict=True)
        for i in range(count // share)
    ]
    table = pd.DataFrame(rows, columns=["id", "rhythm", "split"])
    with write_record_set(folder, About(100, 10, "mV", RHYTHMS, origin, {})) as writer:
        writer.append(
            np.zeros((len(rows), 8, 10)),
            table.assign(patient=table["id"], dataset="ptbxl", age=1, sex="", origin=origin),
        )
    return RecordSet.open(folder)


@pytest.fixture
def real(tmp_path: Path) -> RecordSet:
    return record_set(tmp_path / "real", "real", {"train": 20, "validation": 4, "test": 4})


@pytest.fixture
def synthetic(tmp_path: Path) -> RecordSet:
    return record_set(tmp_path / "synthetic", "diffwave", {"train": 60, "validation": 6, "test": 6})


def ids(sets: list[RecordSet]) -> set[str]:
    return {one for records in sets for one in records.records["id"]}


def test_the_five_settings_of_the_study() -> None:
    found = {name: (setting.trained_on, setting.tested_on) for name, setting in SETTINGS.items()}
    assert found == {
        "TrRTeR": ("real", "real"),
        "TrSTeR": ("synthetic", "real"),
        "TrRTeS": ("real", "synthetic"),
        "TrSTeS": ("synthetic", "synthetic"),
        "TrRSTeR": ("mixed", "real"),
    }


@pytest.mark.parametrize("trained_on", ["real", "synthetic", "mixed"])
def test_test_records_are_never_trained_on_nor_stop_a_training(
    trained_on: str, real: RecordSet, synthetic: RecordSet
) -> None:
    data = training_data(trained_on, real, synthetic, 0.5, seed=0)  # type: ignore[arg-type]
    assert all("-test-" not in one for one in ids(data.train) | ids(data.validation))
    assert ids(data.train).isdisjoint(ids(data.validation))


def test_training_on_synthetic_records_alone_sees_no_real_one(
    real: RecordSet, synthetic: RecordSet
) -> None:
    data = training_data("synthetic", real, synthetic, 0.5, seed=0)
    assert all(one.startswith("diffwave") for one in ids(data.train) | ids(data.validation))


@given(real_count=st.integers(1, 10_000), share=st.floats(0.05, 0.95))
def test_the_share_of_a_mixture_is_relative_to_all_its_records(
    real_count: int, share: float
) -> None:
    added = number_mixed_in(real_count, share)
    assert abs(added - share * (real_count + added)) <= 0.5


def test_a_mixture_keeps_all_real_records_and_draws_rhythms_evenly(
    real: RecordSet, synthetic: RecordSet
) -> None:
    data = training_data("mixed", real, synthetic, 0.5, seed=0)
    assert len(data.train[0]) == len(data.train[1]) == 30
    assert data.train[1].counts() == {"SR": 15, "SB": 15}
    other = training_data("mixed", real, synthetic, 0.5, seed=1)
    assert ids([data.train[1]]) == ids(
        [training_data("mixed", real, synthetic, 0.5, seed=0).train[1]]
    )
    assert ids([data.train[1]]) != ids([other.train[1]])


def test_too_few_synthetic_records_name_the_parameter_to_raise(synthetic: RecordSet) -> None:
    with pytest.raises(
        EcgforgeError,
        match=(
            "has 90 training records and the mixture needs 101: raise synthesis.train to at least "
            "51"
        ),
    ):
        evenly(synthetic.split("train"), 101, seed=0)
