"""What the results say of each claim: supported, contradicted or undecided, by rule, so that other
records give other verdicts.

A claim is a list of comparisons, each a difference of two arms on the same test records (see
`statistics.difference`). Their intervals hold together at the study's confidence: each is as much
wider as there are comparisons (Bonferroni). A claim that needs all of them is supported when all
show it, and not tested where one of them was not run; one that needs any is contradicted when none
can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecgforge.analysis import intervals, statistics
from ecgforge.study import predictions
from ecgforge.study.metrics import MACRO

SMALL = 0.02  # of a figure between 0 and 1: a smaller gain is not worth a generator; our choice
# test patients: resamples of fewer say little about others, so they decide nothing; our choice
FEWEST = 30
F1 = ("f1",)

Word = Literal["supported", "contradicted", "undecided", "not tested"]
ARM = ("setting", "generator", "backbone", "sweep", "point", "augmented")  # keys of predictions
Arm = dict[str, Any]  # a value for each of these
Pair = tuple[str, Arm, Arm]  # dataset, arm, arm that is claimed better
ByArm = dict[tuple[Any, ...], pd.DataFrame]  # predictions of all seeds, by dataset and `ARM`
# of rows with low and high: whether they support, whether they contradict
Rule = Callable[[pd.DataFrame], tuple[bool, bool]]


@dataclass(frozen=True)
class Claim:
    """A sentence that may be false, whose it is, and the comparisons (dataset, arm, arm that is
    claimed better) that decide it.
    """

    text: str
    paper: bool
    pairs: list[Pair]
    rule: Rule
    metrics: tuple[str, ...] = F1


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        comparisons: dataset, first, second (in words), metric, estimate, low, high, p; of fewer
            than `FEWEST` test patients without limits, which no rule finds above or below anything.
    """

    claim: Claim
    word: Word
    comparisons: pd.DataFrame = field(repr=False)


def judge(
    found: pd.DataFrame, claims: Iterable[Claim], confidence: float, resamples: int
) -> list[Verdict]:
    """Judge claims by the predictions of all cells; a claim is not tested if none of its pairs was
    run, or not all that it needs.
    """
    by_arm = dict(iter(found.groupby(["dataset", *ARM], sort=False)))
    return [_judged(by_arm, claim, confidence, resamples) for claim in claims]


def _judged(by_arm: ByArm, claim: Claim, confidence: float, resamples: int) -> Verdict:
    pairs = [
        pair for pair in claim.pairs if {_key(pair[0], arm) for arm in pair[1:]} <= by_arm.keys()
    ]
    if not pairs or (claim.rule in NEED_ALL and len(pairs) < len(claim.pairs)):
        return Verdict(
            claim,
            "not tested",
            pd.DataFrame(
                columns=["dataset", "first", "second", "metric", "estimate", "low", "high", "p"]
            ),
        )
    together = 1 - (1 - confidence) / (len(pairs) * len(claim.metrics))
    comparisons = pd.concat(
        [_compared(by_arm, pair, claim.metrics, together, resamples) for pair in pairs],
        ignore_index=True,
    )
    supports, contradicts = claim.rule(comparisons)
    return Verdict(
        claim,
        "supported" if supports else "contradicted" if contradicts else "undecided",
        comparisons,
    )


def _compared(
    by_arm: ByArm, pair: Pair, metrics: tuple[str, ...], confidence: float, resamples: int
) -> pd.DataFrame:
    dataset, first, second = pair
    before, after = (by_arm[_key(dataset, arm)] for arm in (first, second))
    truth, one, patients = intervals.stacked(before)
    _, other, _ = intervals.stacked(after)
    rhythms, auroc = predictions.rhythms(before), "auroc" in metrics
    table = statistics.difference(
        truth,
        one,
        other,
        patients,
        rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
        auroc=auroc,
    )
    table = table[(table["rhythm"] == MACRO) & table["metric"].isin(metrics)].drop(columns="rhythm")
    if len(np.unique(patients)) < FEWEST:
        table = table.assign(low=np.nan, high=np.nan)
    return table.assign(dataset=dataset, first=_words(first), second=_words(second))


def _key(dataset: str, arm: Arm) -> tuple[Any, ...]:
    return dataset, *(arm[key] for key in ARM)


def _words(arm: Arm) -> str:
    named = [arm[key] for key in ("generator", "backbone", "sweep", "point") if arm.get(key)]
    return " ".join([arm["setting"], *named, *(["augmented"] if arm["augmented"] else [])])


def any_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Some gain is there that may be worth the trouble; against it, that none is."""
    return bool(((rows["low"] > 0) & (rows["high"] >= SMALL)).any()), bool(
        (rows["high"] < SMALL).all()
    )


def no_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """No gain is worth the trouble; against it, that some is."""
    return bool((rows["high"] < SMALL).all()), bool((rows["low"] > SMALL).any())


def always_better(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Better in every comparison; against it, that it is worse in some."""
    return bool((rows["low"] > 0).all()), bool((rows["high"] < 0).any())


def always_worse(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Worse in every comparison; against it, that it is better in some."""
    return bool((rows["high"] < 0).all()), bool((rows["low"] > 0).any())


# of a claim's pairs: the best of two is not the best of three
NEED_ALL = (always_better, always_worse)


def some_arm_gains_everywhere(rows: pd.DataFrame) -> tuple[bool, bool]:
    """One arm is better by every metric, and by none too little to be worth the trouble; against
    it, that every arm has such a metric.
    """
    arms = rows.groupby(["dataset", "second"])[["low", "high"]].min()
    return bool(((arms["low"] > 0) & (arms["high"] >= SMALL)).any()), bool(
        (arms["high"] < SMALL).all()
    )
