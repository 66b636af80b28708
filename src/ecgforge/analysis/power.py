"""What a study can see: before it, the gain that it detects; after it, what would decide it.

Both use the parts of the variance of a paired difference, see `statistics.VarianceParts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from ecgforge.analysis.statistics import SHARED_RECORDS, VarianceParts

# what `to_decide` considers: times as many test patients, and seeds up to a number
TIMES = (1.2, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
MOST_SEEDS = 20
MOST_ROUNDS = 10
CROSS_FITTED = (5, 10)  # rounds of a dataset that has none so far


@dataclass(frozen=True)
class Place:
    """The dataset of a comparison.

    Attributes:
        dataset: its key in params.yaml.
        held: times as many test patients as now if every patient is tested on once.
    """

    dataset: str
    held: float


def scaled(
    parts: VarianceParts, *, patients: float = 1.0, seeds: float = 1.0, rounds: int | None = None
) -> VarianceParts:
    """Return the parts that a larger study would have.

    Rounds train anew, so what a training shifts averages over them. If a setting has one seed, an
    interval over rounds has `SHARED_RECORDS` in place of the unknown variance of seeds.

    Args:
        parts: those of the present study.
        patients: times as many test patients.
        seeds: times as many seeds; ignored for a setting with one seed, which tells nothing.
        rounds: the number of rounds; None for that of the present study.
    """
    rounds = rounds or parts.rounds
    widened = min(parts.trainings) == 1 and parts.rounds == 1 < rounds
    return VarianceParts(
        parts.patients / patients * (SHARED_RECORDS if widened else 1.0),
        parts.mixed / (patients * seeds),
        parts.seeds / seeds * parts.rounds / rounds,
        _times(parts.trainings, seeds),
        rounds,
    )


def _times(trainings: tuple[int, int], seeds: float) -> tuple[int, int]:
    first, second = (count if count == 1 else round(count * seeds) for count in trainings)
    return first, second


def half_width(parts: VarianceParts, confidence: float) -> float:
    """Return half the width of the interval of a difference whose variance has these parts."""
    variance = parts.patients + parts.counted * parts.mixed.sum() + parts.seeds.sum()
    return float(student_t.ppf((1 + confidence) / 2, parts.freedom) * np.sqrt(variance))


def wanted_half_width(estimate: float, smallest_gain: float) -> float:
    """Return the half-width below which the finding is decided if the estimate stays.

    An interval decides if it lies above 0 or below the smallest gain. For the first, its half-width
    must be below the estimate. For the second, it must be below the distance from the estimate to
    the smallest gain. The nearer of the two counts, which is the larger half-width.
    """
    return max(estimate, smallest_gain - estimate)


def to_decide(
    parts: VarianceParts,
    estimate: float,
    smallest_gain: float,
    confidence: float,
    place: Place,
) -> str:
    """Return a sentence that says what would decide an undecided difference.

    It names each single change after which the half-width is below `wanted_half_width`: more test
    patients, more seeds, cross-fitting or more rounds. If no single change suffices, it names the
    cheapest pair of test patients and seeds. Numbers are about right: variances over two or three
    seeds are themselves uncertain, and the estimate will move. A study of this size decides in
    about half of all cases.

    Args:
        parts: of the difference.
        estimate: the difference.
        smallest_gain: the smallest gain that counts.
        confidence: of the interval.
        place: the dataset.
    """
    wanted = wanted_half_width(estimate, smallest_gain)

    def decides(bigger: VarianceParts) -> bool:
        return half_width(bigger, confidence) < wanted

    single = [
        words
        for words in (
            next((words for words, bigger in options if decides(bigger)), "")
            for options in (_patients(parts), _seeds(parts), _rounds(parts, place))
        )
        if words
    ]
    found = single or [words for words, bigger in _pairs(parts) if decides(bigger)][:1]
    if found:
        return f"To decide it: {_or(found)}."
    seeds = f" with {MOST_SEEDS} seeds" if _seeds_known(parts) else ""
    rounds = "more rounds" if parts.rounds > 1 else "cross-fitting"
    return (
        f"Neither {TIMES[-1]} times as many test patients{seeds} nor {rounds} would decide it, "
        "if the estimate stays."
    )


Options = Iterator[tuple[str, VarianceParts]]


def _patients(parts: VarianceParts) -> Options:
    for times in TIMES:
        words = f"about {times:g} times as many test patients"
        yield words, scaled(parts, patients=times)


def _seeds(parts: VarianceParts) -> Options:
    if not _seeds_known(parts):
        return
    few = min(count for count in parts.trainings if count > 1)
    for count in range(few + 1, MOST_SEEDS + 1):
        yield _seed_words(parts, count / few), scaled(parts, seeds=count / few)


def _rounds(parts: VarianceParts, place: Place) -> Options:
    """Cross-fitting, or more rounds of it; cross-fitting with more seeds if it takes them."""
    if parts.rounds > 1:
        for count in range(parts.rounds + 1, MOST_ROUNDS + 1):
            words = f"{count} rounds in place of {parts.rounds}"
            yield f"{words} ({_folds(place, count)})", scaled(parts, rounds=count)
        return
    tests = f"tests on {_times_as(place.held)} as many patients"
    for count in CROSS_FITTED if place.held > 1 else ():
        words = f"cross-fitting ({_folds(place, count)}), which {tests}"
        yield words, scaled(parts, patients=place.held, rounds=count)
    crossed = scaled(parts, patients=place.held, rounds=CROSS_FITTED[0])
    for words, bigger in _seeds(crossed) if place.held > 1 else ():
        where = f"cross-fitting ({_folds(place, CROSS_FITTED[0])})"
        yield f"{where}, which {tests}, with {words}", bigger


def _pairs(parts: VarianceParts) -> Options:
    """More test patients and more seeds together, the cheapest first."""
    few = min((count for count in parts.trainings if count > 1), default=MOST_SEEDS)
    pairs = [(times, count) for times in TIMES for count in range(few + 1, MOST_SEEDS + 1)]
    for times, count in sorted(pairs, key=lambda pair: pair[0] * pair[1]):
        words = f"about {times:g} times as many test patients"
        more = _seed_words(parts, count / few)
        yield f"{words}, with {more}", scaled(parts, patients=times, seeds=count / few)


def _seeds_known(parts: VarianceParts) -> bool:
    """Whether the seeds have a known variance, and so more of them have a known use."""
    return max(parts.trainings) > 1


def _seed_words(parts: VarianceParts, times: float) -> str:
    first, second = parts.trainings
    if first == second:
        return f"{round(first * times)} seeds in place of {first}"
    return f"about {times:.2g} times as many seeds"


def _folds(place: Place, count: int) -> str:
    return f"folds: {{{place.dataset}: {count}}}"


def _times_as(times: float) -> str:
    return f"{times:.0f} times" if times >= 2 else f"{times:.1f} times"


def _or(options: list[str]) -> str:
    return ", or ".join(options)
