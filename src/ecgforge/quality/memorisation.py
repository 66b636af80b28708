"""Are synthetic records nearer to the training records than a stranger's record is?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

STRANGERS = 0.01  # of held-out records, which are that near to a training record by chance
PART = 256  # records whose distances to all others are held at a time: a whole matrix of 40,000 records takes 13 GB


def scores(own: np.ndarray, strange: np.ndarray) -> dict[str, float]:
    """Compare how near synthetic and held-out records lie to the training records.

    After Meehan, Chaudhuri & Dasgupta (AISTATS 2020), who ask whether a generator's records lie nearer to its training records than
    held-out ones do.

    Args:
        own, strange: `nearness` of synthetic records and of held-out ones, whose patients are not in training, `[records]`.

    Returns:
        `nearest_ratio`: the median of synthetic records over that of held-out ones, 1 for strangers and 0 for copies.
        `copied_share`: synthetic records nearer than all but 1 % of held-out ones, 0.01 for strangers and 1 for copies.
    """
    return {
        "nearest_ratio": ratio(own, strange),
        "copied_share": float(np.mean(own < np.quantile(strange, STRANGERS))),
    }


def nearness(
    records: np.ndarray, rhythms: np.ndarray, training: np.ndarray, held_out: np.ndarray, held_out_rhythms: np.ndarray
) -> np.ndarray:
    """Return distances to the nearest training record in units of a stranger's, `[records]`: the median of held-out records of the same
    rhythm, or of all where none has it.

    A rare rhythm has few training records, and strangers of it lie far from them; in plain distances, an even mix of rhythms would
    pass for novelty, and copies of rare records for strangers.

    Args:
        records, training, held_out: embedded, `[records, features]`, so that where in a record a beat lies is not seen.
        rhythms, held_out_rhythms: `[records]`.
    """
    strange = nearest(held_out, training)
    usual = {rhythm: np.median(strange[held_out_rhythms == rhythm]) for rhythm in np.unique(held_out_rhythms)}
    return nearest(records, training) / np.array([usual.get(rhythm, np.median(strange)) for rhythm in rhythms])


def nearest(records: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return each record's distance to the nearest training record, `[records]`."""
    return np.concatenate([distances.min(axis=1) for distances in _distances(records, training)])


def ratio(own: np.ndarray, strange: np.ndarray) -> float:
    """Return the median of distances over that of strangers' ones."""
    return float(np.median(own) / np.median(strange))


def authenticity(training: np.ndarray, synthetic: np.ndarray) -> float:
    """Return the share of synthetic records that are no copies with noise of a training record.

    Alaa et al. (ICML 2022, sec. 4): a record is a copy where it lies nearer to its nearest training record than that record's nearest
    other training record does. Copies score 0, and strangers not 1, since some of them and a training record are each other's nearest:
    two in three on a line, fewer in more dimensions. So read it beside the score of held-out records.

    Args:
        training, synthetic: embedded records, `[records, features]`, two or more training records.
    """
    parts = [(distances.argmin(axis=1), distances.min(axis=1)) for distances in _distances(synthetic, training)]
    places, own = (np.concatenate(found) for found in zip(*parts, strict=True))
    copied, place = np.unique(places, return_inverse=True)
    # The least of a record's distances to training records is that to itself. A copy, since a view holds all distances.
    other = np.concatenate([np.partition(distances, 1, axis=1)[:, 1].copy() for distances in _distances(training[copied], training)])
    return float(np.mean(own > other[place]))


def membership_auc(training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray) -> float:
    """Return how well an attacker who has only the synthetic records tells who was trained on: 0.5 where nothing leaks, 1 for copies.

    The full black-box attack of Chen et al. (GAN-Leaks, CCS 2020): the nearer a record's nearest synthetic record, the more likely it
    was trained on. The value is the area under the attacker's ROC curve. Few synthetic records can lie near only few training
    records, so it grows with their number.

    Args:
        training, held_out, synthetic: embedded records, `[records, features]`; those held out are of patients who are not in training.
    """
    nearness = [-nearest(records, synthetic) for records in (training, held_out)]
    trained = np.repeat([1, 0], [len(training), len(held_out)])
    return float(roc_auc_score(trained, np.concatenate(nearness)))


def _distances(records: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the distances to all `others`, `[PART, others]`, of one part of the records after the other."""
    for start in range(0, len(records), PART):
        yield cdist(records[start : start + PART], others)
