"""The report's tables of one dataset, from the long tables of the study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.files import stored_csv
from ecgforge.quality import flags
from ecgforge.records.record_set import SPLITS, RecordSet
from ecgforge.study import settings
from ecgforge.sweeps.ablation import UNCHANGED

# Settings with real test records come first, since they answer the question.
SETTINGS = tuple(
    sorted(
        {**settings.SETTINGS, **settings.AUGMENTED},
        key=lambda name: not name.removesuffix(" augmented").endswith("TeR"),
    )
)
SHARED = ("TrRTeR", "TrRTeR augmented")  # without a generator
BASELINES = {
    "logistic_regression_rr": "logistic regression on RR features",
    "majority": "always the commonest rhythm",
}
EXAMPLES = 3  # listed records for each reason of exclusion

Row = dict[str, Any]


def models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those of baselines."""
    return rows[~rows["backbone"].isin(list(BASELINES))]


def answer(summary: pd.DataFrame) -> dict[str, Row | None]:
    """Return the main estimates on real test records: real training records, plain and classically
    augmented; the baseline on RR features; and the best generator with real records (TrRSTeR) and
    without them (TrSTeR).

    Args:
        summary: rows of one metric: generator, backbone, setting, mean, low, high.
    """
    ranked = summary.sort_values("mean", ascending=False, kind="stable")
    found: dict[str, Row | None] = {
        "baseline": _first(ranked[ranked["backbone"] == "logistic_regression_rr"])
    }
    for setting in ("TrRTeR", "TrRTeR augmented", "TrRSTeR", "TrSTeR"):
        rows = models(ranked)
        found[setting] = _first(rows[rows["setting"] == setting])
    return found


def _first(rows: pd.DataFrame) -> Row | None:
    return rows.iloc[0].to_dict() if len(rows) else None


def by_setting(summary: pd.DataFrame) -> Iterator[Row]:
    """Yield a row per generator and backbone, with an estimate or None for each of `SETTINGS`.

    The settings `SHARED` have no generator; they are in the row of each generator, or in their own
    row. Baselines come last.
    """
    estimates = {
        (row["generator"], row["backbone"], row["setting"]): row
        for row in summary.to_dict("records")
    }
    pairs = dict.fromkeys((generator, backbone) for generator, backbone, _ in estimates)
    generated = {backbone for generator, backbone in pairs if generator}
    for generator, backbone in sorted(pairs, key=lambda pair: pair[1] in BASELINES):
        if generator or backbone not in generated:
            shared = {setting: estimates.get(("", backbone, setting)) for setting in SHARED}
            cells = [
                estimates.get((generator, backbone, setting), shared.get(setting))
                for setting in SETTINGS
            ]
            yield {
                "generator": generator,
                "backbone": BASELINES.get(backbone, backbone),
                "cells": cells,
            }


def recall(results: pd.DataFrame, rhythms: tuple[str, ...]) -> list[Row]:
    """Return the recall of each rhythm as a mean over seeds, by setting, generator and backbone."""
    rows = results[(results["metric"] == "recall") & results["rhythm"].isin(list(rhythms))]
    table = rows.pivot_table(
        index=["setting", "generator", "backbone"], columns="rhythm", values="value", sort=False
    ).reindex(columns=list(rhythms))
    return [
        {
            "setting": setting,
            "generator": generator,
            "backbone": BASELINES.get(backbone, backbone),
            "values": values.tolist(),
        }
        for (setting, generator, backbone), values in sorted(
            table.iterrows(), key=lambda item: SETTINGS.index(item[0][0])
        )
    ]


def confusions(table: pd.DataFrame, rhythms: tuple[str, ...]) -> Iterator[Row]:
    """Yield a matrix per setting and generator: records and their share, by true and predicted
    rhythm.
    """
    for setting in SETTINGS:
        if setting in settings.AUGMENTED:
            continue
        rows = models(table[table["setting"] == setting])
        for (generator, backbone), cell in rows.groupby(["generator", "backbone"], sort=False):
            counts = cell.pivot_table(
                index="truth", columns="predicted", values="records", aggfunc="sum"
            )
            counts = (
                counts.reindex(index=list(rhythms), columns=list(rhythms)).fillna(0).astype(int)
            )
            shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
            matrix = [
                (rhythm, list(zip(counts.loc[rhythm], shares.loc[rhythm], strict=True)))
                for rhythm in rhythms
            ]
            yield {
                "setting": setting,
                "generator": generator,
                "backbone": backbone,
                "matrix": matrix,
            }


def quality(scores: pd.DataFrame) -> dict[str, Any]:
    """Return two kinds of tables.

    For each rhythm, with `all` first: a row per score with a cell per generator, which is a score
    (value, low, high, baseline, negative_control, beyond) or None. And a row per generator with a
    cell per rhythm: the number of scores beyond their baseline, and of all compared scores.
    """
    marked = [
        rows.assign(beyond=flags.beyond_baseline(rows), judged=flags.judged(rows))
        for _, rows in scores.groupby("generator", sort=False)
    ]
    found = {
        (row["generator"], row["rhythm"], row["metric"]): row
        for rows in marked
        for row in rows.to_dict("records")
    }
    generators, rhythms = (list(dict.fromkeys(scores[name])) for name in ("generator", "rhythm"))
    by_rhythm = {
        rhythm: dict.fromkeys(metric for _, where, metric in found if where == rhythm)
        for rhythm in rhythms
    }
    return {
        "generators": generators,
        "rhythms": {
            rhythm: [
                {
                    "name": name,
                    "cells": [found.get((generator, rhythm, name)) for generator in generators],
                }
                for name in names
            ]
            for rhythm, names in by_rhythm.items()
        },
        "beyond": [
            {
                "generator": generator,
                "cells": [_beyond(found, generator, rhythm) for rhythm in rhythms],
            }
            for generator in generators
        ],
    }


def _beyond(found: dict[tuple[str, str, str], Row], generator: str, rhythm: str) -> tuple[int, int]:
    rows = [row for key, row in found.items() if key[:2] == (generator, rhythm)]
    return sum(row["beyond"] for row in rows), sum(row["judged"] for row in rows)


def ranked_utility(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlations in the order of the mean of each score, the largest first."""
    mean = table.groupby("metric")["rho"].transform("mean")
    order = table.assign(mean=mean).sort_values(
        ["mean", "metric"], ascending=[False, True], kind="stable"
    )
    return order.drop(columns="mean").reset_index(drop=True)


def utility(table: pd.DataFrame) -> list[Row]:
    """Return a row for each quality score, with a rank correlation or None for each setting."""
    found = {(row["metric"], row["setting"]): row for row in table.to_dict("records")}
    settings = dict.fromkeys(table["setting"])
    return [
        {"name": metric, "cells": [found.get((metric, setting)) for setting in settings]}
        for metric in dict.fromkeys(table["metric"])
    ]


COSTS = {"generate_ms": "generation, ms per record"}
JUDGED = ("c2st_accuracy", "rr_cv_w1", "heart_rate_w1", "recall", "coverage", "dcr_ratio")


def variations(table: pd.DataFrame, points: pd.DataFrame) -> dict[str, Any]:
    """Return a row per variation of one generator: some scores, macro-F1 of TrSTeR, and costs. The
    unchanged generator has the macro-F1 of the study.
    """
    columns = [name for name in (*JUDGED, *COSTS) if name in table]
    trained = points[points["setting"] == "TrSTeR"]
    plain = trained[trained["sweep"].isin(["", "ablation"]) & ~trained["augmented"]]
    found = {row["point"] or UNCHANGED: row for row in plain.to_dict("records")}
    rows = [
        {
            "name": row["variation"],
            "values": [row[name] for name in columns],
            "f1": found.get(row["variation"]),
        }
        for row in table.to_dict("records")
    ]
    return {"columns": columns, "rows": rows}


OF_BACKBONES = ("TrRTeR", "TrRTeR augmented", "TrSTeR", "TrRSTeR", "TrRSTeR augmented")


def backbones(points: pd.DataFrame) -> list[Row]:
    """Return a row per classifier with macro-F1 in each of `OF_BACKBONES`: first the study's
    classifier, then those of the sweep.
    """
    named = points.assign(setting=_with_augmented(points))
    shown = named[points["sweep"].isin(["", "backbones"])]
    found = {(row["backbone"], row["setting"]): row for row in shown.to_dict("records")}
    names = dict.fromkeys(backbone for backbone, _ in found)
    study = [row["backbone"] for row in shown.to_dict("records") if row["sweep"] == ""]
    return [
        {"backbone": name, "cells": [found.get((name, setting)) for setting in OF_BACKBONES]}
        for name in sorted(names, key=lambda name: name not in study)
    ]


def trainings(points: pd.DataFrame) -> Iterator[Row]:
    """Yield a row per setting of the sweep `generator_seeds`: the estimates from one training of
    the generator, and from all trainings.
    """
    named = points.assign(setting=_with_augmented(points))
    found = {(row["sweep"], row["setting"]): row for row in named.to_dict("records")}
    for setting in ("TrSTeR", "TrRSTeR", "TrRSTeR augmented"):
        if several := found.get(("generator_seeds", setting)):
            yield {"setting": setting, "cells": [found.get(("", setting)), several]}


def _with_augmented(points: pd.DataFrame) -> pd.Series:
    """Return the names of settings; classical augmentation makes a separate setting."""
    return points["setting"] + np.where(points["augmented"], " augmented", "")


def cross_dataset(points: pd.DataFrame) -> Iterator[Row]:
    """Yield a row per training data on another dataset, with the estimate on this dataset."""
    yield from _by_point(points, "cross_dataset")


def equal_size(points: pd.DataFrame) -> Iterator[Row]:
    """Yield a row per number and origin of real training records, with the estimate."""
    yield from _by_point(points, "equal_size")


def _by_point(points: pd.DataFrame, sweep: str) -> Iterator[Row]:
    for row in points[points["sweep"] == sweep].to_dict("records"):
        yield {**row, "point": row["point"] + (", augmented" if row["augmented"] else "")}


def counts(records: RecordSet) -> list[Row]:
    """Return the number of records per rhythm, by split and in all; the last row is the total."""
    found = pd.crosstab(records.records["rhythm"], records.records["split"])
    found = found.reindex(index=list(records.about.rhythms), columns=list(SPLITS), fill_value=0)
    rows = [
        {"rhythm": rhythm, "counts": [*row, sum(row)]}
        for rhythm, row in zip(found.index, found.to_numpy().tolist(), strict=True)
    ]
    return [
        *rows,
        {"rhythm": "all", "counts": np.sum([row["counts"] for row in rows], axis=0).tolist()},
    ]


def exclusions(records: RecordSet) -> list[Row]:
    """Return the records that preparation excluded, by reason, with the first few of each.

    Raises:
        EcgforgeError: the set has no excluded.csv, or a damaged one.
    """
    table = stored_csv(
        records.folder / "excluded.csv", ["reason"], dtype=str, keep_default_na=False
    )
    reasons = [
        {"reason": reason, "records": len(rows), "examples": rows.head(EXAMPLES).to_dict("records")}
        for reason, rows in table.groupby("reason", sort=True)
    ]
    return sorted(reasons, key=lambda row: -row["records"])
