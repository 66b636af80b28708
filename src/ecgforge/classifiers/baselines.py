"""Baselines without a network: the training frequencies, and logistic regression on RR features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.training.batches import in_order


def majority(train: RecordSet, test: RecordSet) -> np.ndarray:
    """Return the training frequencies of the rhythms for each test record, `[records, rhythms]`."""
    shares = np.bincount(train.labels, minlength=len(train.about.rhythms)) / len(train)
    return np.tile(shares, (len(test), 1))


def logistic_regression_rr(train: RecordSet, test: RecordSet) -> np.ndarray:
    """Return the probabilities of a logistic regression on `rr_features`, `[records, rhythms]`.

    All rhythms have the same total weight in training.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
    )
    model.fit(rr_features(train), train.labels)
    found = np.zeros((len(test), len(train.about.rhythms)))
    found[:, model.classes_] = model.predict_proba(rr_features(test))
    return found


def rr_features(records: RecordSet) -> np.ndarray:
    """Return features of the beat times, `[records, 6]`.

    The features are the heart rate (bpm), the number of detected beats, and SDNN (s), RMSSD (s),
    coefficient of variation and longest-to-shortest ratio of the RR intervals. Records with fewer
    than three beats have zeros in all of them, which no other record has.
    """
    rate = records.about.sampling_rate
    found = (beats.detect(records.signals(index), rate) for index in in_order(len(records), 256))
    return np.array([_features(peaks / rate) for chunk in found for peaks in chunk])


def _features(times: np.ndarray) -> list[float]:
    if len(times) < 3:
        return [0.0] * 6
    intervals = np.diff(times)
    spread = float(intervals.std(ddof=1))
    successive = float(np.sqrt(np.mean(np.diff(intervals) ** 2)))
    mean = float(intervals.mean())
    return [
        60 / float(np.median(intervals)),
        len(times),
        spread,
        successive,
        spread / mean,
        float(intervals.max() / intervals.min()),
    ]


BASELINES: dict[str, Callable[[RecordSet, RecordSet], np.ndarray]] = {
    "majority": majority,
    "logistic_regression_rr": logistic_regression_rr,
}
