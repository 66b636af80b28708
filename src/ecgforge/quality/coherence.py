"""Scores of the consistency of leads, which all show the same heart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ecgforge.files import stored_csv
from ecgforge.records.record_set import LIMB_LEADS, RecordSet

# limit of correlations before the Fisher transform, which is infinite at 1
MAX_CORRELATION = 1 - 1e-6


def correlations(signals: np.ndarray) -> np.ndarray:
    """Return the Pearson correlations over time of all pairs of leads, `[records, pairs]`; 0 for
    pairs with a flat lead.
    """
    centred = signals - signals.mean(axis=-1, keepdims=True, dtype=float)
    size = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = centred / np.where(size > 0, size, 1)
    one, other = np.triu_indices(signals.shape[1], 1)
    return (unit @ unit.transpose(0, 2, 1))[:, one, other]


def fisher_z(correlations: np.ndarray) -> np.ndarray:
    """Return Fisher's z of correlations (Metron 1:3, 1921)."""
    return np.arctanh(np.clip(correlations, -MAX_CORRELATION, MAX_CORRELATION))


def error(first: np.ndarray, second: np.ndarray) -> float:
    """Return the absolute difference of the mean `correlations` of two sets, as a mean over pairs
    of leads.

    Correlations are averaged as `fisher_z`, since many are near 1 and -1.
    """
    mean, other = (np.tanh(fisher_z(found).mean(axis=0)) for found in (first, second))
    return float(np.abs(mean - other).mean())


def spread(first: np.ndarray, second: np.ndarray) -> float:
    """Return the standard deviation of `correlations` over the records of `second`, as a mean over
    pairs of leads, relative to that of `first`; below 1 if the patients of `second` are too alike.

    `w1` also grows with this, but not only: a shifted distribution has a large `w1` too.
    `fisher_z` gives pairs with correlations near 1 the same weight as others.
    """
    real, other = (fisher_z(found).std(axis=0).mean() for found in (first, second))
    return float(other / real)


def limb_residuals(records: RecordSet) -> pd.Series:
    """Return `leads.limb_residual` of the records from files with all limb leads, `[any number]`,
    with their rhythms as the index.

    Record sets have only the eight independent leads, so preparation writes the residual to
    limb_leads.csv.
    """
    file = records.folder / LIMB_LEADS
    if not file.exists():
        return pd.Series(dtype=float)
    table = stored_csv(
        file, ["id", "residual"], dtype={"id": str, "residual": float}, keep_default_na=False
    )
    rhythms = records.records.set_index("id")["rhythm"]
    found = table[table["id"].isin(set(rhythms.index))]
    return pd.Series(found["residual"].to_numpy(float), index=found["id"].map(rhythms).to_numpy())


def w1(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Wasserstein distance of the distributions of `correlations` over records, as a
    mean over pairs of leads.

    Unlike `error`, it also detects too little variation between records.
    """
    return float(
        np.mean(
            [wasserstein_distance(one, other) for one, other in zip(first.T, second.T, strict=True)]
        )
    )
