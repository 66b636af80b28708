"""Metrics of a classifier on test records, plain and under weights of records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

MACRO = "macro"
PER_RHYTHM = ("precision", "recall", "f1", "auroc", "average_precision")
# by which claims about "all metrics" compare
OVERALL = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")
ALL_MACRO = (*OVERALL, "average_precision", "log_score")
TUNED_F1 = "tuned_f1"  # macro-F1 of `study.decision`
BY_RANK = ("auroc", "average_precision")  # they take most of the time
LEAST_PROBABILITY = 1e-6  # predictions are stored with six decimal places


def metrics(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> pd.DataFrame:
    """Judge the predictions of one classifier.

    A rhythm that no record has is left out of every mean, and all that is said of it is its support
    of zero; records taken for it count as errors all the same. AUROC is one rhythm against the
    rest, and so is average precision; a precision with nothing predicted is 0. The log score is the
    mean log probability of the true rhythm (Good, J R Stat Soc B 14:107, 1952).

    Args:
        truth: class indices into `rhythms`, `[records]`.
        probabilities: `[records, rhythms]`; the likeliest rhythm is the prediction.
        rhythms: in class order.

    Returns:
        Rows of rhythm (`macro` or one), metric, value: `ALL_MACRO` of `macro`, `PER_RHYTHM` and
        support of each rhythm.

    Raises:
        ValueError: shapes disagree, or there is no record.
    """
    check_shapes(truth, probabilities[None], rhythms)
    values = weighted_metrics(truth, probabilities, np.ones((1, len(truth))))[0]
    found = metric_keys(rhythms).assign(value=values).dropna()
    support = pd.DataFrame(
        {
            "rhythm": list(rhythms),
            "metric": "support",
            "value": np.bincount(truth, minlength=len(rhythms)),
        }
    )
    return pd.concat([found, support], ignore_index=True)


def check_shapes(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> None:
    if not len(truth) or probabilities.shape[1:] != (len(truth), len(rhythms)):
        raise ValueError(
            f"{len(truth)} records, {len(rhythms)} rhythms and probabilities of shape "
            f"{probabilities.shape}"
        )


def metric_keys(rhythms: Sequence[str]) -> pd.DataFrame:
    keys = [(MACRO, metric) for metric in ALL_MACRO] + [
        (rhythm, metric) for metric in PER_RHYTHM for rhythm in rhythms
    ]
    return pd.DataFrame(keys, columns=["rhythm", "metric"])


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the values that are there, NaN where none is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(axis=axis) / there.sum(axis=axis)


def weighted_counts(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records of each rhythm, taken for it, and rightly so, under each row of record weights: each
    `[rows, rhythms]`.
    """
    classes = np.arange(probabilities.shape[1])
    is_class, is_predicted = (
        truth[:, None] == classes,
        probabilities.argmax(axis=1)[:, None] == classes,
    )
    return weights @ is_class, weights @ is_predicted, weights @ (is_class & is_predicted)


def f1_of_counts(support: np.ndarray, predicted: np.ndarray, hits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(support > 0, 2 * hits / (support + predicted), np.nan)


def macro_f1(truth: np.ndarray, decided: np.ndarray, rhythms: int) -> float:
    """Return the macro-F1 of decisions, `[records]`, as class indices."""
    counts = weighted_counts(truth, np.eye(rhythms)[decided], np.ones((1, len(truth))))
    return float(nan_mean(f1_of_counts(*counts), axis=1)[0])


def log_probabilities(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log probability of each record's rhythm, `[records]`, bounded below."""
    of_truth = probabilities[np.arange(len(truth)), truth]
    return np.log(np.maximum(of_truth, LEAST_PROBABILITY))


def weighted_metrics(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, auroc: bool = True
) -> np.ndarray:
    """The values of `metrics` under each row of record weights, `[rows, metrics]`, in the order of
    `metric_keys`; those `BY_RANK` are NaN if `auroc` is false.
    """
    support, predicted, hits = weighted_counts(truth, probabilities, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / support
        precision = np.where(predicted > 0, hits / np.maximum(predicted, 1), 0)
    areas = np.full((len(BY_RANK), *recall.shape), np.nan)
    if auroc:
        areas = weighted_areas(truth, probabilities, weights)
    per_rhythm = np.where(
        support[..., None] > 0,
        np.stack([precision, recall, f1_of_counts(support, predicted, hits), *areas], axis=2),
        np.nan,
    )
    macro = nan_mean(per_rhythm, axis=1)
    total = weights.sum(axis=1)
    overall = [
        hits.sum(axis=1) / total,
        macro[:, PER_RHYTHM.index("recall")],
        *macro.T,
        weights @ log_probabilities(truth, probabilities) / total,
    ]
    by_metric = per_rhythm.transpose(0, 2, 1).reshape(len(weights), -1)
    return np.concatenate([np.stack(overall, axis=1), by_metric], axis=1)


def weighted_areas(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return AUROC and average precision of each rhythm against the rest, under each row of record
    weights, `[2, rows, rhythms]`. Both are NaN where a rhythm has no record, AUROC also where no
    other has one.
    """
    by_record = np.ascontiguousarray(weights.T)
    areas = [
        _areas(truth == k, probabilities[:, k], by_record) for k in range(probabilities.shape[1])
    ]
    return np.stack(areas, axis=2)


def _areas(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the areas under the ROC curve and under the steps of the precision-recall curve.

    The first is the share of pairs of a positive and another record in the right order, ties as
    half. The second is average precision: the mean over positive records of the precision among all
    records with their score or a higher one.

    Args:
        weights: `[records, rows]`.

    Returns:
        `[2, rows]`.
    """
    if not positive.any():
        return np.full((2, weights.shape[1]), np.nan)
    order = np.argsort(score, kind="stable")
    ranked = order[positive[order]]
    scores, starts = np.unique(score[ranked], return_index=True)
    hits = np.add.reduceat(weights[ranked], starts, axis=0)
    hits_to = np.cumsum(hits, axis=0)
    every_to = np.zeros((len(score) + 1, weights.shape[1]))
    np.cumsum(weights[order], axis=0, out=every_to[1:])
    below, upto = (
        every_to[np.searchsorted(score[order], scores, side)] for side in ("left", "right")
    )
    every, positives = every_to[-1], hits_to[-1]
    others = (below - hits_to + hits + upto - hits_to) / 2  # below a score, and half of those at it
    with np.errstate(invalid="ignore", divide="ignore"):
        roc = np.sum(hits * others, axis=0) / (positives * (every - positives))
        precision = np.where(hits > 0, (positives - hits_to + hits) / (every - below), 0)
        return np.stack([roc, np.sum(hits * precision, axis=0) / positives])
