"""Predictions come back from their files as they were, whatever records and patients are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgforge.analysis import intervals
from ecgforge.errors import EcgforgeError
from ecgforge.study import predictions
from ecgforge.study.experiment import Experiment

PATIENTS = ["NA", "nan", "null", "None", "007", "1e3"]


def test_names_that_look_like_nothing_stay_names(tmp_path: Path) -> None:
    facts = pd.DataFrame({"id": PATIENTS, "patient": PATIENTS[::-1], "truth": ["SR", "AFIB"] * 3})
    table = facts.assign(p_SR=np.linspace(0.1, 0.9, 6), p_AFIB=np.linspace(0.9, 0.1, 6))
    other = table.rename(columns={"p_AFIB": "p_ST"}).assign(truth="SR")
    rows = [Experiment("TrRTeR", "null", "resnet1d", 0, point=point) for point in ("", "nan")]
    tested = [
        predictions.Tested(rows[0], "007", table, 0.5),
        predictions.Tested(rows[1], "1e3147483648", other),
    ]
    predictions.write(tested, tmp_path / "cell")
    runs = predictions.read_runs(tmp_path / "cell")
    assert runs["fingerprint"].tolist() == ["007", "1e3147483648"]
    assert runs["point"].tolist() == ["", "nan"]
    assert runs["validation_f1"].fillna(-1).tolist() == [0.5, -1]
    found = predictions.read([tmp_path / "cell"])
    assert found["patient"].tolist() == PATIENTS[::-1] * 2
    assert found["id"].tolist() == PATIENTS * 2
    assert set(found["dataset"]) == {"null"}
    assert list(found["point"].unique()) == ["", "nan"]
    assert found["p_ST"].isna().tolist() == [True] * 6 + [False] * 6
    assert len(intervals.intervals(found, 0.9, 10)), "patients can be distinguished"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "No columns to parse"),
        (lambda content: content[: len(content) // 20], "no column"),
        (lambda content: content.replace(b"setting", b"sitting"), "no column setting"),
        (
            lambda content: content.replace(b",0.5", b",half"),
            "a seed or a probability is no number",
        ),
        (lambda content: content + b'"', "EOF inside string"),
        (lambda content: content.replace(b"SR", b"\xff\xfe"), "can't decode byte"),
        (lambda _: b"\0" * 300, "no column"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    facts = pd.DataFrame({"id": PATIENTS, "patient": PATIENTS, "truth": ["SR", "AFIB"] * 3})
    row = Experiment("TrRTeR", "ptbxl", "resnet1d", 0)
    tested = predictions.Tested(row, "a", facts.assign(p_SR=0.5, p_AFIB=0.5))
    predictions.write([tested], tmp_path / "cell")
    file = tmp_path / "cell/predictions.csv"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(
        EcgforgeError,
        match=f"^{file} is damaged .*{message}.*: remove it and run `dvc checkout`, "
        "or `dvc repro`$",
    ):
        predictions.read([tmp_path / "cell"])
    file.unlink()
    with pytest.raises(EcgforgeError, match="is missing: run `dvc repro` or `dvc pull`"):
        predictions.read([tmp_path / "cell"])
