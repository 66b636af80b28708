"""Series of points for `dvc plots`; dvc.yaml names the files and their columns."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ecgforge.report import evidence

# files of the report's curves, by title
FILES = {
    "More synthetic records": "mixtures.csv",
    "Pre-training": "fine_tuning.csv",
    "Fewer real records, for generator and classifier": "sizes.csv",
}
COLUMNS = ["series", "percent", "macro_f1", "low", "high"]


def curves(points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the file and the points of each curve of the report: `COLUMNS`; empty without points.

    Args:
        points: rows of macro-F1: dataset, generator, sweep, point (percent), setting, augmented,
            mean, low, high.
    """
    for title, lines in evidence.CURVES.items():
        parts = [pd.DataFrame(columns=COLUMNS)]
        for (sweep, setting), name in lines.items():
            rows = points[(points["sweep"] == sweep) & (points["setting"] == setting)]
            source = (rows["dataset"] + " " + rows["generator"]).str.strip()
            changed = rows["augmented"].map({True: ", augmented", False: ""})
            values = rows.rename(columns={"mean": "macro_f1"})
            values = values.assign(series=source + ": " + name + changed, percent=rows["point"])
            parts.append(values[COLUMNS])
        table = pd.concat([part for part in parts if len(part)] or parts[:1])
        order = table.assign(percent=table["percent"].astype(float))
        yield FILES[title], order.sort_values(["series", "percent"])


def confusions(counts: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the file and the test records of TrRTeR for each dataset: truth, predicted.

    Args:
        counts: dataset, setting, truth, predicted, records; of one classifier.
    """
    real = counts[counts["setting"] == "TrRTeR"]
    for dataset, rows in real.groupby("dataset", sort=False):
        each = rows.loc[rows.index.repeat(rows["records"]), ["truth", "predicted"]]
        yield f"confusion_{dataset}.csv", each
