"""The points that `dvc plots` draws."""

from __future__ import annotations

import pandas as pd

from ecgforge.report import series


def point(sweep: str, percent: str, mean: float, **other: object) -> dict[str, object]:
    usual = {"dataset": "ptbxl", "generator": "diffwave", "setting": "TrSTeR", "augmented": False}
    ends = {"mean": mean, "low": round(mean - 0.1, 2), "high": round(mean + 0.1, 2)}
    return usual | {"sweep": sweep, "point": percent} | ends | other


def test_curves_have_a_series_for_each_line_in_the_order_of_percent() -> None:
    points = pd.DataFrame(
        [
            point("fine-tuning, full", "100", 0.9),
            point("fine-tuning, full", "20", 0.7),
            point("fine-tuning, full", "20", 0.8, augmented=True),
            point("scratch", "20", 0.5, generator="", setting="TrRTeR"),
            point("mixture, proportion", "50", 0.6, setting="TrRSTeR"),
            point("mixture, proportion", "50", 0.1, setting="TrRTeR"),  # of no curve
            point("", "", 0.2),
        ]
    )
    found = dict(series.curves(points))
    assert set(found) == {"mixtures.csv", "fine_tuning.csv", "sizes.csv"}
    tuned = found["fine_tuning.csv"]
    assert tuned.values.tolist() == [
        ["ptbxl diffwave: pre-trained, all fine-tuned", 20, 0.7, 0.6, 0.8],
        ["ptbxl diffwave: pre-trained, all fine-tuned", 100, 0.9, 0.8, 1.0],
        ["ptbxl diffwave: pre-trained, all fine-tuned, augmented", 20, 0.8, 0.7, 0.9],
        ["ptbxl: from scratch", 20, 0.5, 0.4, 0.6],
    ]
    assert found["mixtures.csv"]["macro_f1"].tolist() == [0.6]
    assert found["sizes.csv"].empty
    assert found["sizes.csv"].columns.tolist() == series.COLUMNS


def test_confusions_have_a_row_for_each_test_record_of_trrter() -> None:
    columns = ["dataset", "setting", "truth", "predicted", "records"]
    counts = pd.DataFrame(
        [
            ("a", "TrRTeR", "SR", "SR", 3),
            ("a", "TrRTeR", "SR", "SB", 0),
            ("a", "TrRTeR", "SB", "SR", 2),
            ("a", "TrSTeR", "SB", "SB", 5),
            ("b", "TrRTeR", "SB", "SB", 1),
        ],
        columns=columns,
    )
    found = dict(series.confusions(counts))
    assert found["confusion_a.csv"].values.tolist() == [["SR", "SR"]] * 3 + [["SB", "SR"]] * 2
    assert found["confusion_b.csv"].values.tolist() == [["SB", "SB"]]
