"""Are synthetic records nearer to the training records than a stranger's record is?"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

STRANGERS = 0.01  # of held-out records, which are that near to a training record by chance


def scores(training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Compare distances to the nearest training record, in an embedding that does not see where in a record a beat lies.

    After Meehan, Chaudhuri & Dasgupta (AISTATS 2020), who ask whether a generator's records lie nearer to its training records than
    held-out ones do.

    Args:
        training, held_out, synthetic: embedded records, `[records, features]`; those held out are of patients who are not in training.

    Returns:
        `nearest_ratio`: the median distance of synthetic records over that of held-out ones, 1 for strangers and 0 for copies.
        `copied_share`: synthetic records nearer than all but 1 % of held-out ones, 0.01 for strangers and 1 for copies.
    """
    own, strange = (cdist(records, training).min(axis=1) for records in (synthetic, held_out))
    return {
        "nearest_ratio": float(np.median(own) / np.median(strange)),
        "copied_share": float(np.mean(own < np.quantile(strange, STRANGERS))),
    }
