"""What a study can see: before it, the gain that it detects; after it, what would decide it.

Both use the parts of the variance of a paired difference, see `statistics.VarianceParts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student_t

from ecgforge.analysis.statistics import SHARED_RECORDS, VarianceParts
from ecgforge.study.metrics import f1_of_counts, nan_mean

# what `to_decide` considers: times as many test patients, and seeds up to a number
TIMES = (1.2, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
MOST_SEEDS = 20
MOST_ROUNDS = 10
CROSS_FITTED = (5, 10)  # rounds of a dataset that has none so far
POWER = 0.8  # of the gain that `detectable_gain` returns; the usual choice
SIMULATED = 2000  # simulated test sets, and variances over seeds


@dataclass(frozen=True)
class Assumptions:
    """What is assumed of the classifiers before any is trained.

    The defaults fit 1,241 real records of PTB-XL and the classifier `resnet1d` with three seeds.
    Macro-F1 is about .6 there. With 124, 248 and 1,241 test records (the last in five rounds), half
    the widths of intervals were .15, .06 to .10 and .04. The defaults give .14, .09 and .03.

    Attributes:
        recall: share of the records of each rhythm that are recognised.
        seeds_differ: share of records that two trainings of a setting predict differently.
        settings_differ: share of records that trainings of two settings predict differently.
        shift: standard deviation of what a training shifts the macro-F1 of all patients alike.
    """

    recall: float = 0.6
    seeds_differ: float = 0.2
    settings_differ: float = 0.25
    shift: float = 0.03


@dataclass(frozen=True)
class Design:
    """The size of a study.

    Attributes:
        tested: test records of each rhythm, of all rounds together.
        trainings: the number of seeds of each setting.
        rounds: the number of rounds of cross-fitting; 1 without.
    """

    tested: Mapping[str, int]
    trainings: tuple[int, int]
    rounds: int = 1


@dataclass(frozen=True)
class Foreseen:
    """The variance of a difference that is to be expected.

    Attributes:
        error: the standard deviation of the estimate.
        parts: of the variance that the interval has, on average.
    """

    error: float
    parts: VarianceParts

    def power(self, gain: float, confidence: float) -> float:
        """Return the probability that the interval lies above 0: that the estimate is above its
        half-width.
        """
        return self._power(gain, _half_widths(self.parts, confidence))

    def detectable_gain(self, confidence: float) -> float:
        """Return the gain whose interval lies above 0 with a probability of `POWER`."""
        halves = _half_widths(self.parts, confidence)

        def missing(gain: float) -> float:
            return self._power(gain, halves) - POWER

        return float(brentq(missing, 0, halves.max() + 10 * self.error))

    def _power(self, gain: float, halves: np.ndarray) -> float:
        return float(norm.cdf((gain - halves) / self.error).mean())


def _half_widths(parts: VarianceParts, confidence: float) -> np.ndarray:
    """Return half the widths of the intervals of many equal studies, `[SIMULATED]`.

    They vary, since each study estimates the variance over its few seeds. This estimate has a
    chi-square distribution.
    """
    freedom = parts.rounds * (np.array(parts.trainings) - 1)
    known = freedom > 0
    luck = np.random.default_rng(0).chisquare(freedom[known], (SIMULATED, known.sum()))
    seeds = (parts.mixed + parts.seeds)[known] * luck / freedom[known]
    among = parts.patients + (parts.counted - 1) * parts.mixed.sum()
    variance, doubt = among + seeds.sum(axis=1), np.square(seeds) @ (1 / freedom[known])
    with np.errstate(divide="ignore"):
        limits = student_t.ppf((1 + confidence) / 2, variance**2 / doubt)
    return limits * np.sqrt(variance)


def foreseen(design: Design, assumed: Assumptions) -> Foreseen:
    """Return the variance that the primary comparison of a study will have.

    Predictions of two equally good settings are simulated. A record is one of three kinds:

    - all classifiers predict the same;
    - each setting has a prediction of its own, which all its trainings share;
    - each training has a prediction of its own.

    The shares of these kinds follow from the shares of different predictions. A prediction is
    right with the probability `recall`. If it is wrong, frequent rhythms are predicted more often.
    What a training shifts is added to the variance.

    Resampling patients does not change the F1 of a rhythm with one test record, and for few
    records it finds the share (n - 1) / n of their variance. What it does not find of the
    differences between trainings, it finds as a part of the variance over seeds.
    """
    tested = np.array([count for count in design.tested.values() if count])
    patients, mixed = _variances(tested, assumed)
    first, second = design.trainings
    fewer = np.array([1 / first, 1 / second])
    by_record, shift = mixed * fewer, assumed.shift**2 * fewer / design.rounds
    error = np.sqrt(patients + by_record.sum() + shift.sum())
    known = np.array([first > 1, second > 1])  # with one seed, the interval counts it to patients
    among = patients + by_record[~known].sum()
    if min(first, second) == 1 and design.rounds > 1:
        among, by_record = SHARED_RECORDS * among, SHARED_RECORDS * by_record
    hidden = float(np.average(1 / tested, weights=1 / tested))
    parts = VarianceParts(
        float(among),
        by_record * known * (1 - hidden),
        (shift + by_record * hidden) * known,
        design.trainings,
        design.rounds,
    )
    return Foreseen(float(error), parts)


def _variances(tested: np.ndarray, assumed: Assumptions) -> tuple[float, float]:
    """Return the variance of a difference over test patients, and that of one training of a setting
    through single records.

    Args:
        tested: `[rhythms]`, test records.
    """
    if len(tested) < 2:
        return 0.0, 0.0
    predicted = _predicted(tested, assumed.recall)
    share = tested @ (1 - np.square(predicted).sum(axis=1)) / tested.sum()
    of_training = min(1.0, assumed.seeds_differ / share)
    of_setting = float(np.clip(assumed.settings_differ / share - of_training, 0, 1 - of_training))
    rng = np.random.default_rng(0)
    kinds = rng.multinomial(
        tested, [1 - of_training - of_setting, of_setting, of_training], (SIMULATED, len(tested))
    )

    def drawn(kind: int) -> np.ndarray:
        return rng.multinomial(kinds[..., kind], predicted)

    common, f1 = drawn(0), np.empty((2, 2, SIMULATED))  # [settings, trainings, test sets]
    for setting in f1:
        own = common + drawn(1)
        for number in range(2):
            setting[number] = _macro_f1(own + drawn(2))
    first, second = f1[0] - f1[1]
    patients = max(0.0, float(np.cov(first, second)[0, 1]))
    return patients, max(0.0, float(np.var([first, second], axis=1).mean()) - patients) / 2


def _predicted(tested: np.ndarray, recall: float) -> np.ndarray:
    """Return the probability of each prediction for a record of each rhythm,
    `[rhythms, rhythms]`.
    """
    others = np.tile(tested, (len(tested), 1)) * (1 - np.eye(len(tested)))
    return recall * np.eye(len(tested)) + (1 - recall) * others / others.sum(axis=1, keepdims=True)


def _macro_f1(confusions: np.ndarray) -> np.ndarray:
    """Return macro-F1, `[sets]`, of confusions `[sets, rhythms, rhythms]`."""
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    return nan_mean(f1_of_counts(confusions.sum(axis=2), confusions.sum(axis=1), hits), axis=1)


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

    Each round trains again, so what a training shifts averages over them. If a setting has one
    seed, an interval over rounds has `SHARED_RECORDS` in place of the unknown variance of seeds.

    Args:
        parts: those of the present study.
        patients: times as many test patients.
        seeds: times as many seeds; ignored for a setting with one seed.
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
    return (
        f"Even {TIMES[-1]} times as many test patients{seeds} would not decide it, if the estimate "
        "stays."
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
