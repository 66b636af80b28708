"""The classifier two-sample test."""

from __future__ import annotations

import numpy as np
from sklearn import config_context
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

FOLDS = 5
CONSTANT = 1e-12  # standard deviation of a constant feature, relative to its mean


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
    right = np.empty(len(side), dtype=bool)
    # The checks of the input take most of the time of a small sample.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for fold in by_patient:
            training, test = (np.isin(patient, one) for one in fold)
            known, unknown = features[training], features[test]
            right[test] = _predicted(known, side[training], unknown) == side[test]
    return float(right.mean())


def _predicted(known: np.ndarray, side: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return the sides of unknown records by `SVC()` of standardised features. Its kernel is
    computed here by a matrix product, which is faster.
    """
    mean, spread = known.mean(axis=0), known.std(axis=0)
    spread[spread <= CONSTANT * np.maximum(1, np.abs(mean))] = 1
    known, unknown = (known - mean) / spread, (unknown - mean) / spread
    machine = SVC(kernel="precomputed").fit(_kernel(known, known), side)
    return np.asarray(machine.predict(_kernel(unknown, known)))


def _kernel(records: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the Gaussian kernel with the width of `SVC(gamma="scale")`, `[records, known]`."""
    lengths, known_lengths = (np.square(one).sum(axis=1) for one in (records, known))
    squares = lengths[:, None] + known_lengths - 2 * records @ known.T
    return np.asarray(np.exp(-squares / (known.shape[1] * known.var())))
