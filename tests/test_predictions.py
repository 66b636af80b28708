"""Predictions come back from their files as they were, whatever records and patients are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgforge.analysis import intervals
from ecgforge.errors import EcgforgeError
from ecgforge.study import metrics, predictions
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


def decided(seeds: int, **columns: object) -> pd.DataFrame:
    """Predictions of 40 records: the second half of SB is taken for SR, but not if tuned."""
    truth = np.array(["SR", "SB"] * 20)
    taken = np.where(np.arange(40) > 20, "SR", truth)
    table = pd.DataFrame(
        {"id": [f"{i:02}" for i in range(40)], "truth": truth, "tuned": truth}
    ).assign(patient=lambda rows: rows["id"], p_SR=taken == "SR", p_SB=taken == "SB", **columns)
    keys = [Experiment("TrRTeR", "ptbxl", "resnet1d", seed).keys for seed in range(seeds)]
    found = pd.concat([table.assign(**one) for one in keys], ignore_index=True)
    return found.astype({"p_SR": float, "p_SB": float})


def test_the_tuned_decision_is_judged_where_there_is_one() -> None:
    found = decided(2)
    results = predictions.results(found)
    rows = results[results["metric"] == "tuned_f1"]
    assert rows[["rhythm", "seed", "value"]].to_numpy().tolist() == [
        ["macro", 0, 1.0],
        ["macro", 1, 1.0],
    ]
    table = intervals.intervals(found, 0.9, 20).set_index("metric")["mean"]
    assert table["tuned_f1"] == 1 > table["f1"]
    assert predictions.summary(found[found["seed"] == 0], ["SR", "SB"])["test/f1_macro_tuned"] == 1
    for none in (decided(2, tuned=""), found.drop(columns="tuned")):
        assert "tuned_f1" not in set(intervals.intervals(none, 0.9, 20)["metric"])
        assert "tuned_f1" not in set(predictions.results(none)["metric"])


def test_two_conditions_differ_in_all_metrics() -> None:
    first, second = decided(2), decided(2, tuned=np.array(["SR"] * 40))
    one, two, none = (intervals.stacked(table) for table in (first, second, decided(2, tuned="")))
    options = (["SR", "SB"], 0.9, 50)
    found = intervals.differences(one, two, *options).set_index("metric")["estimate"]
    assert list(found.index) == [*metrics.ALL_MACRO, metrics.TUNED_F1]
    assert found["f1"] == 0
    assert found["tuned_f1"] == pytest.approx(1 / 3 - 1)
    without = intervals.differences(one, none, *options)
    assert list(without["metric"]) == list(metrics.ALL_MACRO)


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
