"""Measure how often the intervals of a cross-fitted study hold the truth.

python benchmarks/coverage.py [--studies 200] [--folds 5] [--metric f1] [--random-counts]

Each study draws records of five rhythms, of which the rarest has 10 records. It deals them into
groups and trains classifiers in each round. The truth is the mean over many fresh training sets of
the same size, on a large test set. Four conditions train on:

- plain: the real records;
- again: the same as plain, so that the difference is zero;
- generated: the real records, and records from a generator that was fitted to them;
- linear: the real records, with another classifier.

The columns of the tables:

- coverage: the share of intervals that hold the truth, for 95 %;
- too high: the share of intervals that lie above the truth. With no difference, it is the share of
  false "helps";
- half-width: the mean over studies; error: the standard deviation of the estimates;
- rounds ignored: coverage and half-width if all records are taken for one round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics

RHYTHMS = ("SR", "SB", "AFIB", "AFLT", "SVT")
CONDITIONS = ("plain", "again", "generated", "linear")
RARE = (40, 20, 10)
SIZES = (300, 1000, 3000)
SEEDS = (2, 3)
CHANNELS, FEATURES, RIDGE = 8, 24, 3.0
CENTRES = 0.75 * np.random.default_rng(7).normal(size=(len(RHYTHMS), CHANNELS))


def class_counts(records: int) -> np.ndarray:
    common = records - sum(RARE)
    return np.array([int(0.65 * common), common - int(0.65 * common), *RARE])


def draw(counts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return records `[records, channels]` and their rhythms `[records]`."""
    labels = np.repeat(np.arange(len(RHYTHMS)), counts)
    return CENTRES[labels] + rng.normal(size=(len(labels), CHANNELS)), labels


def generated(
    records: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Add 60 records of each rare rhythm from a Gaussian fitted to its records."""
    every, names = [records], [labels]
    for label in range(2, len(RHYTHMS)):
        own = records[labels == label]
        if len(own):
            spread = np.sqrt((own.var(axis=0) * len(own) + 5) / (len(own) + 5))
            every.append(own.mean(axis=0) + spread * rng.normal(size=(60, CHANNELS)))
            names.append(np.full(60, label))
    return np.concatenate(every), np.concatenate(names)


class Classifier:
    """Ridge regression of random features on the rhythms. A training resamples its records, and
    its operating point varies.
    """

    def __init__(
        self, records: np.ndarray, labels: np.ndarray, condition: str, rng: np.random.Generator
    ) -> None:
        if condition == "generated":
            records, labels = generated(records, labels, rng)
        count = 0 if condition == "linear" else FEATURES
        self.weights = rng.normal(size=(CHANNELS, count)) / np.sqrt(CHANNELS)
        self.shift = rng.uniform(-1, 1, count)
        times = np.bincount(rng.integers(len(labels), size=len(labels)), minlength=len(labels))
        support = np.bincount(labels, weights=times, minlength=len(RHYTHMS))
        times = times / np.sqrt(np.maximum(support, 1))[labels]
        times *= len(labels) / times.sum()
        features = self._features(records)
        weighted = features.T * times
        wanted = np.eye(len(RHYTHMS))[labels]
        penalty = RIDGE * np.eye(features.shape[1])
        self.slopes = np.linalg.solve(weighted @ features + penalty, weighted @ wanted)
        self.point = OPERATING_POINT * rng.normal(size=len(RHYTHMS))

    def _features(self, records: np.ndarray) -> np.ndarray:
        random = np.maximum(records @ self.weights + self.shift, 0)
        return np.concatenate([np.ones((len(records), 1)), records, random], axis=1)

    def scores(self, records: np.ndarray) -> np.ndarray:
        """Return scores, `[records, rhythms]`."""
        return self._features(records) @ self.slopes + self.point


OPERATING_POINT = 0.03
