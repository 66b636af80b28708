"""The classifier two-sample test."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FOLDS = 5


def accuracy(first: np.ndarray, second: np.ndarray, patients: np.ndarray, seed: int) -> float:
    """Return the cross-validated accuracy of a classifier that distinguishes `first` from `second`;
    0.5 for samples of the same distribution.

    This is the classifier two-sample test of Lopez-Paz & Oquab (ICLR 2017), with a support vector
    machine. No patient is in the training and the test part of a fold.

    Args:
        first, second: embedded records, `[records, features]`, of equal size.
        patients: of the records of `first` and then of `second`, `[2 * records]`.
        seed: of the folds.

    Raises:
        ValueError: the sizes differ.
    """
    if len(first) != len(second):
        raise ValueError(f"a two-sample test needs equal sizes, not {len(first)} and {len(second)}")
    features = np.concatenate([first, second])
    side = np.repeat([0, 1], len(first))
    unique, place, patient = np.unique(patients, return_index=True, return_inverse=True)
    # equal numbers of both samples in each fold
    by_patient = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(unique, side[place])
    folds = [tuple(np.flatnonzero(np.isin(patient, one)) for one in fold) for fold in by_patient]
    return float(
        (
            cross_val_predict(make_pipeline(StandardScaler(), SVC()), features, side, cv=folds)
            == side
        ).mean()
    )
