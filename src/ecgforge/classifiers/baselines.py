"""Classifiers without a network, which any network has to beat: the commonest rhythm, and a
regression on beat times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.training.batches import in_order


def majority(train: RecordSet, test: RecordSet) -> np.ndarray:
    """Return the shares of the training rhythms for every test record, `[records, rhythms]`."""
    shares = np.bincount(train.labels, minlength=len(train.about.rhythms)) / len(train)
    return np.tile(shares, (len(test), 1))


def logistic_regression_rr(train: RecordSet, test: RecordSet) -> np.ndarray:
    """Return the probabilities of a logistic regression on `rr_features`, `[records, rhythms]`;
    rhythms weigh the same.
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
    """Return what beat times alone say of a record, `[records, 6]`.

    Heart rate (bpm), beats found, and of the RR intervals in s: SDNN, RMSSD, coefficient of
    variation, and the ratio of the longest to the shortest. Records with fewer than three beats get
    zeros: that is a feature of its own.
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
