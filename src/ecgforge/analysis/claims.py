"""The claims of the paper, its open questions, and the conditions that decide them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ecgforge.analysis.comparisons import CONDITION_KEYS, Condition, Pair
from ecgforge.analysis.verdicts import (
    Claim,
    always_better,
    always_worse,
    any_gain,
    no_gain,
    not_worse,
    some_condition_gains_everywhere,
)
from ecgforge.study import metrics
from ecgforge.study.mixtures import MODES
from ecgforge.sweeps.balanced_sampling import EQUAL as BALANCED
from ecgforge.sweeps.equal_size import ALONE, EQUAL
from ecgforge.sweeps.transfer import METHODS

MOST = 80.0  # percent of the real records: the least for a comparison with all real records
MIXTURES, FINE_TUNINGS = (
    [f"mixture, {mode}" for mode in MODES],
    [f"fine-tuning, {method}" for method in METHODS],
)
RR = "logistic_regression_rr"  # a baseline, see `classifiers.baselines`
PAPER_GENERATORS = ("diffwave", "time_diffusion", "time_vqvae")

Place = tuple[str, str]  # dataset, generator
Row = dict[Any, Any]


def claims(found: pd.DataFrame, backbone: str) -> list[Claim]:
    """Return the claims of arXiv 2411.18456 (abstract and summaries) and the open questions.

    A difference between two trainings is not a difference between two generators. Two groups of
    claims therefore use generators that were trained with several seeds: the gain of synthetic
    records in addition to real ones (if the generator has several trainings), and the best
    generator (if all compared generators have them).

    Args:
        found: the grid, rows with the columns `KEYS`, see `ecgforge.grid`.
        backbone: the study's classifier.
    """
    conditions = _Conditions(found, backbone)
    parts = (_papers, _of_settings, _of_sweeps, _of_size)
    return [claim for part in parts for claim in part(conditions)]


def question(found: pd.DataFrame, backbone: str, generator: str) -> dict[str, Question]:
    """Return the study's question about each dataset, which `analysis.answers` answers.

    The primary comparison is the same for every study and needs no result: real records and
    synthetic ones of one generator against real records alone, by macro-F1. If the generator was
    trained with several seeds, all its trainings are compared.

    Args:
        found: the grid, rows with the columns `KEYS`, see `ecgforge.grid`.
        backbone: the study's classifier.
        generator: whose records answer the question, see `Params.primary_generator`.
    """
    conditions = _Conditions(found, backbone)
    return {dataset: conditions.question(dataset, generator) for dataset in conditions.datasets}


@dataclass(frozen=True)
class Question:
    """Whether synthetic records help on a dataset, as conditions that are compared.

    Attributes:
        baseline: real records alone.
        primary: real and synthetic records, whose difference from `baseline` is the answer.
        classical: real records with classical augmentation.
        rr: logistic regression on RR intervals of real records.
        others: further conditions that are tested on the same records.
    """

    baseline: Condition
    primary: Condition
    classical: Condition
    rr: Condition
    others: list[Condition]


def _papers(conditions: _Conditions) -> list[Claim]:
    real = conditions.real(False)
    single, merged = (
        [place for place in conditions.places if place[0] != "merged"],
        [place for place in conditions.places if place[0] == "merged"],
    )
    tuned = conditions.swept(FINE_TUNINGS, "TrSTeR", False, lambda _: real)
    most = max((float(second["point"]) for _, _, second in tuned), default=0.0)
    all_real = [pair for pair in tuned if float(pair[2]["point"]) == most >= MOST]
    return [
        Claim(
            "Additional synthetic records hardly help on a single dataset.",
            True,
            conditions.mixed(single, real),
            no_gain,
        ),
        Claim(
            "Additional synthetic records help on merged datasets by all metrics.",
            True,
            conditions.mixed(merged, real),
            some_condition_gains_everywhere,
            metrics.OVERALL,
        ),
        Claim(
            "Time-VQVAE generates the best records of the three.",
            True,
            conditions.generators(["time_vqvae"], PAPER_GENERATORS),
            always_better,
            choice="smallest",
        ),
        Claim(
            "With few real records, Time-VQVAE is the best of the three for pre-training.",
            True,
            conditions.pre_trained("time_vqvae", PAPER_GENERATORS),
            always_better,
            choice="smallest",
        ),
        Claim(
            "Time-VQVAE is the best of the three by recall of rare rhythms.",
            True,
            conditions.generators(["time_vqvae"], PAPER_GENERATORS),
            always_better,
            ("balanced_accuracy",),
            choice="smallest",
            rare=True,
        ),
        Claim(
            "A classifier that is pre-trained on synthetic records and fine-tuned stays below one "
            "trained on all real records.",
            True,
            all_real,
            always_worse,
        ),
    ]


def _of_settings(conditions: _Conditions) -> list[Claim]:
    classical, own = (
        conditions.real(True),
        conditions.generators(["beat_diffusion"], PAPER_GENERATORS),
    )
    return [
        Claim(
            "Synthetic records help more than classical augmentation.",
            False,
            conditions.mixed(conditions.places, classical),
            any_gain,
        ),
        Claim(
            "Synthetic records still help in addition to classical augmentation.",
            False,
            conditions.mixed(conditions.places, classical, True),
            any_gain,
        ),
        Claim(
            "Synthetic records help more than balanced sampling of the real records.",
            False,
            conditions.mixed(conditions.places, conditions.balanced()),
            any_gain,
        ),
        Claim(
            "Beat-Diffusion generates better records than the three generators of the paper.",
            False,
            own,
            always_better,
            choice="smallest",
        ),
        Claim(
            "Synthetic records can replace all real training records.",
            False,
            conditions.alone(),
            not_worse,
        ),
        Claim(
            "Synthetic records can replace half of the real training records.",
            False,
            conditions.swept(
                ["mixture, replace"], "TrRSTeR", False, lambda _: conditions.real(False), ["50"]
            ),
            not_worse,
        ),
    ]


def _of_sweeps(conditions: _Conditions) -> list[Claim]:
    """Claims of the sweeps: synthetic records against real records alone, against classical
    augmentation, and in addition to it.
    """
    return [
        *_augmentation_claims(
            "Some mixture of real and synthetic records helps.",
            "Some mixture helps more than classical augmentation.",
            "Some mixture still helps in addition to classical augmentation.",
            lambda first, second: conditions.swept(
                MIXTURES, "TrRSTeR", second, lambda _: conditions.real(first)
            ),
        ),
        *_augmentation_claims(
            "With few real records, pre-training on synthetic ones helps.",
            "With few real records, pre-training helps more than classical augmentation.",
            "With few real records, pre-training still helps in addition to classical "
            "augmentation.",
            lambda first, second: conditions.swept(
                FINE_TUNINGS,
                "TrSTeR",
                second,
                lambda row: conditions.condition(
                    "TrRTeR", sweep="scratch", point=row["point"], augmented=first
                ),
            ),
        ),
        Claim(
            "With few real records, pre-training on synthetic records helps more than "
            "self-supervised pre-training on real records.",
            False,
            conditions.swept(
                ["fine-tuning, full"],
                "TrSTeR",
                False,
                lambda row: conditions.condition(
                    "TrRTeR", sweep="self_supervised", point=row["point"]
                ),
            ),
            any_gain,
        ),
        Claim(
            "With few real records, fine-tuning is better with the early layers frozen.",
            False,
            conditions.swept(
                ["early_layers_frozen"],
                "TrSTeR",
                False,
                lambda row: conditions.condition(
                    "TrSTeR", row["generator"], "fine-tuning, full", row["point"]
                ),
            ),
            any_gain,
        ),
        *_augmentation_claims(
            "With few real records, a generator trained on them helps.",
            "With few real records, a generator trained on them helps more than classical "
            "augmentation.",
            "With few real records, a generator trained on them still helps in addition to "
            "classical augmentation.",
            lambda first, second: conditions.swept(
                ["size"],
                "TrRSTeR",
                second,
                lambda row: conditions.condition(
                    "TrRTeR", row["generator"], "size", row["point"], augmented=first
                ),
            ),
        ),
        *_augmentation_claims(
            "Other classifiers gain from synthetic records.",
            "Other classifiers gain more than from classical augmentation.",
            "Other classifiers still gain in addition to classical augmentation.",
            lambda first, second: conditions.swept(
                ["backbones"],
                "TrRSTeR",
                second,
                lambda row: conditions.condition(
                    "TrRTeR", sweep="backbones", backbone=row["backbone"], augmented=first
                ),
            ),
        ),
        *_augmentation_claims(
            "On another dataset, synthetic records of the training dataset help.",
            "On another dataset, synthetic records of the training dataset help more than "
            "classical augmentation.",
            "On another dataset, synthetic records of the training dataset still help in addition "
            "to classical augmentation.",
            lambda first, second: conditions.cross_dataset(
                "synthetic (training dataset)", first, second
            ),
        ),
        *_augmentation_claims(
            "On another dataset, synthetic records of that dataset help.",
            "On another dataset, synthetic records of that dataset help more than classical "
            "augmentation.",
            "On another dataset, synthetic records of that dataset still help in addition to "
            "classical augmentation.",
            lambda first, second: conditions.cross_dataset(
                "synthetic (test dataset)", first, second
            ),
        ),
    ]


def _of_size(conditions: _Conditions) -> list[Claim]:
    """Claims on diversity apart from size."""
    return [
        Claim(
            "As many records of all sources train better than those of one source.",
            False,
            conditions.equal_size(),
            any_gain,
        )
    ]


def _augmentation_claims(
    gain: str, more: str, still: str, pairs: Callable[[bool, bool], list[Pair]]
) -> list[Claim]:
    """Return three claims. The arguments of `pairs` say whether the first and the second condition
    have classical augmentation.
    """
    ways = {gain: (False, False), more: (True, False), still: (True, True)}
    return [Claim(text, False, pairs(*way), any_gain) for text, way in ways.items()]


@dataclass(frozen=True)
class _Conditions:
    """The conditions of the grid, and the pairs of them that claims compare."""

    found: pd.DataFrame
    backbone: str

    @cached_property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(self.found["dataset"]))

    @cached_property
    def places(self) -> list[Place]:
        """All pairs of a dataset and a generator."""
        generators = [name for name in dict.fromkeys(self.found["generator"]) if name]
        return [(dataset, generator) for dataset in self.datasets for generator in generators]

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row for each dataset and condition of the grid."""
        return self.found[["dataset", *CONDITION_KEYS]].drop_duplicates()

    def condition(
        self,
        setting: str,
        generator: str = "",
        sweep: str = "",
        point: str = "",
        backbone: str = "",
        augmented: bool = False,
    ) -> Condition:
        place = {"generator": generator, "backbone": backbone or self.backbone}
        return {"setting": setting, **place, "sweep": sweep, "point": point, "augmented": augmented}

    def real(self, augmented: bool) -> Condition:
        """All real records, without synthetic ones."""
        return self.condition("TrRTeR", augmented=augmented)

    def balanced(self) -> Condition:
        """All real records, sampled so that all rhythms are equally frequent."""
        return self.condition("TrRTeR", sweep="balanced_sampling", point=BALANCED)

    def with_generator_seeds(self, augmented: bool = False) -> set[Place]:
        """The places with generators that were trained with several seeds."""
        swept = self.found["sweep"] == "generator_seeds"
        rows = self.found[swept & (self.found["augmented"] == augmented)]
        trainings = rows.groupby(["dataset", "generator"])["seed"].nunique()
        return set(trainings[trainings > 1].index)

    def question(self, dataset: str, generator: str) -> Question:
        """Real records alone, and all conditions that are compared with them."""
        real, classical, own = self.real(False), self.real(True), (dataset, generator)
        others = [
            condition
            for place in self.places
            if place[0] == dataset
            for condition in (
                self.with_synthetic("TrRSTeR", place),
                self.with_synthetic("TrRSTeR", place, True),
                self.with_synthetic("TrSTeR", place),
            )
        ]
        primary = self.with_synthetic("TrRSTeR", own)
        others = [condition for condition in others if condition != primary]
        rr = self.condition("TrRTeR", backbone=RR)
        return Question(real, primary, classical, rr, [*others, self.balanced()])

    def with_synthetic(self, setting: str, place: Place, augmented: bool = False) -> Condition:
        """A setting with synthetic records, of several trainings of the generator if they ran."""
        sweep = "generator_seeds" if place in self.with_generator_seeds(augmented) else ""
        return self.condition(setting, place[1], sweep, augmented=augmented)

    def mixed(
        self, places: list[Place], baseline: Condition, augmented: bool = False
    ) -> list[Pair]:
        """Real and synthetic records against `baseline`."""
        return [
            (place[0], baseline, self.with_synthetic("TrRSTeR", place, augmented))
            for place in places
        ]

    def equal_size(self) -> list[Pair]:
        """As many real records of the merged dataset as a source has, against those alone."""
        swept = (self.points["sweep"] == "equal_size") & ~self.points["augmented"]
        return [
            (
                dataset,
                self.condition("TrRTeR", sweep="equal_size", point=ALONE),
                self.condition("TrRTeR", sweep="equal_size", point=EQUAL),
            )
            for dataset in dict.fromkeys(self.points.loc[swept, "dataset"])
        ]

    def alone(self) -> list[Pair]:
        """Synthetic records alone against real records alone."""
        real = self.real(False)
        return [(place[0], real, self.with_synthetic("TrSTeR", place)) for place in self.places]

    def pre_trained(self, name: str, others: Iterable[str]) -> list[Pair]:
        """Fine-tuning after pre-training on records of the generator `name` against the same on
        records of `others`, with few real records.
        """
        tuned = _Conditions(self.found[self.found["generator"] == name], self.backbone).swept(
            FINE_TUNINGS, "TrSTeR", False, lambda row: {key: row[key] for key in CONDITION_KEYS}
        )
        return [
            (dataset, condition | {"generator": rival}, condition)
            for dataset, condition, _ in tuned
            if float(condition["point"]) < MOST
            for rival in others
            if rival != name
        ]

    def generators(self, names: Iterable[str], others: Iterable[str]) -> list[Pair]:
        """Synthetic records of the generators `names` against synthetic records of `others`."""
        compared = [
            (dataset, name, other)
            for dataset in self.datasets
            for name in names
            for other in others
            if name != other
        ]
        places = {(dataset, one) for dataset, *both in compared for one in both}
        sweep = "generator_seeds" if places <= self.with_generator_seeds() else ""
        return [
            (dataset, self.condition("TrSTeR", other, sweep), self.condition("TrSTeR", name, sweep))
            for dataset, name, other in compared
        ]

    def swept(
        self,
        names: Iterable[str],
        setting: str,
        augmented: bool,
        baseline: Callable[[Row], Condition],
        points: Iterable[str] | None = None,
    ) -> list[Pair]:
        """Points of the sweeps `names` in a setting, all or some, each against `baseline(row)`."""
        named = self.points["sweep"].isin(list(names)) & (self.points["augmented"] == augmented)
        chosen = named & (self.points["setting"] == setting) & (self.points["generator"] != "")
        if points is not None:
            chosen &= self.points["point"].isin(list(points))
        rows = self.points[chosen].to_dict("records")
        return [
            (row["dataset"], baseline(row), {key: row[key] for key in CONDITION_KEYS})
            for row in rows
        ]

    def cross_dataset(self, kind: str, first: bool, second: bool) -> list[Pair]:
        """Real and synthetic records of a kind against real records, tested on another dataset."""
        pairs = self.swept(
            ["cross_dataset"], "TrRSTeR", second, lambda row: self._without_synthetic(row, first)
        )
        return [pair for pair in pairs if pair[2]["point"].endswith(f", {kind}")]

    def _without_synthetic(self, row: Row, augmented: bool) -> Condition:
        point = f"{row['point'].split(',')[0]}, real"
        place = (row["generator"], "cross_dataset", point)
        return self.condition("TrRTeR", *place, augmented=augmented)
