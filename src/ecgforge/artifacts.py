"""The files that MLflow shows of a run: tables, figures and ECGs.

The report draws its ECGs and embeddings with the same functions. No result depends on this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from ecgforge.records.record_set import RecordSet
from ecgforge.report import examples, tested
from ecgforge.study import predictions

Files = dict[str, str | bytes]  # content by name


def of_classifier(found: pd.DataFrame, rhythms: Sequence[str]) -> Files:
    """Return the predictions of a classifier, its metrics by rhythm, and its confusion matrix, ROC
    and calibration curves.

    Args:
        found: see `predictions.table`.
        rhythms: in class order.
    """
    truth = np.asarray(pd.Categorical(found["truth"], categories=list(rhythms)).codes)
    probabilities = found[[predictions.PROBABILITY + rhythm for rhythm in rhythms]].to_numpy()
    scores = predictions.of_classifier(found, rhythms)
    by_rhythm = scores.pivot_table(index="rhythm", columns="metric", values="value", sort=False)
    whole = by_rhythm.columns[by_rhythm.isna().any()]  # metrics over all rhythms alone
    by_rhythm = by_rhythm[[*by_rhythm.columns.difference(whole, sort=False), *whole]]
    return {
        "test/confusion.svg": tested.confusion(truth, probabilities.argmax(axis=1), rhythms),
        "test/roc.svg": tested.roc(truth, probabilities, rhythms),
        "test/calibration.svg": tested.calibration(truth, probabilities),
        "test/rhythms.csv": by_rhythm.to_csv(float_format="%.6g"),
        "test/predictions.csv": found.to_csv(index=False),
    }


def of_generator(dataset: str, generator: str, real: RecordSet, synthetic: RecordSet) -> Files:
    """Return a page with a real and a synthetic ECG of each rhythm on ECG paper."""
    sets = {"": real, generator: synthetic}
    parts = [
        f"<h2>{escape(rhythm)}</h2>"
        + "".join(
            f"<h3>{escape(one['generator'] or one['origin'])}, record {escape(one['id'])}</h3>"
            + one["sheet"]
            for one in examples.of_rhythm(dataset, rhythm, sets)["ecgs"]
        )
        for rhythm in real.about.rhythms
    ]
    title = f"{generator} on {dataset}: real and synthetic records"
    return {
        "records.html": '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>body {{ font-family: sans-serif }} "
        "svg { max-width: 100%; height: auto }</style>"
        f"<h1>{escape(title)}</h1>{''.join(parts)}</html>\n"
    }


def of_quality(scores: pd.DataFrame, views: pd.DataFrame) -> Files:
    """Return the quality scores of a synthetic set, and its views next to real records.

    Args:
        scores, views: see `quality.assess`.
    """
    files: Files = {"scores.csv": scores.to_csv(index=False, float_format="%.6g")}
    if len(views):
        from ecgforge.report import figures  # imports matplotlib

        files["views.png"] = figures.embedding(views)
    return files
