"""Measure the false alarms of a claim whose point is chosen by validation records.

python benchmarks/choice.py [--studies 200] [--points 12 72]

A study has five rounds and two seeds. In each round, one group of patients is tested on, the next
one validates. All points of a sweep are as good as the baseline, so each "helps" is a false alarm.
With --gain, one point is better by about that much, and the share of "helps" is the power.

Whether a classifier recognises a record depends on the record, on the training, on the record and
the training together, and on the record and the point together. The last term is the same in all
rounds: it makes the choice look good on the records that chose.

The columns are shares of studies with "helps" or "helps enough", by what chooses the point for the
test records of a round:

- others: the validation records of the other rounds, without the one that validates on these test
  records, as in `analysis.comparisons`;
- own: the validation records of the same round; it prefers trainings that were lucky;
- test: the test records;
- fixed: nothing, it is the first point, which is the better one with --gain.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ecgforge.analysis import comparisons
from ecgforge.analysis.comparisons import Condition, Evidence, Pair
from ecgforge.params import Study
from ecgforge.study import metrics

RHYTHMS = ("SR", "SB", "AFIB", "AFLT", "SVT")
SHARES = (0.55, 0.2, 0.15, 0.06, 0.04)
DATASET, ROUNDS, SEEDS = "simulated", 5, 2
SKILL, RECORD, TRAINING, RECORD_AND_TRAINING, RECORD_AND_POINT = 1.0, 1.2, 0.15, 0.8, 0.5
CHOICES = ("others", "own", "test", "fixed")
STUDY = Study(seeds=[0, 1], synthetic_share=0.5, resamples=300)


def condition(point: int) -> Condition:
    """Return the condition of a point; 0 is the baseline."""
    keys = dict.fromkeys(comparisons.CONDITION_KEYS, "")
    return keys | {"setting": "TrRSTeR" if point else "TrRTeR", "point": str(point)}


class Simulated:
    """The predictions of one study."""

    def __init__(self, records: int, points: int, gain: float, rng: np.random.Generator):
        self.truth = rng.choice(len(RHYTHMS), records, p=SHARES)
        self.group = rng.permutation(records) % ROUNDS
        skill = SKILL + RECORD * rng.normal(size=records)
        # [points, rounds, seeds, records]: the rhythm that each training takes each record for
        shape = (points + 1, ROUNDS, SEEDS)
        off = TRAINING * rng.normal(size=shape)[..., None]
        off = off + RECORD_AND_TRAINING * rng.normal(size=(*shape, records))
        off += RECORD_AND_POINT * rng.normal(size=(points + 1, 1, 1, records))
        off[1] += gain * 6  # on the scale of the skill; about `gain` of macro-F1
        right = rng.random((*shape, records)) < 1 / (1 + np.exp(-skill - off))
        wrong = (self.truth + rng.integers(1, len(RHYTHMS), (*shape, records))) % len(RHYTHMS)
        self.taken = np.where(right, self.truth, wrong)

    def f1(self, point: int, number: int, group: int) -> float:
        """Return macro-F1 of a round's classifiers on a group, a mean over seeds."""
        rows = self.group == group
        values = []
        for taken in self.taken[point, number][:, rows]:
            one_hot = np.eye(len(RHYTHMS))[taken]
            counts = metrics.weighted_counts(self.truth[rows], one_hot, np.ones((1, rows.sum())))
            values.append(metrics.nan_mean(metrics.f1_of_counts(*counts), axis=1)[0])
        return float(np.mean(values))

    def table(self, points: Sequence[int]) -> pd.DataFrame:
        """Return the predictions of a point for each round, see `study.predictions`."""
        parts = []
        for number, point in enumerate(points):
            rows = np.flatnonzero(self.group == number)
            names = rows.astype(str)
            facts = {"id": names, "patient": names, "truth": np.array(RHYTHMS)[self.truth[rows]]}
            for seed, taken in enumerate(self.taken[point, number][:, rows]):
                columns = [f"p_{rhythm}" for rhythm in RHYTHMS]
                found = pd.DataFrame(np.eye(len(RHYTHMS))[taken], columns=columns)
                parts.append(found.assign(**facts, seed=seed, fold=number + 1))
        return pd.concat(parts, ignore_index=True)


class Conditions(dict):  # type: ignore[type-arg]
    """The predictions of each condition, made when they are needed."""

    def __init__(self, study: Simulated):
        super().__init__()
        self.study = study

    def __missing__(self, key: tuple[str, ...]) -> pd.DataFrame:
        point = int(key[1 + comparisons.CONDITION_KEYS.index("point")])
        self[key] = self.study.table([point] * ROUNDS)
        found: pd.DataFrame = self[key]
        return found


def helps(study: Simulated, points: int, choice: str) -> bool:
    """Return whether the primary comparison finds a gain."""
    pairs: list[Pair] = [(DATASET, condition(0), condition(1 + n)) for n in range(points)]
    evidence = Evidence(Conditions(study), {})
    if choice == "others":
        evidence = Evidence(evidence.conditions, validation(study, points))
    else:
        pairs = pairs[:1]
    if choice in ("own", "test"):
        offset = 1 if choice == "own" else 0
        best = [
            max(range(1, points + 1), key=lambda point: study.f1(point, n, (n + offset) % ROUNDS))
            for n in range(ROUNDS)
        ]
        evidence.conditions[comparisons.key(DATASET, condition(1))] = study.table(best)
    chosen = comparisons.primary(evidence, pairs, "largest", rare=False)
    assert chosen
    table = comparisons.compared(chosen, STUDY.confidence, STUDY).set_index("metric")
    return bool(table.loc["f1", "low"] > 0)


def validation(study: Simulated, points: int) -> comparisons.Validation:
    """Return macro-F1 on validation records."""
    runs = [
        {
            "dataset": DATASET,
            **condition(point),
            "fold": number + 1,
            "seed": 0,
            "validation_f1": study.f1(point, number, (number + 1) % ROUNDS),
        }
        for point in range(points + 1)
        for number in range(ROUNDS)
    ]
    return comparisons.validation(pd.DataFrame(runs))


def rows(studies: int, points: list[int], gain: float) -> Iterator[dict[str, object]]:
    """Yield the shares of studies that find a gain."""
    for records in (300, 1200):
        for count in points:
            found = []
            for number in range(studies):
                study = Simulated(records, count, gain, np.random.default_rng([number, records]))
                found.append([helps(study, count, choice) for choice in CHOICES])
            shares = np.mean(found, axis=0)
            named = {
                name: round(float(share), 3) for name, share in zip(CHOICES, shares, strict=True)
            }
            yield {"records": records, "points": count, **named}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--points", type=int, nargs="+", default=[12, 72])
    parser.add_argument("--gain", type=float, default=0.0)
    asked = parser.parse_args()
    started = time.perf_counter()
    for row in rows(asked.studies, asked.points, asked.gain):
        print(row, flush=True)
    print(f"{asked.studies} studies each, {time.perf_counter() - started:.0f} s")
