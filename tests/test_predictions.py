"""Predictions come back from their files as they were, whatever records and patients are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ecgforge.study import predictions

PATIENTS = ["NA", "nan", "null", "None", "007", "1e3"]


def test_names_that_look_like_nothing_stay_names(tmp_path: Path) -> None:
    facts = pd.DataFrame({"id": PATIENTS, "patient": PATIENTS[::-1], "truth": ["SR", "AFIB"] * 3})
    table = facts.assign(p_SR=np.linspace(0.1, 0.9, 6), p_AFIB=np.linspace(0.9, 0.1, 6))
    other = table.rename(columns={"p_AFIB": "p_ST"}).assign(truth="SR")
    who = [predictions.Who("null", "", "resnet1d", "", point, "TrRTeR", 0) for point in ("", "nan")]
    predictions.write([predictions.Tested(who[0], "a", table), predictions.Tested(who[1], "b", other)], tmp_path / "cell")
    found = predictions.read([tmp_path / "cell"])
    assert found["patient"].tolist() == PATIENTS[::-1] * 2
    assert found["id"].tolist() == PATIENTS * 2
    assert set(found["dataset"]) == {"null"}
    assert list(found["point"].unique()) == ["", "nan"]
    assert found["p_ST"].isna().tolist() == [True] * 6 + [False] * 6
    assert len(predictions.intervals(found, 0.9, 10)), "patients can be told apart"
