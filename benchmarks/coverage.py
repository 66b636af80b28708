"""Measure how often the intervals of a cross-fitted study hold the truth.

python benchmarks/coverage.py [--studies 200] [--folds 5] [--metric f1]
python benchmarks/coverage.py --family [--studies 200] [--folds 5]

Each study draws records of five rhythms, of which the rarest has 10 records. It deals them into
groups. In each round, one group is tested on, one validates, and classifiers are trained on the
rest. The truth is the mean over many fresh training sets of the same size, on large test sets;
counts are summed over one training for each round, as in the study. Average precision depends on
the number of test records, so its truth is that of test sets as large as a group. The log score is
that of the softmax of sharpened scores. The conditions:

- plain: the real records;
- again: the same as plain, so that the difference is zero;
- generated: real records, and records of rare rhythms from a generator that is fitted to them;
- linear: real records, and another classifier.

The columns: `coverage` is the share of 95 % intervals that hold the truth, and `above` the share
that lie above it. In the row of `again - plain`, these are false alarms of "helps". `error` is the
standard deviation of the estimates, and `half_width` is the mean over studies. The columns that
begin with `naive` take all records for one round.

With --family, 20 and 60 differences from plain are judged together, and all of them are zero.
`false_alarms` is the share of studies with at least one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from ecgforge.analysis import statistics
from ecgforge.study import metrics

RHYTHMS = ("SR", "SB", "AFIB", "AFLT", "SVT")
CONDITIONS = ("plain", "again", "generated", "linear")
# a condition, and the one that is subtracted
QUANTITIES = (
    ("plain", ""),
    ("linear", ""),
    ("again", "plain"),
    ("generated", "plain"),
    ("linear", "plain"),
)
FAMILIES = (20, 60)
RARE = (40, 20, 10)
SIZES = (300, 1000, 3000)
SEEDS = (2, 3)
NOT_COUNTED = (*metrics.BY_RANK, "log_score")  # no function of the confusion matrix
CHANNELS, FEATURES, RIDGE = 8, 24, 3.0
SHARPNESS = 5.0  # on the scores before the softmax
OPERATING_POINT = 0.03  # standard deviation of what a training adds to the scores of a rhythm
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


def folds_of(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the records of each rhythm into groups of nearly equal size, `[records]`."""
    order = np.lexsort((rng.random(len(labels)), labels))
    groups = np.empty(len(labels), int)
    groups[order] = np.arange(len(labels)) % folds
    return groups


def study(
    counts: np.ndarray,
    conditions: Sequence[str],
    seeds: int,
    folds: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-fit one study.

    Returns:
        Rhythms `[records]`, rounds `[records]`, scores `[conditions, seeds, records, rhythms]`.
    """
    records, labels = draw(counts, rng)
    rounds = folds_of(labels, folds, rng)
    scores = np.empty((len(conditions), seeds, len(labels), len(RHYTHMS)))
    for number in range(folds):
        test = rounds == number
        train = ~test & (rounds != (number + 1) % folds)
        for of, condition in zip(scores, conditions, strict=True):
            for one in of:
                classifier = Classifier(records[train], labels[train], condition, rng)
                one[test] = classifier.scores(records[test])
    return labels, rounds, scores


def for_metric(scores: np.ndarray, metric: str) -> np.ndarray:
    return softmax(SHARPNESS * scores, axis=-1) if metric == "log_score" else scores


def truths(records: int, folds: int, metric: str, studies: int = 150) -> dict[str, float]:
    """Return the expected macro metric of each condition, over one training in each round."""
    rng = np.random.default_rng(records)
    counts, classes = class_counts(records), len(RHYTHMS)
    tested, repeats = np.array([1500, 1000, 500, 500, 500]), 1
    if metric == "average_precision":
        tested, repeats = np.maximum(1, counts // folds), 20
    column, counted = metrics.ALL_MACRO.index(metric), metric not in NOT_COUNTED
    cell = np.arange(classes**2)
    found = {}
    for condition in ("plain", "generated", "linear"):
        values = []
        for _ in range(studies):
            cells = np.zeros(classes**2)
            for _ in range(folds):
                size = np.floor(counts * (folds - 2) / folds + rng.random(classes)).astype(int)
                classifier = Classifier(*draw(size, rng), condition, rng)
                for _ in range(repeats):
                    test, labels = draw(tested, rng)
                    scores = for_metric(classifier.scores(test), metric)
                    weights = (counts / tested)[labels]
                    cell_of = labels * classes + scores.argmax(axis=1)
                    cells += np.bincount(cell_of, weights, classes**2)
                    if not counted:
                        one = metrics.weighted_metrics(labels, scores, weights[None])
                        values.append(one[0, column])
            if counted:
                one = metrics.weighted_metrics(
                    cell // classes, np.eye(classes)[cell % classes], cells[None], auroc=False
                )
                values.append(one[0, column])
        found[condition] = float(np.mean(values))
    return found | {"again": found["plain"]}


def judged(
    labels: np.ndarray, scores: np.ndarray, rounds: np.ndarray | None, metric: str, seed: int
) -> np.ndarray:
    """Return estimate, low and high of `QUANTITIES`, `[quantities, 3]`."""
    patients = np.arange(len(labels))
    options: dict[str, Any] = {"confidence": 0.95, "resamples": 200, "seed": seed, "rounds": rounds}
    found = []
    for name, base in QUANTITIES:
        if not base:
            one = scores[CONDITIONS.index(name)]
            table = statistics.interval(
                labels, one, patients, RHYTHMS, **options, auroc=metric in metrics.BY_RANK
            )
            row = table[(table["rhythm"] == metrics.MACRO) & (table["metric"] == metric)]
            found.append(row[["mean", "low", "high"]].to_numpy()[0])
    # their low and high are those of statistics.difference
    pairs = [(CONDITIONS.index(base), CONDITIONS.index(name)) for name, base in QUANTITIES if base]
    table = statistics.simultaneous(
        labels, list(scores), pairs, patients, RHYTHMS, **options, metric=metric
    )
    return np.concatenate([found, table[["estimate", "low", "high"]].to_numpy()])


def coverage(studies: int, folds: int, metric: str) -> pd.DataFrame:
    rows = []
    for records in SIZES:
        truth = truths(records, folds, metric)
        wanted = np.array([truth[a] - (truth[b] if b else 0) for a, b in QUANTITIES])
        for seeds in SEEDS:
            found = []
            for number in range(studies):
                rng = np.random.default_rng([number, records, seeds])
                labels, rounds, scores = study(class_counts(records), CONDITIONS, seeds, folds, rng)
                scores = for_metric(scores, metric)
                found.append(
                    [judged(labels, scores, given, metric, number) for given in (rounds, None)]
                )
            estimate, low, high = np.moveaxis(np.array(found), 3, 0)
            holds = ((low <= wanted) & (wanted <= high)).mean(axis=0)
            wide = ((high - low) / 2).mean(axis=0)
            for k, (name, base) in enumerate(QUANTITIES):
                rows.append(
                    {
                        "n": records,
                        "seeds": seeds,
                        "quantity": f"{name} - {base}" if base else name,
                        "truth": wanted[k],
                        "coverage": holds[0, k],
                        "above": (low[:, 0, k] > wanted[k]).mean(),
                        "error": estimate[:, 0, k].std(),
                        "half_width": wide[0, k],
                        "naive_coverage": holds[1, k],
                        "naive_half_width": wide[1, k],
                    }
                )
    return pd.DataFrame(rows)


def family(studies: int, folds: int) -> pd.DataFrame:
    """Judge families of differences that are all zero, with 300 records."""
    rows = []
    for seeds in SEEDS:
        found = []
        for number in range(studies):
            rng = np.random.default_rng([number, seeds])
            labels, rounds, scores = study(
                class_counts(SIZES[0]), ["plain"] * (1 + max(FAMILIES)), seeds, folds, rng
            )
            for count in FAMILIES:
                table = statistics.simultaneous(
                    labels,
                    list(scores[: count + 1]),
                    [(0, arm) for arm in range(1, count + 1)],
                    np.arange(len(labels)),
                    RHYTHMS,
                    confidence=0.95,
                    resamples=1000,
                    seed=number,
                    rounds=rounds,
                )
                half = (table["band_high"] - table["band_low"]) / 2
                plain = (table["high"] - table["low"]) / 2
                strict = statistics.simultaneous(
                    labels,
                    list(scores[:2]),
                    [(0, 1)],
                    np.arange(len(labels)),
                    RHYTHMS,
                    confidence=1 - 0.05 / count,
                    resamples=1000,
                    seed=number,
                    rounds=rounds,
                )
                bonferroni = (strict["high"] - strict["low"])[0] / 2
                found.append(
                    {
                        "seeds": seeds,
                        "differences": count,
                        "false_alarms": (table["p_adjusted"] <= 0.05).any(),
                        "outside_band": (table["band_low"] > 0).any()
                        or (table["band_high"] < 0).any(),
                        "uncorrected": (table["p"] <= 0.05).any(),
                        "half_width": plain[0],
                        "band": half[0],
                        "bonferroni": bonferroni,
                    }
                )
        rows.append(pd.DataFrame(found).groupby(["seeds", "differences"], as_index=False).mean())
    return pd.concat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Coverage of the intervals of cross-fitted studies"
    )
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--metric", default="f1", choices=metrics.ALL_MACRO)
    parser.add_argument("--family", action="store_true")
    given = parser.parse_args()
    start = time.perf_counter()
    table = (
        family(given.studies, given.folds)
        if given.family
        else coverage(given.studies, given.folds, given.metric)
    )
    print(table.round(3).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
