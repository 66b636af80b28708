"""Comparisons of two conditions on the same test records: the primary one of a claim on a dataset,
which validation records choose, and all of them as a family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecgforge.analysis import intervals, power, statistics
from ecgforge.params import Study
from ecgforge.study import predictions

FEWEST = 30  # test patients: with fewer, nothing is decided; our choice
RARE = 0.1  # a rhythm with a smaller share of the test records is rare; our choice

Finding = Literal["helps enough", "helps", "does not help enough", "hurts", "undecided"]
Choice = Literal["largest", "smallest"]
NAMES = ("dataset", "first", "second", "metric")
PRIMARY_COLUMNS = (
    *(*NAMES, "chosen", "finding", "estimate", "low", "high", "smallest_gain"),
    *("p", "p_holm"),
)
LIMITS = ("low", "high", "band_low", "band_high", "p", "p_adjusted")
POINT_COLUMNS = (*NAMES, "estimate", *LIMITS)
# keys of predictions
CONDITION_KEYS = ("setting", "generator", "backbone", "sweep", "point", "augmented")
Condition = dict[str, Any]  # a value for each of these
Pair = tuple[str, Condition, Condition]  # dataset, condition, condition that is claimed better
# predictions of all seeds, by dataset and `CONDITION_KEYS`
ByCondition = Mapping[tuple[Any, ...], pd.DataFrame]
# macro-F1 on validation records, by dataset and `CONDITION_KEYS`: rows of fold, seed, validation_f1
Validation = Mapping[tuple[Any, ...], pd.DataFrame]


@dataclass(frozen=True)
class Evidence:
    """What verdicts follow from.

    Attributes:
        conditions: see `by_condition`.
        validation: see `validation`.
        patients: of each whole dataset, by dataset; without, all are tested on.
    """

    conditions: ByCondition
    validation: Validation
    patients: Mapping[str, int] = field(default_factory=dict)


def finding(low: float, high: float, smallest_gain: float) -> Finding:
    """Return what the interval of a gain shows. Limits of NaN show nothing."""
    if low > smallest_gain:
        return "helps enough"
    if high < 0:
        return "hurts"
    if high < smallest_gain:
        return "does not help enough"
    return "helps" if low > 0 else "undecided"


def by_condition(found: pd.DataFrame) -> ByCondition:
    """Return the predictions of each condition by its `key`."""
    return dict(iter(found.groupby(["dataset", *CONDITION_KEYS], sort=False)))


def validation(runs: pd.DataFrame) -> Validation:
    """Return macro-F1 on validation records by `key`.

    Args:
        runs: rows of `predictions.RUN_COLUMNS`.
    """
    return dict(iter(runs.groupby(["dataset", *CONDITION_KEYS], sort=False)))


def key(dataset: str, condition: Condition) -> tuple[Any, ...]:
    """Return the dataset and the values of a condition's keys."""
    return dataset, *(condition[name] for name in CONDITION_KEYS)


def condition_name(condition: Condition) -> str:
    """Return a condition in words."""
    keys = ("setting", "generator", "backbone", "sweep", "point")
    named = [condition[key] for key in keys if condition[key]]
    return " ".join([*named, *(["augmented"] if condition["augmented"] else [])])


@dataclass(frozen=True)
class Primary:
    """The primary comparison of a claim on a dataset.

    Attributes:
        dataset: its key.
        names: the two conditions in words; those that most rounds chose.
        chosen: how many of the rounds, or seeds, have them; empty where there was nothing to
            choose.
        before: the predictions of the first condition.
        after: the predictions of the condition that is claimed better, of the same records.
        rhythms: in class order.
    """

    dataset: str
    names: tuple[str, str]
    chosen: str
    before: intervals.Stacked
    after: intervals.Stacked
    rhythms: list[str]


def primary(
    evidence: Evidence, pairs: Sequence[Pair], choice: Choice, rare: bool
) -> Primary | None:
    """Return the primary comparison among pairs of conditions on one dataset.

    Validation records choose the pair by its gain in macro-F1, separately for each round of
    cross-fitting. The test records of all rounds are then compared together. Neither the test
    records of a round nor its trainings take part in its choice: the best of many points would
    otherwise be the one with the luckiest trainings. So a round's pair is chosen by the other
    rounds, except for the one that validates on the test records of this round. Without rounds, the
    pair of each seed is chosen by the other seeds; a single seed chooses for itself.
    `benchmarks/choice.py` has the false alarms of other choices.

    Args:
        pairs: all on the same dataset.
        choice: the pair with the `largest` or with the `smallest` gain.
        rare: whether only records of rare rhythms are compared, see `RARE`.

    Returns:
        None if no test record has a rare rhythm.
    """
    dataset, sign = pairs[0][0], 1 if choice == "largest" else -1
    before, after, chosen = [], [], []
    for fold, seed in _choices(evidence.conditions, pairs):
        gains = [sign * _validation_gain(evidence, pair, fold, seed) for pair in pairs]
        known = [(gain, -place) for place, gain in enumerate(gains) if not np.isnan(gain)]
        worse, better = pairs[-max(known)[1] if known else 0][1:]
        chosen.append((condition_name(worse), condition_name(better)))
        before.append(_tested(evidence, dataset, worse, fold, seed))
        after.append(_tested(evidence, dataset, better, fold, seed))
    tables = [_whole(before), _whole(after)]
    if rare:
        few = _rare(tables[0])
        tables = [table[table["truth"].isin(few)] for table in tables]
        if not few:
            return None
    names = max(chosen, key=chosen.count)
    share = f"{chosen.count(names)} of {len(chosen)}" if len(pairs) > 1 else ""
    first, second = (intervals.stacked(table) for table in tables)
    return Primary(dataset, names, share, first, second, predictions.rhythms(tables[0]))


def _choices(conditions: ByCondition, pairs: Sequence[Pair]) -> Iterator[tuple[int, int | None]]:
    """Yield each round that chooses a pair, or each seed where there are no rounds."""
    tables = [conditions[key(pair[0], condition)] for pair in pairs for condition in pair[1:]]
    folds = sorted(tables[0]["fold"].unique())
    if folds == [0] and len(pairs) > 1:
        yield from ((0, seed) for seed in range(min(one["seed"].nunique() for one in tables)))
    else:
        yield from ((fold, None) for fold in folds)


def _validation_gain(evidence: Evidence, pair: Pair, fold: int, seed: int | None) -> float:
    """Return the gain on validation records for the choice of a round, or of a seed."""
    means = []
    for condition in pair[1:]:
        runs = evidence.validation.get(key(pair[0], condition))
        if runs is None:
            return np.nan
        if seed is None:
            # the round before this one validates on its test records, and the last before the first
            previous = fold - 1 or runs["fold"].max()
            runs = runs[(runs["fold"] > 0) & ~runs["fold"].isin([fold, previous])]
        else:
            runs = runs[runs["fold"] == 0]
            others = runs[_places(runs["seed"]) != seed]
            runs = others if len(others) else runs
        means.append(runs["validation_f1"].mean())
    return float(means[1] - means[0])


def _tested(
    evidence: Evidence, dataset: str, condition: Condition, fold: int, seed: int | None
) -> pd.DataFrame:
    """Return the predictions of a round, or of one seed of it; seeds count from 0."""
    found = evidence.conditions[key(dataset, condition)]
    found = found[found["fold"] == fold]
    found = found.assign(seed=_places(found["seed"]))
    return found if seed is None else found[found["seed"] == seed]


def _places(seeds: pd.Series) -> pd.Series:
    """Number seeds from 0, since the seeds of two pairs may differ."""
    return seeds.rank(method="dense").astype(int) - 1


def _whole(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the rounds or seeds, with as many seeds as each round has."""
    joined = pd.concat(parts, ignore_index=True)
    seeds = joined.groupby("fold")["seed"].nunique().min()
    return joined[joined["seed"] < seeds]


def _rare(found: pd.DataFrame) -> list[str]:
    shares = found["truth"].value_counts(normalize=True)
    return [str(rhythm) for rhythm, share in shares.items() if share < RARE]


def compared(chosen: Primary, confidence: float, study: Study) -> pd.DataFrame:
    """Return the difference by each macro metric: rows of `PRIMARY_COLUMNS`; `p_holm` is NaN.

    With fewer than `FEWEST` test patients, limits and p are NaN too.

    Args:
        confidence: of each comparison.
    """
    table = intervals.differences(
        chosen.before, chosen.after, chosen.rhythms, confidence, study.resamples
    )
    if len(np.unique(chosen.before.patients)) < FEWEST:
        table = table.assign(low=np.nan, high=np.nan, p=np.nan)
    findings = [
        finding(low, high, study.smallest_gain)
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    table = table.assign(
        dataset=chosen.dataset,
        first=chosen.names[0],
        second=chosen.names[1],
        chosen=chosen.chosen,
        finding=findings,
        smallest_gain=study.smallest_gain,
        p_holm=np.nan,
    )
    return table[[*PRIMARY_COLUMNS]]


def to_decide(
    chosen: Primary,
    metric: str,
    estimate: float,
    patients: int,
    confidence: float,
    study: Study,
) -> str:
    """Return what would decide a comparison, in words, see `power.to_decide`.

    Args:
        metric: a macro metric.
        estimate: the difference.
        patients: of the whole dataset; 0 if unknown.
        confidence: of the interval.
    """
    tested = len(np.unique(chosen.before.patients))
    if tested < FEWEST:
        return f"To decide it: at least {FEWEST} test patients."
    parts = statistics.variance_parts(
        chosen.before.truth,
        chosen.before.probabilities,
        chosen.after.probabilities,
        chosen.before.patients,
        chosen.rhythms,
        resamples=study.resamples,
        seed=0,
        metric=metric,
        rounds=chosen.before.rounds,
    )
    place = power.Place(chosen.dataset, max(1.0, patients / tested))
    return power.to_decide(parts, estimate, study.smallest_gain, confidence, place)


def points(
    conditions: ByCondition, pairs: Sequence[Pair], metric: str, rare: bool, study: Study
) -> pd.DataFrame:
    """Return all pairs as families with bands that hold together: rows of `POINT_COLUMNS`.

    A family has the same test records. A pair without others on its test records has no row.
    """
    families: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        found = conditions[key(pair[0], pair[2])]
        tested_on = (pair[0], *predictions.rhythms(found), len(np.unique(found["fold"])))
        families.setdefault(tested_on, []).append(pair)
    tables = [
        _family(conditions, family, metric, rare, study)
        for family in families.values()
        if len(family) > 1
    ]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=POINT_COLUMNS)


def _family(
    conditions: ByCondition, pairs: Sequence[Pair], metric: str, rare: bool, study: Study
) -> pd.DataFrame:
    dataset = pairs[0][0]
    tables = {
        key(dataset, condition): conditions[key(dataset, condition)]
        for pair in pairs
        for condition in pair[1:]
    }
    rhythms = predictions.rhythms(next(iter(tables.values())))
    if rare:
        few = _rare(next(iter(tables.values())))
        tables = {name: table[table["truth"].isin(few)] for name, table in tables.items()}
        if not few:
            return pd.DataFrame(columns=POINT_COLUMNS)
    stacks, places = [intervals.stacked(table) for table in tables.values()], list(tables)
    table = statistics.simultaneous(
        stacks[0].truth,
        [one.probabilities for one in stacks],
        [
            (places.index(key(dataset, first)), places.index(key(dataset, second)))
            for _, first, second in pairs
        ],
        stacks[0].patients,
        rhythms,
        confidence=study.confidence,
        resamples=study.resamples,
        seed=0,
        metric=metric,
        rounds=stacks[0].rounds,
    ).assign(
        dataset=dataset,
        first=[condition_name(first) for _, first, _ in pairs],
        second=[condition_name(second) for _, _, second in pairs],
        metric=metric,
    )
    if len(np.unique(stacks[0].patients)) < FEWEST:
        table.loc[:, list(LIMITS)] = np.nan
    return table[[*POINT_COLUMNS]]
