"""Measure how often the interval of a rank correlation of scores with gains holds the truth.

python benchmarks/score_utility.py [--studies 200]

Each study has some datasets, and three generators on each. A generator has a quality that is the
same on all datasets. Score and gain are the quality times a slope, plus a part of the dataset, plus
noise. The truth is the rank correlation over 400 datasets with the same generators. The columns are
the share of 95 % intervals that hold the truth, and half their mean width: of
`analysis.score_utility`, and of a bootstrap over datasets with percentiles.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from ecgforge.analysis.score_utility import correlation

GENERATORS, NOISE, MANY = 3, 0.5, 400
# slope of the gain on the quality, and the spread of the parts of a dataset
TRUTHS = ((0, 0.0), (0, 0.7), (1, 0.0), (1, 0.7))
DATASETS = (3, 6, 10)
RESAMPLES = 200


def study(
    quality: np.ndarray, datasets: int, slope: float, spread: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Return rows of dataset, fold, score, gain."""
    shape = (datasets, len(quality))

    def values(factor: float) -> np.ndarray:
        own = spread * rng.normal(size=(datasets, 1))
        return (factor * quality + own + NOISE * rng.normal(size=shape)).ravel()

    names = np.repeat(np.arange(datasets), len(quality))
    return pd.DataFrame({"dataset": names, "fold": 0, "score": values(1), "gain": values(slope)})


def bootstrap(sets: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Return percentiles of a bootstrap over datasets."""
    parts = np.array([part[["score", "gain"]].to_numpy() for _, part in sets.groupby("dataset")])
    drawn = rng.integers(len(parts), size=(RESAMPLES, len(parts)))
    draws = [
        pd.DataFrame(parts[rows].reshape(-1, 2)).corr(method="spearman").iloc[0, 1]
        for rows in drawn
    ]
    return np.nanquantile(draws, [0.025, 0.975])


def coverage(datasets: int, slope: float, spread: float, studies: int) -> dict[str, float]:
    held, width = np.zeros(2), np.zeros(2)
    for number in range(studies):
        rng = np.random.default_rng([number, datasets])
        quality = rng.normal(size=GENERATORS)
        many = study(quality, MANY, slope, spread, rng)
        truth = many["score"].corr(many["gain"], method="spearman")
        sets = study(quality, datasets, slope, spread, rng)
        found = correlation(sets, 0.95)
        for place, (low, high) in enumerate([(found["low"], found["high"]), bootstrap(sets, rng)]):
            held[place] += low <= truth <= high
            width[place] += (high - low) / 2
    row = {"datasets": datasets, "slope": slope, "spread": spread}
    for place, name in enumerate(("jackknife", "bootstrap")):
        row |= {name: held[place] / studies, f"{name}_half_width": width[place] / studies}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals of rank correlations")
    parser.add_argument("--studies", type=int, default=200)
    given = parser.parse_args()
    rows = [
        coverage(datasets, slope, spread, given.studies)
        for datasets in DATASETS
        for slope, spread in TRUTHS
    ]
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
