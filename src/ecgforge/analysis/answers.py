"""The answer to the study's question on each dataset: a sentence by rule.

The question is whether synthetic records help in addition to real ones. `analysis.claims.question`
states the comparison that answers it, before any result is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from ecgforge.analysis import comparisons, intervals, statistics
from ecgforge.analysis.claims import Question
from ecgforge.analysis.comparisons import FEWEST, Condition, Evidence, Finding
from ecgforge.params import Study
from ecgforge.study import predictions

METRIC = "f1"
NAMES = {"ptbxl": "PTB-XL", "chapman": "Chapman", "merged": "Merged"}
MOST_DIGITS = 6

Word = Literal["yes", "no", "not known"]
WORDS: dict[Finding, Word] = {
    "helps enough": "yes",
    "helps": "yes",
    "does not help enough": "no",
    "hurts": "no",
    "undecided": "not known",
}
ROLES = ("primary", "classical")  # of the first differences; those of the others are empty
NUMBERS = ["estimate", "low", "high", "band_low", "band_high"]
COLUMNS = ["name", "role", "finding", *NUMBERS]


@dataclass(frozen=True)
class Training:
    """What trains the classifiers of a dataset.

    Attributes:
        records: real training records of each round of cross-fitting, or of the one training split.
        simulated: whether the records are simulated.
    """

    records: list[int]
    simulated: bool


@dataclass(frozen=True)
class Gain:
    """The difference of a condition from real records alone, with what its interval shows."""

    estimate: float
    low: float
    high: float
    finding: Finding


@dataclass(frozen=True)
class Answer:
    """The answer on one dataset.

    Attributes:
        dataset: its key.
        generator: of the synthetic records.
        training: the real training records.
        smallest_gain: the smallest gain that counts, in units of the metric.
        confidence: of the intervals.
        gain: of synthetic records in addition to real ones; None if that did not run.
        augmentation: of classical augmentation; None if that did not run.
        over_rr: of the classifier over logistic regression on RR intervals, both trained on real
            records alone; None if that did not run.
        differences: rows of `COLUMNS`: all conditions against real records alone. `low` and `high`
            are the limits of one comparison; the bands of all rows hold together.
        to_decide: what would decide an undecided gain, see `power.to_decide`; else empty.
    """

    dataset: str
    generator: str
    training: Training
    smallest_gain: float
    confidence: float
    gain: Gain | None
    augmentation: Gain | None
    differences: pd.DataFrame = field(repr=False)
    to_decide: str = ""
    over_rr: Gain | None = None

    @property
    def word(self) -> Word:
        """The answer in a word."""
        return WORDS[self.gain.finding] if self.gain else "not known"

    @property
    def name(self) -> str:
        """The name of the dataset, for display."""
        simulated = " (simulated)" if self.training.simulated else ""
        return f"{NAMES.get(self.dataset, self.dataset)}{simulated}"

    @property
    def sentence(self) -> str:
        """The answer in words."""
        parts = [self._of_synthetic(), self._of_augmentation(), self._of_classifier()]
        return " ".join([f"{self.name}: {self.word}.", *filter(None, parts)])

    def _of_synthetic(self) -> str:
        if self.gain is None:
            return f"Real and synthetic records ({self.generator}) were not compared."
        numbers = _numbers(self.gain, self.smallest_gain)
        return (
            f"With {self._records()}, adding synthetic ones ({self.generator}) changes macro-F1 by "
            f"{numbers}; {self._shown(self.gain)}."
        )

    def _records(self) -> str:
        counts = self.training.records
        if len(counts) == 1:
            return f"{counts[0]:,} real training records"
        mean = round(float(np.mean(counts)))
        return f"about {mean:,} real training records in each of {len(counts)} rounds"

    def _shown(self, gain: Gain) -> str:
        small = _plain(self.smallest_gain)
        if np.isnan(gain.low):
            return f"fewer than {FEWEST} test patients decide nothing"
        digits = _digits(gain, self.smallest_gain)
        low, high = _number(gain.low, digits), _number(gain.high, digits)
        return {
            "helps enough": f"the gain is more than {small}",
            "helps": f"there is a gain, which may be less than {small}",
            "does not help enough": f"a gain of {small} or more is ruled out",
            "hurts": "they make the classifier worse",
            "undecided": f"anything from {low} to {high} is possible",
        }[gain.finding]

    def _of_augmentation(self) -> str:
        if self.augmentation is None:
            return ""
        verb = "gains" if WORDS[self.augmentation.finding] == "yes" else "changes it by"
        numbers = _numbers(self.augmentation, self.smallest_gain)
        return f"Classical augmentation {verb} {numbers}."

    def _of_classifier(self) -> str:
        """Say that the classifier is worse than a baseline without a network, if it is."""
        if self.over_rr is None or self.over_rr.estimate >= 0:
            return ""
        numbers = _numbers(self.over_rr, self.smallest_gain)
        return (
            "With real records alone, the classifier is below logistic regression on RR intervals: "
            f"{numbers}."
        )

    def row(self) -> dict[str, Any]:
        """Return the answer as JSON has it; what is not known is None."""
        return {
            "dataset": self.dataset,
            "sentence": self.sentence,
            "word": self.word,
            **_json(self.gain),
            "metric": METRIC,
            "generator": self.generator,
            "records": self.training.records,
            "simulated": self.training.simulated,
            "smallest_gain": self.smallest_gain,
            "confidence": self.confidence,
            "augmentation": _json(self.augmentation),
            "over_rr": _json(self.over_rr),
            "to_decide": self.to_decide,
        }


def answers(
    evidence: Evidence,
    questions: Mapping[str, Question],
    trainings: Mapping[str, Training],
    study: Study,
) -> list[Answer]:
    """Return the answer on each dataset.

    Args:
        evidence: predictions of all runs, see `study.predictions.pooled`.
        questions: by dataset, see `analysis.claims.question`.
        trainings: by dataset.
        study: its statistics and smallest gain.
    """
    answered = []
    for dataset, question in questions.items():
        table = _differences(evidence.conditions, dataset, question, study)
        gains = {row["role"]: _gain(row) for row in table.to_dict("records")}
        gain = gains.get("primary")
        answered.append(
            Answer(
                dataset,
                question.primary["generator"],
                trainings[dataset],
                study.smallest_gain,
                study.confidence,
                gain,
                gains.get("classical"),
                table,
                _to_decide(evidence, dataset, question, gain.estimate, study)
                if gain and gain.finding == "undecided"
                else "",
                _over_rr(evidence.conditions, dataset, question, study),
            )
        )
    return answered


def _differences(
    conditions: comparisons.ByCondition, dataset: str, question: Question, study: Study
) -> pd.DataFrame:
    """Return the differences of all conditions that ran from real records alone."""
    asked = [question.primary, question.classical, *question.others]
    ran = [
        (condition, role)
        for condition, role in zip(asked, [*ROLES, *[""] * len(question.others)], strict=True)
        if comparisons.key(dataset, condition) in conditions
    ]
    baseline = conditions.get(comparisons.key(dataset, question.baseline))
    if baseline is None or not ran:
        return pd.DataFrame(columns=COLUMNS)
    real = intervals.stacked(baseline)
    others = [
        intervals.stacked(conditions[comparisons.key(dataset, condition)]) for condition, _ in ran
    ]
    table = statistics.simultaneous(
        real.truth,
        [real.probabilities, *(other.probabilities for other in others)],
        [(0, 1 + number) for number in range(len(others))],
        real.patients,
        predictions.rhythms(baseline),
        confidence=study.confidence,
        resamples=study.resamples,
        seed=0,
        metric=METRIC,
        rounds=real.rounds,
    )[NUMBERS]
    if len(np.unique(real.patients)) < FEWEST:
        table.loc[:, NUMBERS[1:]] = np.nan
    return table.assign(
        name=[
            _name(condition, len(other.probabilities))
            for (condition, _), other in zip(ran, others, strict=True)
        ],
        role=[role for _, role in ran],
        finding=[
            comparisons.finding(low, high, study.smallest_gain)
            for low, high in zip(table["low"], table["high"], strict=True)
        ],
    )[COLUMNS]


def _over_rr(
    conditions: comparisons.ByCondition, dataset: str, question: Question, study: Study
) -> Gain | None:
    """Return the gain of the classifier over the baseline on RR intervals, if both ran."""
    pair = (dataset, question.rr, question.baseline)
    if not {comparisons.key(dataset, condition) for condition in pair[1:]} <= conditions.keys():
        return None
    chosen = comparisons.primary(Evidence(conditions, {}), [pair], "largest", rare=False)
    assert chosen
    table = comparisons.compared(chosen, study.confidence, study)
    return _gain(table[table["metric"] == METRIC].iloc[0])


def _to_decide(
    evidence: Evidence, dataset: str, question: Question, estimate: float, study: Study
) -> str:
    """Return what would decide the primary comparison, in words."""
    pair = (dataset, question.baseline, question.primary)
    chosen = comparisons.primary(evidence, [pair], "largest", rare=False)
    assert chosen
    patients = evidence.patients.get(dataset, 0)
    return comparisons.to_decide(chosen, METRIC, estimate, patients, study.confidence, study)


def _name(condition: Condition, trainings: int) -> str:
    """Return the name of a condition, for display."""
    parts = list(_parts(condition))
    if condition["generator"] and condition["sweep"]:
        parts.append(f"{trainings} trainings")
    return ", ".join(parts)


def _parts(condition: Condition) -> Iterator[str]:
    if not condition["generator"]:
        yield "balanced sampling" if condition["sweep"] else "classical augmentation"
        return
    alone = condition["setting"] == "TrSTeR"
    yield f"{'synthetic alone' if alone else 'real and synthetic'}: {condition['generator']}"
    if condition["augmented"]:
        yield "augmented"


def _gain(row: Mapping[Any, Any]) -> Gain:
    return Gain(float(row["estimate"]), float(row["low"]), float(row["high"]), row["finding"])


def _numbers(gain: Gain, smallest_gain: float) -> str:
    """Return a difference with its interval, if it has one."""
    digits = _digits(gain, smallest_gain)
    estimate = _number(gain.estimate, digits)
    if np.isnan(gain.low):
        return estimate
    return f"{estimate} ({_number(gain.low, digits)} to {_number(gain.high, digits)})"


def _digits(gain: Gain, smallest_gain: float) -> int:
    """Return as many decimal places, two or more, as the numbers need to agree with the finding."""
    for digits in range(2, MOST_DIGITS):
        low, high = round(gain.low, digits), round(gain.high, digits)
        if comparisons.finding(low, high, smallest_gain) == gain.finding:
            return digits
    return MOST_DIGITS


def _number(value: float, digits: int) -> str:
    """Return a number with its sign, and without the zero before the point.

    A number that rounds to zero has no sign.
    """
    rounded = round(value, digits)
    sign = "+" if rounded > 0 else "-" if rounded < 0 else ""
    return sign + f"{abs(rounded):.{digits}f}".removeprefix("0")


def _plain(value: float) -> str:
    return f"{value:g}".removeprefix("0") or "0"


def _json(gain: Gain | None) -> dict[str, Any]:
    if gain is None:
        return dict.fromkeys(("estimate", "low", "high", "finding"))
    limits = (("estimate", gain.estimate), ("low", gain.low), ("high", gain.high))
    rounded = {name: None if np.isnan(value) else round(value, 6) for name, value in limits}
    return {**rounded, "finding": gain.finding}
