"""Verdicts on claims by fixed rules: supported, contradicted, undecided or not tested.

A claim has a list of comparisons. Each is the difference of two conditions on the same test
records, see `statistics.difference`, and has a finding, see `finding`. All intervals of a claim
hold together at the study's confidence: each has the confidence 1 - (1 - confidence) / comparisons
(Bonferroni). A claim that needs all comparisons is not tested if one of them did not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecgforge.analysis import intervals, statistics
from ecgforge.params import Study
from ecgforge.study import predictions
from ecgforge.study.metrics import MACRO

FEWEST = 30  # test patients: with fewer, no claim is decided; our choice
F1 = ("f1",)

Word = Literal["supported", "contradicted", "undecided", "not tested"]
Finding = Literal["helps enough", "helps", "does not help enough", "hurts", "undecided"]
COLUMNS = ("dataset", "first", "second", "metric", "finding", "estimate", "low", "high", "p")
# keys of predictions
CONDITION_KEYS = ("setting", "generator", "backbone", "sweep", "point", "augmented")
Condition = dict[str, Any]  # a value for each of these
Pair = tuple[str, Condition, Condition]  # dataset, condition, condition that is claimed better
# predictions of all seeds, by dataset and `CONDITION_KEYS`
ByCondition = dict[tuple[Any, ...], pd.DataFrame]
# takes rows with finding, low and high; returns whether they support and contradict a claim
Rule = Callable[[pd.DataFrame], tuple[bool, bool]]


@dataclass(frozen=True)
class Claim:
    """A sentence that can be false, with the comparisons that decide it.

    Attributes:
        text: the sentence.
        paper: whether it is a claim of the paper, or else an open question.
        pairs: the comparisons: dataset, condition, condition that is claimed better.
        rule: decides the verdict from the comparisons.
        metrics: the compared metrics.
    """

    text: str
    paper: bool
    pairs: list[Pair]
    rule: Rule
    metrics: tuple[str, ...] = F1


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: the claim.
        word: the verdict.
        comparisons: rows of `COLUMNS`, with `first` and `second` in words. With fewer than
            `FEWEST` test patients the limits are NaN, so that no rule decides.
    """

    claim: Claim
    word: Word
    comparisons: pd.DataFrame = field(repr=False)


def finding(low: float, high: float, smallest_gain: float) -> Finding:
    """Return what the interval of a gain shows. Limits of NaN show nothing."""
    if low > smallest_gain:
        return "helps enough"
    if high < 0:
        return "hurts"
    if high < smallest_gain:
        return "does not help enough"
    return "helps" if low > 0 else "undecided"


def judge(found: pd.DataFrame, claims: Iterable[Claim], study: Study) -> list[Verdict]:
    """Return the verdicts on claims from the predictions of all runs.

    A claim is not tested if none of its comparisons ran, or if its rule needs one that did not.
    """
    conditions = by_condition(found)
    return [_judged(conditions, claim, study) for claim in claims]


def by_condition(found: pd.DataFrame) -> ByCondition:
    """Return the predictions of each condition by its `key`."""
    return dict(iter(found.groupby(["dataset", *CONDITION_KEYS], sort=False)))


def key(dataset: str, condition: Condition) -> tuple[Any, ...]:
    """Return the dataset and the values of a condition's keys."""
    return dataset, *(condition[name] for name in CONDITION_KEYS)


def _judged(conditions: ByCondition, claim: Claim, study: Study) -> Verdict:
    pairs = [
        pair
        for pair in claim.pairs
        if {key(pair[0], condition) for condition in pair[1:]} <= conditions.keys()
    ]
    if not pairs or (claim.rule in NEED_ALL and len(pairs) < len(claim.pairs)):
        return Verdict(claim, "not tested", pd.DataFrame(columns=COLUMNS))
    together = 1 - (1 - study.confidence) / (len(pairs) * len(claim.metrics))
    tables = [
        _compared(conditions, pair, claim.metrics, together, study.resamples) for pair in pairs
    ]
    comparisons = pd.concat(tables, ignore_index=True)
    findings = [
        finding(row["low"], row["high"], study.smallest_gain)
        for row in comparisons.to_dict("records")
    ]
    comparisons = comparisons.assign(finding=findings)[[*COLUMNS]]
    supports, contradicts = claim.rule(comparisons)
    return Verdict(
        claim,
        "supported" if supports else "contradicted" if contradicts else "undecided",
        comparisons,
    )


def _compared(
    conditions: ByCondition,
    pair: Pair,
    metrics: tuple[str, ...],
    confidence: float,
    resamples: int,
) -> pd.DataFrame:
    dataset, first, second = pair
    rows = [conditions[key(dataset, condition)] for condition in (first, second)]
    before, after = (intervals.stacked(of_condition) for of_condition in rows)
    rhythms, auroc = predictions.rhythms(rows[0]), "auroc" in metrics
    table = statistics.difference(
        before.truth,
        before.probabilities,
        after.probabilities,
        before.patients,
        rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
        auroc=auroc,
        rounds=before.rounds,
    )
    table = table[(table["rhythm"] == MACRO) & table["metric"].isin(metrics)].drop(columns="rhythm")
    if len(np.unique(before.patients)) < FEWEST:
        table = table.assign(low=np.nan, high=np.nan)
    return table.assign(dataset=dataset, first=_words(first), second=_words(second))


def _words(condition: Condition) -> str:
    named = [
        condition[name]
        for name in ("generator", "backbone", "sweep", "point")
        if condition.get(name)
    ]
    return " ".join(
        [condition["setting"], *named, *(["augmented"] if condition["augmented"] else [])]
    )


GAIN, NO_GAIN = ("helps enough", "helps"), ("does not help enough", "hurts")


def any_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported by a gain that can be large enough; contradicted if no gain can."""
    return bool(rows["finding"].isin(GAIN).any()), bool(rows["finding"].isin(NO_GAIN).all())


def no_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported if no gain can be large enough; contradicted by a gain that is."""
    enough = rows["finding"] == "helps enough"
    return bool(rows["finding"].isin(NO_GAIN).all()), bool(enough.any())


def always_better(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported if all comparisons are better, by however little; contradicted if one is worse."""
    return bool((rows["low"] > 0).all()), bool((rows["high"] < 0).any())


def always_worse(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported if all comparisons are worse, by however little; contradicted if one is better."""
    return bool((rows["high"] < 0).all()), bool((rows["low"] > 0).any())


# rules that need all comparisons of a claim: the best of two is not the best of three
NEED_ALL = (always_better, always_worse)


def some_condition_gains_everywhere(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported by a condition that gains by every metric; contradicted if every condition has a
    metric without a gain that can be large enough.
    """
    condition = [rows["dataset"], rows["second"]]
    gains = rows["finding"].isin(GAIN).groupby(condition).all()
    fails = rows["finding"].isin(NO_GAIN).groupby(condition).any()
    return bool(gains.any()), bool(fails.all())
