"""Fidelity and diversity apart: does each synthetic record look real, and is each kind of real
record there?
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

# at most, and no more than one record in `PART` is one: of a few, all would lie in balls that reach
# to the last
NEIGHBOURS = 5
PART = 3


def scores(real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray) -> dict[str, float]:
    """Return precision, recall, density and coverage of embedded records.

    A record's ball reaches to its k-th neighbour among its own kind, the fifth where there are
    fifteen or more. Precision is the share of synthetic records in a real one's ball and recall
    that of real records in a synthetic one's (Kynkäänniemi et al., NeurIPS 2019, eq. 1-3). Density
    counts, over synthetic records, the real balls each lies in, by k, and coverage is the share of
    real balls that hold a synthetic record (Naeem et al., ICML 2020, eq. 3 and 4). Records above
    the baseline's density crowd where real ones are densest.

    Records are compared within their stratum alone: a generator that is asked for a rhythm should
    make records of that rhythm. Across rhythms, the wide balls of the most irregular ones reach
    over all others, and white noise lies in them.

    Args:
        real, synthetic: `[records, features]`.
        strata: `[records]`; record i of both belongs to stratum `strata[i]`, as do two or more.
    """
    precise, recalled, dense, covered = _balls(real, synthetic, strata)
    return {
        "precision": float(precise.mean()),
        "recall": float(recalled.mean()),
        "density": float(dense.mean()),
        "coverage": float(covered.mean()),
    }


def densities(real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the real balls that each synthetic record lies in, by k, `[records]`; their mean is
    the density. See `scores`.
    """
    return _balls(real, synthetic, strata)[2]


def _balls(
    real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each record: is a synthetic one in a real ball, a real one in a synthetic ball, the
    density of each synthetic one, and does a real one's ball hold a synthetic one?
    """
    precise, recalled, dense, covered = np.empty((4, len(strata)))
    for stratum in np.unique(strata):
        own = strata == stratum
        neighbours = max(1, min(NEIGHBOURS, int(own.sum()) // PART))
        between = cdist(real[own], synthetic[own])
        inside_real = between <= _radii(real[own], neighbours)[:, None]
        inside_synthetic = between <= _radii(synthetic[own], neighbours)[None]
        precise[own], recalled[own] = inside_real.any(axis=0), inside_synthetic.any(axis=1)
        dense[own], covered[own] = inside_real.sum(axis=0) / neighbours, inside_real.any(axis=1)
    return precise, recalled, dense, covered


def _radii(records: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each record to its neighbour of that place; it is at no distance from itself."""
    return np.partition(cdist(records, records), neighbours, axis=1)[:, neighbours]
