"""Metrics of a classifier on test records, plain and under weights of records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

MACRO = "macro"
PER_RHYTHM = ("precision", "recall", "f1", "auroc")
OVERALL = ("accuracy", "balanced_accuracy", *PER_RHYTHM)


def metrics(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> pd.DataFrame:
    """Judge the predictions of one classifier.

    A rhythm that no record has is left out of every mean, and all that is said of it is its support
    of zero; records taken for it count as errors all the same. AUROC is one rhythm against the
    rest; a precision with nothing predicted is 0.

    Args:
        truth: class indices into `rhythms`, `[records]`.
        probabilities: `[records, rhythms]`; the likeliest rhythm is the prediction.
        rhythms: in class order.

    Returns:
        Rows of rhythm (`macro` or one), metric, value: accuracy, balanced_accuracy, precision,
        recall, f1 and auroc of `macro`, the last four and support of each rhythm.

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
    keys = [(MACRO, metric) for metric in OVERALL] + [
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


def weighted_metrics(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, auroc: bool = True
) -> np.ndarray:
    """The values of `metrics` under each row of record weights, `[rows, metrics]`, in the order of
    `metric_keys`; AUROC is NaN if not asked for.
    """
    support, predicted, hits = weighted_counts(truth, probabilities, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / support
        precision = np.where(predicted > 0, hits / np.maximum(predicted, 1), 0)
    areas = np.full_like(recall, np.nan)
    if auroc:
        areas = np.stack(
            [
                _auroc(truth == k, probabilities[:, k], weights)
                for k in range(probabilities.shape[1])
            ],
            axis=1,
        )
    per_rhythm = np.where(
        support[..., None] > 0,
        np.stack([precision, recall, f1_of_counts(support, predicted, hits), areas], axis=2),
        np.nan,
    )
    macro = nan_mean(per_rhythm, axis=1)
    accuracy = hits.sum(axis=1) / weights.sum(axis=1)
    by_metric = per_rhythm.transpose(0, 2, 1).reshape(len(weights), -1)
    return np.concatenate(
        [accuracy[:, None], macro[:, [PER_RHYTHM.index("recall")]], macro, by_metric], axis=1
    )


def _auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve under each row of weights: the share of pairs in the right order,
    ties as half.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered = weights[:, order]
    with_score = np.add.reduceat(ordered * positive[order], starts, axis=1)
    against = np.add.reduceat(ordered, starts, axis=1) - with_score
    below = np.cumsum(against, axis=1) - against
    pairs = with_score.sum(axis=1) * against.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.sum(with_score * (below + against / 2), axis=1) / pairs
