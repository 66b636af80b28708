"""Can a classifier tell two sets of records apart?"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FOLDS = 5


def accuracy(first: np.ndarray, second: np.ndarray, patients: np.ndarray, seed: int) -> float:
    """Classifier two-sample test: held-out accuracy of telling `first` from `second`, 0.5 where
    they follow one law.

    Lopez-Paz & Oquab, ICLR 2017, with a support vector machine. Each record is judged once, by a
    classifier that saw no record of its patient: a patient on both sides of a fold would be
    recognised and not judged.

    Args:
        first, second: embedded records, `[records, features]`, as many of each; unequal numbers
            alone would lift the accuracy.
        patients: of the records of `first` and then of `second`, `[2 * records]`.
        seed: of the folds.
    """
    if len(first) != len(second):
        raise ValueError(f"a two-sample test needs equal sizes, not {len(first)} and {len(second)}")
    features = np.concatenate([first, second])
    side = np.repeat([0, 1], len(first))
    unique, place, patient = np.unique(patients, return_index=True, return_inverse=True)
    # as many of each side in every fold
    by_patient = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(unique, side[place])
    folds = [tuple(np.flatnonzero(np.isin(patient, one)) for one in fold) for fold in by_patient]
    return float(
        (
            cross_val_predict(make_pipeline(StandardScaler(), SVC()), features, side, cv=folds)
            == side
        ).mean()
    )
