"""Two-dimensional views of embedded records, for illustration only."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

PERPLEXITY = 30.0
STEPS = 500  # enough for some hundred records with a PCA start
NEIGHBOURS = 15  # of UMAP, its default


def flatten(
    features: np.ndarray, seed: int, views: tuple[str, ...] = ("pca", "tsne")
) -> pd.DataFrame:
    """Project embedded records, `[records, features]`, into two dimensions.

    Args:
        views: of `pca`, `tsne` (van der Maaten & Hinton, JMLR 9:2579, 2008) and `umap` (McInnes et
            al., arXiv 1802.03426, 2018).

    Returns:
        Columns view, record (its index in `features`), x, y.
    """
    pca = PCA(n_components=min(50, *features.shape), svd_solver="full").fit_transform(features)
    methods = {
        "pca": lambda: pca,
        "tsne": lambda: _tsne(pca, seed),
        "umap": lambda: _umap(pca, seed),
    }
    points = {view: methods[view]() for view in views}
    tables = [
        pd.DataFrame(
            {"view": view, "record": np.arange(len(flat)), "x": flat[:, 0], "y": flat[:, 1]}
        )
        for view, flat in points.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _tsne(components: np.ndarray, seed: int) -> np.ndarray:
    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", max_iter=STEPS, random_state=seed).fit_transform(
        components
    )


def _umap(components: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP  # compiles for seconds

    # Without n_jobs, UMAP warns that a seed limits it to one core.
    return UMAP(
        n_neighbors=min(NEIGHBOURS, len(components) - 1), random_state=seed, n_jobs=1
    ).fit_transform(components)
