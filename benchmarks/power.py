"""Compare the power that `analysis.power` predicts with the power that is found.

python benchmarks/power.py [--studies 200]

Each study has five rhythms, of which the rarest has 10 records, and three seeds. Classifiers are
simulated: a record is recognised if a normal random number is below a limit. Parts of this number
are the record's, the setting's and the training's. The limit of a rhythm is that of its recall. A
training moves the limits of all rhythms. The second setting has higher limits, for a true gain in
macro-F1. This is another model than that of `analysis.power`, which knows only four numbers: the
recall, the shares of records that are predicted differently, and what a training shifts. They are
measured on large test sets.

With one round, a tenth of the records is tested on; with five rounds, all are. `found` is the share
of studies whose interval lies above 0.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from scipy.stats import norm

from ecgforge.analysis import power, statistics
from ecgforge.study import metrics

RHYTHMS = ("SR", "SB", "AFIB", "AFLT", "SVT")
RARE = (40, 20, 10)
SIZES = (300, 1000, 3000)
# true gains by the number of rounds; few studies with one round see a small one
GAINS = {1: (0.02, 0.05, 0.1, 0.2, 0.3), 5: (0.02, 0.05, 0.1)}
SEEDS = 3
RECALL = 0.6
# variances of the parts of the number that decides whether a record is recognised; 1 in all
OF_RECORD, OF_SETTING, OF_TRAINING = 0.75, 0.1, 0.15
MOVES = 0.06  # standard deviation of what a training adds to all limits
LARGE = 40000
F1 = metrics.OVERALL.index("f1")


def class_counts(records: int, rounds: int) -> np.ndarray:
    """Return the test records of each rhythm, of all rounds."""
    common = records - sum(RARE)
    counts = np.array([int(0.65 * common), common - int(0.65 * common), *RARE])
    return counts if rounds > 1 else np.ceil(counts / 10).astype(int)


def wrong_chances(frequency: np.ndarray) -> np.ndarray:
    """Return the chance of each wrong prediction for a record of each rhythm,
    `[rhythms, rhythms]`.
    """
    others = np.tile(frequency, (len(RHYTHMS), 1)) * (1 - np.eye(len(RHYTHMS)))
    return others / others.sum(axis=1, keepdims=True)


def predictions(
    labels: np.ndarray,
    rounds: np.ndarray,
    limits: tuple[float, float],
    frequency: np.ndarray,
    rng: np.random.Generator,
    seeds: int = SEEDS,
) -> np.ndarray:
    """Return predicted rhythms of two settings, `[2, seeds, records]`.

    Args:
        labels: `[records]`, the true rhythms.
        rounds: `[records]`, from 0.
        limits: of each setting.
        frequency: `[rhythms]`; wrong predictions are frequent rhythms more often.
        seeds: trainings in each round.
    """
    records = len(labels)

    def mixed() -> np.ndarray:
        parts = (
            (OF_RECORD, (1, 1)),
            (OF_SETTING, (2, 1)),
            (OF_TRAINING, (2, seeds)),
        )
        return sum(np.sqrt(part) * rng.normal(size=(*shape, records)) for part, shape in parts)

    moved = MOVES * rng.normal(size=(2, seeds, rounds.max() + 1))[..., rounds]
    right = mixed() < np.array(limits)[:, None, None] + moved
    steps = np.cumsum(wrong_chances(frequency), axis=1)
    wrong = (norm.cdf(mixed())[..., None] > steps[labels]).sum(axis=-1)
    return np.where(right, labels, np.minimum(wrong, len(RHYTHMS) - 1))


def macro_f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    one_hot = np.eye(len(RHYTHMS))[predicted]
    return float(metrics.weighted_metrics(labels, one_hot, weights[None], auroc=False)[0, F1])


def assumed(counts: np.ndarray) -> power.Assumptions:
    """Measure the assumptions of the simulated classifiers on a large test set."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(RHYTHMS)), LARGE // len(RHYTHMS))
    weights = (counts / counts.sum() * len(RHYTHMS))[labels]
    limits = (norm.ppf(RECALL), norm.ppf(RECALL))
    one_round = np.zeros(len(labels), int)
    found = predictions(labels, one_round, limits, counts, rng, 20)
    scores = [macro_f1(labels, one, weights) for one in found[0]]

    def differ(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.average(first != second, weights=weights))

    return power.Assumptions(
        RECALL, differ(*found[0, :2]), differ(found[0, 0], found[1, 0]), float(np.std(scores))
    )


def limits_of(gain: float, counts: np.ndarray) -> tuple[float, float]:
    """Return the limits of both settings for a true gain in macro-F1 on large test sets.

    If wrong predictions follow the frequencies of the rhythms, a gain in the recall of all rhythms
    is about the same gain in F1.
    """
    weights = counts / counts.sum()

    def expected(recall: float) -> float:
        chances = recall * np.eye(len(RHYTHMS)) + (1 - recall) * wrong_chances(counts)
        chances *= weights[:, None]
        return float(np.mean(2 * np.diag(chances) / (chances.sum(axis=0) + weights)))

    recalls = np.linspace(RECALL, 0.99, 1000)
    gains = np.array([expected(recall) for recall in recalls]) - expected(RECALL)
    return norm.ppf(RECALL), norm.ppf(np.interp(gain, gains, recalls))


def found_power(
    counts: np.ndarray, rounds: int, gain: float, studies: int
) -> tuple[float, float, float]:
    """Return the share of intervals above 0, the mean of the estimates, and their deviation."""
    limits, frequency = limits_of(gain, counts), counts
    labels = np.repeat(np.arange(len(RHYTHMS)), counts)
    folds = np.arange(len(labels)) % rounds
    above, estimates = [], []
    for number in range(studies):
        rng = np.random.default_rng([number, len(labels), rounds])
        first, second = np.eye(len(RHYTHMS))[predictions(labels, folds, limits, frequency, rng)]
        table = statistics.difference(
            labels,
            first,
            second,
            np.arange(len(labels)),
            RHYTHMS,
            confidence=0.95,
            resamples=200,
            seed=number,
            auroc=False,
            rounds=folds if rounds > 1 else None,
        )
        (row,) = table[(table["rhythm"] == "macro") & (table["metric"] == "f1")].to_dict("records")
        above.append(row["low"] > 0)
        estimates.append(row["estimate"])
    return float(np.mean(above)), float(np.mean(estimates)), float(np.std(estimates))


def compare(studies: int) -> pd.DataFrame:
    rows = []
    for records in SIZES:
        for rounds, gains in GAINS.items():
            counts = class_counts(records, rounds)
            design = power.Design(
                dict(zip(RHYTHMS, counts.tolist(), strict=True)), (SEEDS, SEEDS), rounds
            )
            expected = power.foreseen(design, assumed(counts))
            for gain in gains:
                found, mean, error = found_power(counts, rounds, gain, studies)
                rows.append(
                    {
                        "n": records,
                        "rounds": rounds,
                        "gain": gain,
                        "predicted": expected.power(gain, 0.95),
                        "found": found,
                        "mean": mean,
                        "predicted_error": expected.error,
                        "error": error,
                        "detectable": expected.detectable_gain(0.95),
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and found power")
    parser.add_argument("--studies", type=int, default=200)
    start = time.perf_counter()
    print(compare(parser.parse_args().studies).round(3).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
