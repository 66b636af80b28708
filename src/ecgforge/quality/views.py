"""Flat pictures of embedded records: to look at, never as evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

PERPLEXITY = 30.0
STEPS = 500  # from a PCA start, a few hundred records have settled


def flatten(features: np.ndarray, seed: int) -> pd.DataFrame:
    """Project embedded records, `[records, features]`, into two dimensions by PCA and by t-SNE (van der Maaten & Hinton 2008).

    Returns:
        Columns view (`pca` or `tsne`), record (its index in `features`), x, y.
    """
    pca = PCA(n_components=min(50, *features.shape), svd_solver="full").fit_transform(features)
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(features) - 1) / 3), init="pca", max_iter=STEPS, random_state=seed).fit_transform(pca)
    tables = [
        pd.DataFrame({"view": view, "record": np.arange(len(points)), "x": points[:, 0], "y": points[:, 1]})
        for view, points in (("pca", pca), ("tsne", tsne))
    ]
    return pd.concat(tables, ignore_index=True)
