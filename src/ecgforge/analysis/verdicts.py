"""Verdicts on claims by fixed rules: supported, contradicted, undecided or not tested.

A claim compares pairs of conditions. On each dataset, one pair is its **primary comparison**, and
the verdict follows from the primary comparisons alone. If a claim has several pairs on a dataset,
such as the points of a sweep, validation records choose the pair, see `comparisons.primary`. The
primary comparisons of a claim hold together at the study's confidence: with several datasets or
metrics, each has the confidence 1 - (1 - confidence) / comparisons (Bonferroni). They are not
corrected for other claims; p-values with such a correction (Holm) stand alongside.

All pairs are shown with bands that hold together on a dataset, see `statistics.simultaneous`. The
bands decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from ecgforge.analysis import comparisons, statistics
from ecgforge.analysis.comparisons import (
    PRIMARY_COLUMNS,
    Choice,
    Evidence,
    Pair,
    Primary,
    key,
)
from ecgforge.params import Study

F1 = ("f1",)

Word = Literal["supported", "contradicted", "undecided", "not tested"]
# takes rows with finding, low and high; returns whether they support and whether they contradict a
# claim
Rule = Callable[[pd.DataFrame], tuple[bool, bool]]


@dataclass(frozen=True)
class Claim:
    """A sentence that can be false, with the comparisons that decide it.

    Attributes:
        text: the sentence.
        paper: whether it is a claim of the paper, or else an open question.
        pairs: the comparisons: dataset, condition, condition that is claimed better.
        rule: decides the verdict from the primary comparisons.
        metrics: the compared metrics.
        choice: which pair of a dataset is its primary comparison: the one with the `largest` gain
            in macro-F1 on validation records, or with the `smallest`, for a condition that must be
            better than each of its rivals.
        rare: whether only records of rare rhythms are compared, see `comparisons.RARE`.
    """

    text: str
    paper: bool
    pairs: list[Pair]
    rule: Rule
    metrics: tuple[str, ...] = F1
    choice: Choice = "largest"
    rare: bool = False


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: the claim.
        word: the verdict.
        primary: rows of `PRIMARY_COLUMNS`, one a dataset and metric, with `first` and `second` in
            words. `chosen` says how many of the rounds, or seeds, have this pair; it is empty
            where there was nothing to choose. With fewer than `comparisons.FEWEST` test patients
            the limits are NaN, so that no rule decides.
        others: the same comparisons by the other metrics, which decide nothing.
        points: rows of `comparisons.POINT_COLUMNS`: all pairs of the datasets that have several.
        to_decide: what would decide the undecided comparisons, by dataset.
    """

    claim: Claim
    word: Word
    primary: pd.DataFrame = field(repr=False)
    others: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    points: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    to_decide: Mapping[str, str] = field(default_factory=dict)


def judge(evidence: Evidence, claims: Iterable[Claim], study: Study) -> list[Verdict]:
    """Return the verdicts on claims from the predictions of all runs.

    A claim is not tested if none of its pairs ran, or if its rule needs one that did not.
    """
    return _with_holm([_judged(evidence, claim, study) for claim in claims])


def _judged(evidence: Evidence, claim: Claim, study: Study) -> Verdict:
    pairs = [
        pair
        for pair in claim.pairs
        if {key(pair[0], condition) for condition in pair[1:]} <= evidence.conditions.keys()
    ]
    chosen = list(_primaries(evidence, claim, pairs))
    if not chosen or (claim.rule in NEED_ALL and len(pairs) < len(claim.pairs)):
        return Verdict(claim, "not tested", pd.DataFrame(columns=[*PRIMARY_COLUMNS]))
    together = 1 - (1 - study.confidence) / (len(chosen) * len(claim.metrics))
    table = pd.concat(
        [comparisons.compared(one, together, study) for one in chosen], ignore_index=True
    )
    stated = table["metric"].isin(claim.metrics)
    primary = table[stated].reset_index(drop=True)
    supports, contradicts = claim.rule(primary)
    word: Word = "supported" if supports else "contradicted" if contradicts else "undecided"
    to_decide = {}
    for one in chosen:
        first = primary[primary["dataset"] == one.dataset].iloc[0]
        if word == "undecided" and first["finding"] == "undecided":
            asked = (first["metric"], first["estimate"], evidence.patients.get(one.dataset, 0))
            to_decide[one.dataset] = comparisons.to_decide(one, *asked, together, study)
    points = comparisons.points(evidence.conditions, pairs, claim.metrics[0], claim.rare, study)
    return Verdict(claim, word, primary, table[~stated], points, to_decide)


def _primaries(evidence: Evidence, claim: Claim, pairs: list[Pair]) -> Iterator[Primary]:
    """Yield the primary comparison of each dataset that has one."""
    for dataset in dict.fromkeys(pair[0] for pair in pairs):
        own = [pair for pair in pairs if pair[0] == dataset]
        found = comparisons.primary(evidence, own, claim.choice, claim.rare)
        if found:
            yield found


def _with_holm(judged: list[Verdict]) -> list[Verdict]:
    """Add the p-values that are corrected for all primary comparisons of the study."""
    tested = {place: one.primary for place, one in enumerate(judged) if len(one.primary)}
    if not tested:
        return judged
    table = pd.concat(tested)
    table["p_holm"] = statistics.holm(table["p"].to_numpy(float))
    return [
        replace(verdict, primary=table.loc[place]) if place in tested else verdict
        for place, verdict in enumerate(judged)
    ]


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


def not_worse(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Supported if no comparison can be worse by the smallest gain (non-inferiority); contradicted
    if one is.
    """
    margin = -rows["smallest_gain"]
    return bool((rows["low"] > margin).all()), bool((rows["high"] < margin).any())


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


# what each rule needs of the intervals; {0} is the smallest gain
RULES: Mapping[Rule, str] = {
    any_gain: "supported if one interval is above 0 and reaches {0}, contradicted if all are below "
    "{0}",
    no_gain: "supported if all intervals are below {0}, contradicted if one is above {0}",
    always_better: "supported if all intervals are above 0, contradicted if one is below 0",
    always_worse: "supported if all intervals are below 0, contradicted if one is above 0",
    not_worse: "supported if all intervals are above -{0}, contradicted if one is below -{0}",
    some_condition_gains_everywhere: "supported if one condition has all its intervals above 0 and "
    "reaching {0}, contradicted if each has one below {0}",
}
