"""The files that MLflow shows of a run."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ecgforge import artifacts
from ecgforge.files import read_csv
from ecgforge.records.record_set import RecordSet
from ecgforge.report import tested
from test_report import a_prepared_set

RHYTHMS = ("SR", "AFIB", "<x>")


def predictions(truth: list[str], probabilities: np.ndarray) -> pd.DataFrame:
    facts = {"id": [str(n) for n in range(len(truth))], "patient": "p", "truth": truth, "tuned": ""}
    columns = {f"p_{name}": probabilities[:, k] for k, name in enumerate(RHYTHMS)}
    return pd.DataFrame(facts | columns)


def texts(svg: str | bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", str(svg))


def test_a_classifiers_run_shows_confusions_curves_rhythms_and_predictions() -> None:
    probabilities = np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0.6, 0.4, 0], [0.1, 0.9, 0]])
    found = predictions(["SR", "SR", "AFIB", "AFIB"], probabilities)
    files = artifacts.of_classifier(found, RHYTHMS)
    shown = texts(files["test/confusion.svg"])
    assert shown.count("1") == 4, "one record of each true rhythm was taken for each"
    assert shown.count("0.50") == 4
    assert shown.count("true") == shown.count("predicted") == 2
    assert "&lt;x&gt;" in shown, "a rhythm's name is text"
    assert texts(files["test/roc.svg"])[-4:-2] == ["SR", "AFIB"], "no curve without records"
    by_rhythm = read_csv(io.StringIO(str(files["test/rhythms.csv"]))).set_index("rhythm")
    assert by_rhythm.loc["AFIB", "recall"] == by_rhythm.loc["macro", "f1"] == 0.5
    assert by_rhythm.loc["SR", "support"] == 2
    empty = by_rhythm.isna().any().tolist()
    assert empty == sorted(empty), "the columns that rhythms do not have are the last ones"
    assert len(read_csv(io.StringIO(str(files["test/predictions.csv"])))) == 4
    assert files == artifacts.of_classifier(found, RHYTHMS), "equal predictions, equal bytes"


def test_the_area_under_the_drawn_roc_curve_is_auroc_also_with_ties() -> None:
    random = np.random.default_rng(0)
    positive = random.random(200) < 0.3
    score = np.round(random.random(200) + 0.3 * positive, 1)
    false, true = tested._roc(positive, score).T
    assert np.trapezoid(true, false) == pytest.approx(roc_auc_score(positive, score))


def test_a_calibration_curve_has_a_point_for_each_bin_with_records() -> None:
    probabilities = np.array([[0.95, 0.05], [0.93, 0.07], [0.35, 0.65], [0.31, 0.69]])
    svg = tested.calibration(np.array([0, 1, 1, 1]), probabilities)
    points = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    expected = tested._pixels(np.array([[0.67, 1.0], [0.94, 0.5]]))
    np.testing.assert_allclose(np.array(points, float), expected, atol=0.06)


def test_a_generators_page_has_a_real_and_a_synthetic_record_of_each_rhythm(
    tmp_path: Path,
) -> None:
    real, made = (RecordSet.open(a_prepared_set(tmp_path / name)) for name in ("real", "made"))
    page = str(artifacts.of_generator("ptbxl", "diffwave", real, made)["records.html"])
    rhythms = real.about.rhythms
    assert re.findall("<h2>(.*?)</h2>", page) == list(rhythms)
    assert page.count("<h3>diffwave, ") == len(rhythms)
    assert page.count("<svg class=") == 2 * len(rhythms)


@pytest.mark.parametrize("views", [True, False])
def test_a_quality_run_shows_all_scores_and_the_views_if_there_are_any(views: bool) -> None:
    scores = pd.DataFrame({"rhythm": ["all"], "metric": ["coverage"], "value": [0.5]})
    rows: Any = {"view": ["pca"] * 2, "kind": ["real", "synthetic"], "x": [0.0, 1.0], "y": [0, 1.0]}
    table = pd.DataFrame(rows)
    files = artifacts.of_quality(scores, table if views else table[:0])
    assert files["scores.csv"] == "rhythm,metric,value\nall,coverage,0.5\n"
    png = files.get("views.png", b"")
    assert (png[:4] == b"\x89PNG") is views  # type: ignore[comparison-overlap]
