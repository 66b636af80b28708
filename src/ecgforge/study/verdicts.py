"""What the results say of each claim: supported, contradicted or undecided, by rule, so that other records give other verdicts.

A claim is a list of comparisons, each a difference of two arms on the same test records (see `statistics.difference`). Their intervals
hold together at the study's confidence: each is as much wider as there are comparisons (Bonferroni). A claim that needs all of them is
supported when all show it, and not tested where one of them was not run; one that needs any is contradicted when none can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
import pandas as pd

from ecgforge.params import Method
from ecgforge.study import predictions, statistics
from ecgforge.study.mixtures import HOWS
from ecgforge.study.settings import AUGMENTATION, CLASSICAL, augmented

SMALL = 0.02  # of a figure between 0 and 1: a smaller gain is not worth a generator; our choice
FEWEST = 30  # test patients: resamples of fewer say little about others, so they decide nothing; our choice
MOST = 80.0  # percent of the real records that a fine-tuning needs, to be compared with all of them
F1 = ("f1",)
MIXTURES, FINE_TUNINGS = [f"mixture, {how}" for how in HOWS], [f"fine-tuning, {method}" for method in get_args(Method)]
STUDYS_OWN = ("diffwave", "time_diffusion", "time_vqvae")

Word = Literal["supported", "contradicted", "undecided", "not tested"]
Arm = dict[str, str]  # keys of predictions
Place = tuple[str, str]  # dataset, generator
Pair = tuple[str, Arm, Arm]  # dataset, arm, arm that is claimed better
Rule = Callable[[pd.DataFrame], tuple[bool, bool]]  # of rows with low and high: whether they support, whether they contradict


@dataclass(frozen=True)
class Claim:
    """A sentence that may be false, whose it is, and the comparisons (dataset, arm, arm that is claimed better) that decide it."""

    text: str
    paper: bool
    pairs: list[Pair]
    rule: Rule
    metrics: tuple[str, ...] = F1


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        comparisons: dataset, first, second (in words), metric, estimate, low, high, p; of fewer than `FEWEST` test patients without
            limits, which no rule finds above or below anything.
    """

    claim: Claim
    word: Word
    comparisons: pd.DataFrame = field(repr=False)


def judge(found: pd.DataFrame, claims: Iterable[Claim], confidence: float, resamples: int) -> list[Verdict]:
    """Judge claims by the predictions of all cells; a claim is not tested if none of its pairs was run, or not all that it needs."""
    return [_judged(found, claim, confidence, resamples) for claim in claims]


def _judged(found: pd.DataFrame, claim: Claim, confidence: float, resamples: int) -> Verdict:
    arms = [(dataset, first, second, _rows(found, dataset, first), _rows(found, dataset, second)) for dataset, first, second in claim.pairs]
    arms = [arm for arm in arms if len(arm[3]) and len(arm[4])]
    if claim.rule in NEED_ALL and len(arms) < len(claim.pairs):
        arms = []
    together = 1 - (1 - confidence) / max(1, len(arms) * len(claim.metrics))
    tables = []
    for dataset, first, second, before, after in arms:
        truth, one, patients = predictions.stacked(before)
        _, other, _ = predictions.stacked(after)
        rhythms = predictions.rhythms(before)
        table = statistics.difference(truth, one, other, patients, rhythms, confidence=together, resamples=resamples, seed=0)
        table = table[(table["rhythm"] == statistics.MACRO) & table["metric"].isin(claim.metrics)].drop(columns="rhythm")
        if len(np.unique(patients)) < FEWEST:
            table = table.assign(low=np.nan, high=np.nan)
        tables.append(table.assign(dataset=dataset, first=_words(first), second=_words(second)))
    if not tables:
        return Verdict(claim, "not tested", pd.DataFrame(columns=["dataset", "first", "second", "metric", "estimate", "low", "high", "p"]))
    comparisons = pd.concat(tables, ignore_index=True)
    supports, contradicts = claim.rule(comparisons)
    return Verdict(claim, "supported" if supports else "contradicted" if contradicts else "undecided", comparisons)


def _rows(found: pd.DataFrame, dataset: str, arm: Arm) -> pd.DataFrame:
    chosen = found["dataset"] == dataset
    for key, value in ({"sweep": "", "point": "", "generator": ""} | arm).items():
        chosen &= found[key] == value
    return found[chosen]


def _words(arm: Arm) -> str:
    return " ".join([arm["setting"], *(arm[key] for key in ("generator", "backbone", "sweep", "point") if arm.get(key))])


def any_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Some gain is there that may be worth the trouble; against it, that none is."""
    return bool(((rows["low"] > 0) & (rows["high"] >= SMALL)).any()), bool((rows["high"] < SMALL).all())


def no_gain(rows: pd.DataFrame) -> tuple[bool, bool]:
    """No gain is worth the trouble; against it, that some is."""
    return bool((rows["high"] < SMALL).all()), bool((rows["low"] > SMALL).any())


def always_better(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Better in every comparison; against it, that it is worse in some."""
    return bool((rows["low"] > 0).all()), bool((rows["high"] < 0).any())


def always_worse(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Worse in every comparison; against it, that it is better in some."""
    return bool((rows["high"] < 0).all()), bool((rows["low"] > 0).any())


NEED_ALL = (always_better, always_worse)  # of a claim's pairs: the best of two is not the best of three


def some_arm_gains_everywhere(rows: pd.DataFrame) -> tuple[bool, bool]:
    """One arm is better by every metric, and by none too little to be worth the trouble; against it, that every arm has such a metric."""
    arms = rows.groupby(["dataset", "second"])[["low", "high"]].min()
    return bool(((arms["low"] > 0) & (arms["high"] >= SMALL)).any()), bool((arms["high"] < SMALL).all())


def claims(found: pd.DataFrame, backbone: str) -> list[Claim]:
    """Return the claims of arXiv 2411.18456, as its abstract and summaries state them, and the questions that it leaves open.

    Which generator is the best, and whether records beside real ones help, is asked of generators that were trained anew for each of
    several seeds, where all that a claim needs were: a difference between two trainings is none between two generators.

    Args:
        found: predictions of all cells, from which datasets, generators and the points of sweeps are taken.
        backbone: the study's classifier.
    """
    arms = _Arms(found, backbone)
    real, classical = arms.arm("TrRTeR"), arms.arm("TrRTeR", sweep=AUGMENTATION, point=CLASSICAL)
    single, merged = ([place for place in arms.places if (place[0] == "merged") == both] for both in (False, True))
    tuned = arms.swept(FINE_TUNINGS, "TrSTeR", lambda _: real)
    most = max((float(second["point"]) for _, _, second in tuned), default=0.0)
    return [
        Claim("Synthetic records beside those of one dataset hardly help.", True, arms.beside(single, real), no_gain),
        Claim(
            "On merged datasets they help by all metrics.",
            True,
            arms.beside(merged, real),
            some_arm_gains_everywhere,
            statistics.OVERALL,
        ),
        Claim("Time-VQVAE's records are the best of the three.", True, arms.against(["time_vqvae"], STUDYS_OWN), always_better),
        Claim(
            "Pre-trained on synthetic records and fine-tuned, a classifier stays below one of all real records.",
            True,
            [pair for pair in tuned if float(pair[2]["point"]) == most >= MOST],
            always_worse,
        ),
        Claim("Synthetic records help more than classical augmentation does.", False, arms.beside(arms.places, classical), any_gain),
        Claim("Beside classical augmentation, synthetic records still help.", False, arms.beside(arms.places, classical, True), any_gain),
        *arms.rivals(
            "Some mixture of real and synthetic records helps.",
            "Some mixture helps more than classical augmentation does.",
            "Beside classical augmentation, some mixture still helps.",
            MIXTURES,
            "TrRSTeR",
            lambda changed, _: classical if changed else real,
        ),
        *arms.rivals(
            "With few real records, pre-training on synthetic ones helps.",
            "With few real records, pre-training helps more than classical augmentation does.",
            "With few real records, pre-training still helps beside classical augmentation.",
            FINE_TUNINGS,
            "TrSTeR",
            lambda changed, row: arms.arm("TrRTeR", sweep=_sweep("scratch", changed), point=row["point"]),
        ),
        *arms.rivals(
            "With few real records, a generator of those few helps.",
            "With few real records, a generator of those few helps more than classical augmentation does.",
            "With few real records, a generator of those few still helps beside classical augmentation.",
            ["size"],
            "TrRSTeR",
            lambda changed, row: arms.arm("TrRTeR", row["generator"], _sweep("size", changed), row["point"]),
        ),
        *arms.rivals(
            "Other classifiers gain from synthetic records.",
            "Other classifiers gain more than from classical augmentation.",
            "Other classifiers still gain beside classical augmentation.",
            ["backbones"],
            "TrRSTeR",
            lambda changed, row: arms.arm("TrRTeR", sweep=_sweep("backbones", changed), backbone=row["backbone"]),
        ),
        Claim("Synthetic records of its own hospital help a classifier at another one.", False, arms.elsewhere("own synthetic"), any_gain),
        Claim("Synthetic records of the other hospital's patients help it there.", False, arms.elsewhere("foreign synthetic"), any_gain),
        Claim(
            "Beat-Diffusion's records are better than those of the study's three.",
            False,
            arms.against(["beat_diffusion"], STUDYS_OWN),
            always_better,
        ),
    ]


@dataclass(frozen=True)
class _Arms:
    """The arms that were run, and the pairs of them that claims compare."""

    found: pd.DataFrame
    backbone: str

    @cached_property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(self.found["dataset"]))

    @cached_property
    def places(self) -> list[Place]:
        """Dataset and generator, of all there are."""
        generators = [name for name in dict.fromkeys(self.found["generator"]) if name]
        return [(dataset, generator) for dataset in self.datasets for generator in generators]

    def arm(self, setting: str, generator: str = "", sweep: str = "", point: str = "", backbone: str = "") -> Arm:
        return {"setting": setting, "generator": generator, "backbone": backbone or self.backbone, "sweep": sweep, "point": point}

    def anew(self, changed: bool = False) -> set[Place]:
        """Where the generator was trained for several seeds."""
        rows = self.found[self.found["sweep"] == _sweep("retrained", changed)]
        trainings = rows.groupby(["dataset", "generator"])["seed"].nunique()
        return set(trainings[trainings > 1].index)

    def beside(self, places: list[Place], before: Arm, changed: bool = False) -> list[Pair]:
        """Real and synthetic records, `changed` classically or not, against `before`."""
        once, anew = (AUGMENTATION, CLASSICAL) if changed else ("", ""), self.anew(changed)
        ways = {place: (_sweep("retrained", changed), "") if place in anew else once for place in places}
        return [(dataset, before, self.arm("TrRSTeR", generator, *way)) for (dataset, generator), way in ways.items()]

    def against(self, names: Iterable[str], others: Iterable[str]) -> list[Pair]:
        """Synthetic records of some generators alone against those of others."""
        rivals = [(dataset, name, other) for dataset in self.datasets for name in names for other in others if name != other]
        way = "retrained" if all({(dataset, name), (dataset, other)} <= self.anew() for dataset, name, other in rivals) else ""
        return [(dataset, self.arm("TrSTeR", other, way), self.arm("TrSTeR", name, way)) for dataset, name, other in rivals]

    def swept(self, names: Iterable[str], setting: str, before: Callable[[pd.Series], Arm]) -> list[Pair]:
        """All points of sweeps in a setting, each against what is `before` it."""
        keys = ["setting", "generator", "backbone", "sweep", "point"]
        rows = self.found[["dataset", *keys]].drop_duplicates()
        rows = rows[rows["sweep"].isin(list(names)) & (rows["setting"] == setting) & (rows["generator"] != "")]
        return [(row["dataset"], before(row), {key: row[key] for key in keys}) for _, row in rows.iterrows()]

    def rivals(
        self, gain: str, more: str, still: str, names: list[str], setting: str, alone: Callable[[bool, pd.Series], Arm]
    ) -> list[Claim]:
        """What synthetic records bring in sweeps: against real ones `alone`, against those classically augmented, and both augmented."""
        pairs = [
            self.swept([_sweep(name, both) for name in names], setting, partial(alone, changed))
            for both, changed in ((False, False), (False, True), (True, True))
        ]
        return [Claim(text, False, one, any_gain) for text, one in zip((gain, more, still), pairs, strict=True)]

    def elsewhere(self, ending: str) -> list[Pair]:
        """Classifiers of real and synthetic records at another hospital, against those of the same real ones there."""
        pairs = self.swept(
            ["hospitals"], "TrRSTeR", lambda row: self.arm("TrRTeR", row["generator"], "hospitals", f"{row['point'].split(',')[0]}, real")
        )
        return [pair for pair in pairs if pair[2]["point"].endswith(f", {ending}")]


def _sweep(name: str, changed: bool) -> str:
    return augmented(name) if changed else name
