"""Separate scores of fidelity and diversity: precision, recall, density and coverage."""

from __future__ import annotations

import numpy as np

from ecgforge.quality import distances

# maximum; at most one record in `PART`, since balls of few records would contain all of them
NEIGHBOURS = 5
PART = 3


def scores(real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray) -> dict[str, float]:
    """Return precision, recall, density and coverage of embedded records.

    The radius of a record's ball is the distance to its k-th neighbour in the same sample; k is 5
    with fifteen or more records. Precision is the share of synthetic records in real balls. Recall
    is the share of real records in synthetic balls (Kynkäänniemi et al., NeurIPS 2019, eq. 1-3).
    Density is the mean number of real balls around a synthetic record, divided by k. Coverage is
    the share of real balls with a synthetic record (Naeem et al., ICML 2020, eq. 3 and 4). A
    density above the baseline means that records are crowded where real records are densest.

    Records are compared only within their stratum, since a generator should make records of the
    requested rhythm. Across rhythms, the large balls of irregular rhythms would contain all
    records, and even white noise.

    Args:
        real, synthetic: `[records, features]`.
        strata: `[records]`; record i of both has the stratum `strata[i]`; each stratum has two or
            more records.
    """
    precise, recalled, dense, covered = _balls(real, synthetic, strata)
    return {
        "precision": float(precise.mean()),
        "recall": float(recalled.mean()),
        "density": float(dense.mean()),
        "coverage": float(covered.mean()),
    }


def densities(real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the number of real balls around each synthetic record, divided by k, `[records]`;
    their mean is the density. See `scores`.
    """
    return _balls(real, synthetic, strata)[2]


def _balls(
    real: np.ndarray, synthetic: np.ndarray, strata: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each record: whether a synthetic one is in a real ball, whether a real one is in a
    synthetic ball, the density of a synthetic one, and whether a real ball has a synthetic record.
    """
    precise, recalled, dense, covered = np.empty((4, len(strata)))
    for stratum in np.unique(strata):
        own = strata == stratum
        neighbours = max(1, min(NEIGHBOURS, int(own.sum()) // PART))
        balls, recalled[own], covered[own] = _counts(real[own], synthetic[own], neighbours)
        precise[own], dense[own] = balls > 0, balls / neighbours
    return precise, recalled, dense, covered


def _counts(
    real: np.ndarray, synthetic: np.ndarray, neighbours: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of real balls around each synthetic record, and whether each real record is
    in a synthetic ball, and has a synthetic record in its ball.
    """
    radii = distances.to_neighbour(real, neighbours)[:, None]
    other_radii = distances.to_neighbour(synthetic, neighbours)[None]
    balls, recalled, covered = np.zeros((3, len(real)))
    for part, squares, error in distances.squared(real, synthetic):
        pair = real[part], synthetic, squares
        inside_real = distances.within(*pair, radii[part], error)
        balls += inside_real.sum(axis=0)
        covered[part] = inside_real.any(axis=1)
        recalled[part] = distances.within(*pair, other_radii, error).any(axis=1)
    return balls, recalled, covered
