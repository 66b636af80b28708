"""Predictions of a cell: a row a test record with a probability per rhythm, and the metrics that
follow from them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.files import atomic_write, damaged, stored_csv
from ecgforge.records.record_set import RecordSet
from ecgforge.study import metrics
from ecgforge.study.experiment import KEYS, POOLED_KEYS, Experiment

FACTS = ["id", "patient", "truth"]  # of a test record
NUMBERS = ["augmented", "fold", "draw", "seed"]
TEXTS = [key for key in KEYS if key not in NUMBERS]
RUN_COLUMNS = [*KEYS, "fingerprint", "validation_f1"]
TUNED = "tuned"  # the rhythm of `study.decision`; empty without
SHOWN = {  # names in MLflow of the metrics over all rhythms, in the order of the report
    "f1": "f1_macro",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "auroc": "auroc_macro",
    "average_precision": "average_precision_macro",
    "log_score": "log_score",
    metrics.TUNED_F1: "f1_macro_tuned",
}
PROBABILITY = "p_"  # before a rhythm's name: the column of its probability


@dataclass(frozen=True)
class Tested:
    """An experiment's predictions on its test records, and the facts of its tracked run.

    Attributes:
        fingerprint: of the run.
        predictions: see `table`.
        validation_f1: macro-F1 on the validation records of the dataset that it is tested on; NaN
            if there are none, or for a baseline.
    """

    experiment: Experiment
    fingerprint: str
    predictions: pd.DataFrame
    validation_f1: float = np.nan


def table(
    records: RecordSet, probabilities: np.ndarray, tuned: np.ndarray | None = None
) -> pd.DataFrame:
    """Return the predictions on `records`: id, patient, truth, tuned, and a column a rhythm.

    Args:
        probabilities: `[records, rhythms]`.
        tuned: class indices of a tuned decision, `[records]`.
    """
    decided = "" if tuned is None else np.array(records.about.rhythms)[tuned]
    facts = records.records[["id", "patient"]].assign(
        truth=records.records["rhythm"], **{TUNED: decided}
    )
    columns = [PROBABILITY + rhythm for rhythm in records.about.rhythms]
    return pd.concat([facts, pd.DataFrame(probabilities.round(6), columns=columns)], axis=1)


def rhythms(predictions: pd.DataFrame) -> list[str]:
    """Return the rhythms that predictions have a probability for, in class order."""
    columns = predictions.columns[predictions.columns.str.startswith(PROBABILITY)]
    return [
        column.removeprefix(PROBABILITY) for column in columns if predictions[column].notna().any()
    ]


def tuned(predictions: pd.DataFrame, classes: Sequence[str]) -> np.ndarray | None:
    """Return the tuned decisions as probabilities of 0 and 1, `[records, rhythms]`; None without
    them.
    """
    if TUNED not in predictions or not predictions[TUNED].isin(classes).all():
        return None
    found: np.ndarray = predictions[TUNED].to_numpy()[:, None] == np.array(classes)
    return found.astype(float)


def pooled(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions that judge each condition.

    These are the predictions of all rounds where a condition is cross-fitted, so that every record
    is judged once a seed. Otherwise they are those on the dataset's own test split.
    """
    crossed = predictions["fold"] > 0
    has_rounds = crossed.groupby([predictions[key] for key in POOLED_KEYS]).transform("any")
    return predictions[crossed == has_rounds]


def results(predictions: pd.DataFrame, keys: Sequence[str] = KEYS) -> pd.DataFrame:
    """Return the long table of metrics: a row per key, rhythm (or macro) and metric.

    Args:
        keys: without `fold`, the rounds of cross-fitting are pooled.
    """
    parts = []
    for values, group in predictions.groupby(list(keys), sort=False):
        found = of_classifier(group, rhythms(group))
        keyed = found.assign(**dict(zip(keys, values, strict=True)))
        parts.append(keyed[[*keys, "rhythm", "metric", "value"]])
    return pd.concat(parts, ignore_index=True)


def summary(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Return the metrics of one classifier's predictions, named for MLflow: over all rhythms,
    macro-F1 first, and the recall of each.
    """
    found = of_classifier(predictions, classes).set_index(["rhythm", "metric"])["value"]
    overall = found[metrics.MACRO].to_dict()
    values = {f"test/{name}": overall[key] for key, name in SHOWN.items() if key in overall}
    recalls = {
        f"test/recall/{rhythm}": value
        for (rhythm, metric), value in found.items()
        if metric == "recall" and rhythm != metrics.MACRO
    }
    return {key: float(value) for key, value in (values | recalls).items()}


def of_classifier(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return `metrics.metrics` of one classifier's predictions, and macro-F1 of the tuned decision.

    Args:
        predictions: see `table`.
        classes: the rhythms, in class order.
    """
    truth = np.asarray(pd.Categorical(predictions["truth"], categories=list(classes)).codes)
    found = metrics.metrics(
        truth, predictions[[PROBABILITY + rhythm for rhythm in classes]].to_numpy(), classes
    )
    decided = tuned(predictions, classes)
    if decided is not None:
        value = metrics.macro_f1(truth, decided.argmax(axis=1), len(classes))
        found.loc[len(found)] = [metrics.MACRO, metrics.TUNED_F1, value]
    return found


def write(tested: Sequence[Tested], folder: Path) -> None:
    """Write predictions.csv, and runs.csv with the fingerprint of the run behind each and its
    macro-F1 on validation records, to `folder`, whole; their headers alone where nothing was
    tested.
    """
    columns = [*KEYS, *FACTS]
    tables = [one.predictions.assign(**one.experiment.keys) for one in tested]
    tables = [table[[*KEYS, *table.columns.drop(KEYS)]] for table in tables]
    runs = [
        {
            **one.experiment.keys,
            "fingerprint": one.fingerprint,
            "validation_f1": round(one.validation_f1, 6),
        }
        for one in tested
    ]
    with atomic_write(folder) as scratch:
        scratch.mkdir()
        found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
        found.to_csv(scratch / "predictions.csv", index=False)
        table = pd.DataFrame(runs, columns=RUN_COLUMNS)
        table.to_csv(scratch / "runs.csv", index=False)


def read(folders: Iterable[Path]) -> pd.DataFrame:
    """Read the predictions of several cells into one table.

    Raises:
        EcgforgeError: see `files.stored_csv`.
    """
    parts = [_predictions(folder / "predictions.csv") for folder in folders]
    # An empty table knows no types, and would take them from the others.
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def read_runs(folder: Path) -> pd.DataFrame:
    """Read the runs of a cell: rows of `RUN_COLUMNS`.

    Raises:
        EcgforgeError: see `files.stored_csv`.
    """
    texts: dict[str, Any] = dict.fromkeys([*TEXTS, "fingerprint"], str)
    found = stored_csv(folder / "runs.csv", RUN_COLUMNS, converters=texts)
    if len(found) and not pd.api.types.is_numeric_dtype(found["validation_f1"]):
        raise damaged(folder / "runs.csv", "a macro-F1 is no number")
    return found


def _predictions(file: Path) -> pd.DataFrame:
    # Only probabilities may be missing: a patient called NA is a name. Interned, since each is
    # there many times.
    texts = dict.fromkeys([*TEXTS, *FACTS, TUNED], sys.intern)
    found = stored_csv(file, [*KEYS, *FACTS], converters=texts)
    numbers = found[[*NUMBERS, *(column for column in found if column.startswith(PROBABILITY))]]
    if len(found) and not all(pd.api.types.is_numeric_dtype(kind) for kind in numbers.dtypes):
        raise damaged(file, "a seed or a probability is no number")
    return found


def confusions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count test records by true and predicted rhythm, summed over seeds and rounds.

    Returns:
        Rows of `POOLED_KEYS`, and truth, predicted, records; pairs without records are left
        out.
    """
    columns = [column for column in predictions.columns if column.startswith(PROBABILITY)]
    found = predictions[columns].to_numpy(float)
    likeliest = np.where(np.isnan(found), -1, found).argmax(axis=1)
    predicted = np.array([column.removeprefix(PROBABILITY) for column in columns])[likeliest]
    counted = (
        predictions.assign(predicted=predicted)
        .groupby([*POOLED_KEYS, "truth", "predicted"], sort=False)
        .size()
    )
    return counted.rename("records").reset_index()
