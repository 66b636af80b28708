"""Fidelity and diversity apart: does each synthetic record look real, and is each kind of real record there?"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

NEIGHBOURS = 5


def scores(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Return precision, recall, density and coverage of embedded records, `[records, features]`, two or more of each.

    A record's ball reaches to its fifth neighbour among its own kind. Precision is the share of synthetic records in a real one's
    ball and recall that of real records in a synthetic one's (Kynkäänniemi et al., NeurIPS 2019, eq. 1-3). Density counts, over
    synthetic records, the real balls each lies in, by five, and coverage is the share of real balls that hold a synthetic record
    (Naeem et al., ICML 2020, eq. 3 and 4): one outlier with a wide ball lifts precision and recall, and not these.
    """
    between = cdist(real, synthetic)
    inside_real = between <= _radii(real)[:, None]
    inside_synthetic = between <= _radii(synthetic)[None]
    return {
        "precision": float(inside_real.any(axis=0).mean()),
        "recall": float(inside_synthetic.any(axis=1).mean()),
        "density": float(densities(real, synthetic).mean()),
        "coverage": float(inside_real.any(axis=1).mean()),
    }


def densities(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Return the real balls that each synthetic record lies in, by five, `[synthetic records]`; their mean is the density."""
    return (cdist(real, synthetic) <= _radii(real)[:, None]).sum(axis=0) / NEIGHBOURS


def _radii(records: np.ndarray) -> np.ndarray:
    """Distance of each record to its fifth neighbour, or its last where there are fewer; it is at no distance from itself."""
    place = min(NEIGHBOURS, len(records) - 1)
    return np.partition(cdist(records, records), place, axis=1)[:, place]
