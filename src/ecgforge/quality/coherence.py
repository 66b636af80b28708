"""Do leads belong together?

They are views of one heart, which a generator that makes them one by one forgets.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ecgforge.files import stored_csv
from ecgforge.records.record_set import LIMB_LEADS, RecordSet

# greatest correlation whose Fisher transform is told: of a lead and its copy it is infinite
ALIKE = 1 - 1e-6


def correlations(signals: np.ndarray) -> np.ndarray:
    """Pearson correlations over time of all pairs of leads, `[records, pairs]`; 0 with a flat lead,
    which is like no other.
    """
    centred = signals - signals.mean(axis=-1, keepdims=True, dtype=float)
    size = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = centred / np.where(size > 0, size, 1)
    one, other = np.triu_indices(signals.shape[1], 1)
    return (unit @ unit.transpose(0, 2, 1))[:, one, other]


def error(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far mean `correlations` differ in two sets: the mean over pairs of leads.

    Correlations of records are averaged as Fisher's z (Fisher, Metron 1:3, 1921), since they crowd
    near 1 and -1.
    """
    ours, theirs = (
        np.tanh(np.arctanh(np.clip(found, -ALIKE, ALIKE)).mean(axis=0)) for found in (first, second)
    )
    return float(np.abs(ours - theirs).mean())


def limb_residuals(records: RecordSet) -> pd.Series:
    """Return `leads.limb_residual` of those records that were prepared from files with all limb
    leads, by rhythm, `[any number]`.

    Record sets hold eight leads, from which the others follow exactly, so only what was made with
    more than these can break Einthoven's law; `prepare` wrote down by how much.
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
    """Return how far `correlations` differ as distributions over records: their Wasserstein
    distance, mean over pairs.

    Unlike `error` it sees a set whose hearts all lie alike, though their mean is right.
    """
    return float(
        np.mean(
            [
                wasserstein_distance(ours, theirs)
                for ours, theirs in zip(first.T, second.T, strict=True)
            ]
        )
    )
