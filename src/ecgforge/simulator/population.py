"""The simulated population: rate, QRS duration, QT, axes, age and sex of patients by rhythm.

The quantiles and correlations in this package are those of the 10,646 patients of Chapman-Shaoxing
(Zheng et al. 2020, Sci Data 7:48). The marginal distributions follow the quantiles; a Gaussian
copula adds the correlations (Nelsen 2006, An Introduction to Copulas).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from statistics import NormalDist

import numpy as np
import pandas as pd

CORRELATED = ("rate", "qrs", "qt", "r_axis", "age")
_QUANTILES = {
    "q01": 0.01,
    "q05": 0.05,
    "q25": 0.25,
    "q50": 0.5,
    "q75": 0.75,
    "q95": 0.95,
    "q99": 0.99,
}
SHARES = tuple(_QUANTILES.values())
_SCORES = np.array([NormalDist().inv_cdf(share) for share in SHARES])
_MALE = {"SR": 0.44, "SB": 0.64, "ST": 0.51, "SA": 0.56, "AFIB": 0.59, "AFLT": 0.58, "SVT": 0.48}
_WIDE_QRS = 115  # ms; a wider QRS means a bundle branch block or a diffuse delay
_BLOCKS = ("rbbb", "lbbb", "normal")
_BLOCK_SHARES = (0.5, 0.3, 0.2)
# largest share of QT in the RR interval; above it, the next beat would fall into the T wave
_FILLED = 0.95
_SHORTEST_JT = 110  # ms


def draw(
    rhythms: np.ndarray,
    rng: np.random.Generator,
    rates: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Draw a patient for each of `rhythms`, an array of names of the rhythm vocabulary.

    Args:
        rhythms: `[patients]`.
        rng: random generator.
        rates: the `SHARES` quantiles of the rate by rhythm, where not those of `quantiles`.

    Returns:
        A row per patient: `rhythm`; `rate` (ventricular, beats/min); `qrs`, `qt` (ms); `r_axis`,
            `t_axis` (degrees in the frontal plane); `age` (whole years); `sex` (male, female);
            `conduction` (normal, rbbb, lbbb).

    Raises:
        KeyError: a rhythm has no measurements.
    """
    rhythms, own = np.asarray(rhythms), rates or {}
    scores = rng.standard_normal((len(rhythms), len(CORRELATED) + 1))
    table = pd.DataFrame(
        {"rhythm": rhythms, **{name: np.zeros(len(rhythms)) for name in (*CORRELATED, "t_axis")}}
    )
    for rhythm in np.unique(rhythms):
        rows = np.flatnonzero(rhythms == rhythm)
        latent = scores[rows]
        latent[:, :-1] @= np.linalg.cholesky(correlations(rhythm)).T
        for column, name in enumerate((*CORRELATED, "t_axis")):
            known = own[rhythm] if name == "rate" and rhythm in own else quantiles(rhythm, name)
            table.loc[rows, name] = np.interp(latent[:, column], _SCORES, known)
    # The measured rates are integers; a uniform random number makes them continuous.
    table["rate"] += rng.uniform(-0.5, 0.5, len(table))
    table["qt"] = np.minimum(table["qt"], _FILLED * 60_000 / table["rate"])
    table["qrs"] = np.minimum(table["qrs"], table["qt"] - _SHORTEST_JT)
    table["age"] = table["age"].round()
    table["sex"] = np.where(rng.random(len(table)) < table["rhythm"].map(_MALE), "male", "female")
    block = rng.choice(_BLOCKS, len(table), p=_BLOCK_SHARES)
    table["conduction"] = np.where(table["qrs"] >= _WIDE_QRS, block, "normal")
    return table


def quantiles(rhythm: str, quantity: str) -> np.ndarray:
    """Return the measured 1, 5, 25, 50, 75, 95 and 99 % quantiles of a quantity in a rhythm."""
    return (
        _table("population_quantiles.csv", ("rhythm", "quantity"))
        .loc[(rhythm, quantity), list(_QUANTILES)]
        .to_numpy(float)
    )


def correlations(rhythm: str) -> np.ndarray:
    """Return the measured correlations among `CORRELATED` in a rhythm, `[5, 5]`."""
    pairs = _table("population_correlations.csv", ("rhythm", "a", "b")).loc[rhythm, "r"]
    matrix = np.eye(len(CORRELATED))
    for (a, b), r in pairs.items():
        i, j = CORRELATED.index(a), CORRELATED.index(b)
        matrix[i, j] = matrix[j, i] = r
    return matrix


@cache
def _table(name: str, index: tuple[str, ...]) -> pd.DataFrame:
    with resources.files(__package__).joinpath(name).open() as file:
        return pd.read_csv(file, float_precision="round_trip").set_index(list(index)).sort_index()  # noqa: TID251
