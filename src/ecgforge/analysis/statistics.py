"""Intervals of a classifier's metrics over seeds and test patients, and paired differences between
settings, one by one or as a family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student_t

from ecgforge.study.metrics import (
    ALL_MACRO,
    BY_RANK,
    MACRO,
    check_shapes,
    f1_of_counts,
    log_probabilities,
    metric_keys,
    nan_mean,
    weighted_areas,
    weighted_counts,
    weighted_metrics,
)

# The variance of a cross-fitted metric over the variance that its test patients explain. A record
# moves the result as a test record, and again as a training record of other rounds.
SHARED_RECORDS = 1.5
SHARED_RECORDS_AUROC = 2.0


def interval(
    truth: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    rhythms: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    auroc: bool = True,
    rounds: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return each metric as a mean over training seeds, with a bootstrap interval over seeds and
    test patients.

    Test patients (with all their records) and seeds are resampled independently, since the
    classifiers of all seeds are tested on the same records (pigeonhole bootstrap: Owen, Ann Appl
    Stat 1:386, 2007). Each resample draws k - 1 of k seeds, which makes their variance unbiased
    for few seeds (Rao & Wu, J Am Stat Assoc 83:231, 1988). With one seed, the interval is over
    test patients only.

    The limits come from a t distribution with the standard deviation of the resamples; some
    hundred resamples suffice for it (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
    sec. 13.2 and 6.4). The degrees of freedom follow from the number of seeds (Satterthwaite,
    Biometrics Bulletin 2:110, 1946). Percentiles would never exceed the values of two or three
    seeds. All metrics and limits lie between 0 and 1, except those of the log score, which has no
    lower bound and is at most 0.

    With several rounds of cross-fitting, every record is tested in one round, by classifiers of
    that round. Metrics are those of the records of all rounds together. AUROC and average precision
    compare records of the same round only, since scores of two trainings have different scales. A
    round counts by its share of all pairs of records, or of all records of the rhythm. The variance
    is then

        SHARED_RECORDS * patients + seeds

    `patients` is the variance over test patients, resampled within their rounds. `seeds` is the
    variance of what a training shifts for all patients alike; seeds of different rounds are
    unrelated, so it has rounds * (seeds - 1) degrees of freedom. The factor was chosen by
    simulation, see `benchmarks/coverage.py`. With one seed, `seeds` is unknown and left out: the
    interval is over test patients, for trainings as they came out.

    Args:
        truth: `[records]`, class indices into `rhythms`.
        probabilities: `[seeds, records, rhythms]`.
        patients: `[records]`.
        rhythms: names in class order.
        confidence: e.g. 0.95.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
        auroc: whether to compute AUROC and average precision, which take most of the time.
        rounds: `[records]`, the round that each record is tested in. None: one round.

    Returns:
        Rows of rhythm (`macro` or one), metric, mean, low, high, seeds.

    Raises:
        ValueError: shapes disagree, or a patient is in several rounds.
    """
    check_shapes(truth, probabilities, rhythms)
    parts = _parts(patients, rounds)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, parts, resamples, rng)
    keys = metric_keys(rhythms)
    widening = np.where(keys["metric"] == "auroc", SHARED_RECORDS_AUROC, SHARED_RECORDS)
    one = _resampled(truth, probabilities, parts, weights, rng, auroc, widening)
    unbounded = (keys["metric"] == "log_score").to_numpy()
    least, most = np.where(unbounded, -np.inf, 0), np.where(unbounded, 0, 1)
    low, high = np.clip(_limits(one, confidence), least, most)
    table = keys.assign(mean=one.estimate, low=low, high=high, seeds=len(probabilities))
    return table.dropna(subset="mean").reset_index(drop=True)


def difference(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    rhythms: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    auroc: bool = True,
    rounds: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the metrics of `second` minus the metrics of `first`, paired by test patient.

    Both settings are tested on the same records and resampled with the same patients, so that a
    patient that is hard for both cancels. Their seeds are resampled independently, since equal
    seeds of two settings are unrelated. See `interval` for the bootstrap, the limits and the
    other arguments.

    With several rounds, the variance is that of `interval` without the factor: both settings share
    the training records, and what these do cancels (see `benchmarks/coverage.py`). The factor
    remains where a setting has one seed, in place of the unknown variance over seeds.

    Args:
        auroc: whether to compute AUROC and average precision, which take most of the time.

    Returns:
        Rows of rhythm, metric, estimate, low, high, p. Limits lie between -1 and 1, except those
        of the log score. p is two-sided, from the t distribution of the limits, and not corrected
        for the number of comparisons.
    """
    check_shapes(truth, first, rhythms)
    check_shapes(truth, second, rhythms)
    change = _change(truth, first, second, patients, resamples, seed, auroc, rounds)
    keys = metric_keys(rhythms)
    low, high = _limits_of_difference(change, confidence, keys["metric"].to_numpy())
    table = keys.assign(estimate=change.estimate, low=low, high=high, p=_p_value(change))
    return table.dropna(subset="estimate").reset_index(drop=True)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values that are corrected for their number, in the same order; NaN stays NaN.

    The method is Holm's (Scand J Stat 6:65, 1979): it needs no assumption on their dependence.
    """
    corrected, order = np.full(len(p), np.nan), np.argsort(p, kind="stable")
    order = order[~np.isnan(p[order])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


@dataclass(frozen=True)
class VarianceParts:
    """What the variance of a paired difference is made of.

    Attributes:
        patients: variance over test patients; falls with their number.
        mixed: `[2]`, for each setting: seeds that err on different records. Falls with the number
            of test patients and with that of seeds. With one seed, `patients` has it.
        seeds: `[2]`, for each setting: what a training shifts for all patients alike. Falls with
            the number of seeds. With one seed, it is unknown, and 0 here.
        trainings: the number of seeds of each setting.
        rounds: the number of rounds of cross-fitting; 1 without.
    """

    patients: float
    mixed: np.ndarray
    seeds: np.ndarray
    trainings: tuple[int, int]
    rounds: int

    @property
    def counted(self) -> int:
        """How often the variance of the intervals counts `mixed`.

        In one round, patients and seeds are resampled together, and the expected variance of the
        resamples has `mixed` three times.
        """
        return 1 if self.rounds > 1 else 3

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the intervals."""
        variance = self.patients + self.counted * self.mixed.sum() + self.seeds.sum()
        doubt = sum(
            float(one) ** 2 / (self.rounds * (count - 1))
            for one, count in zip(self.mixed + self.seeds, self.trainings, strict=True)
            if count > 1
        )
        return float(variance**2 / doubt) if doubt else np.inf


def variance_parts(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    rhythms: Sequence[str],
    *,
    resamples: int,
    seed: int,
    metric: str = "f1",
    rounds: np.ndarray | None = None,
) -> VarianceParts:
    """Return the parts of the variance that the interval of `difference` has.

    Args:
        metric: a macro metric. For the other arguments, see `difference`.
    """
    keys, auroc = metric_keys(rhythms), metric in BY_RANK
    column = keys.index[(keys["rhythm"] == MACRO) & (keys["metric"] == metric)]
    parts = _parts(patients, rounds)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, parts, resamples, rng)
    settings, widening = (first, second), _widening_of_differences([first, second])
    before, after = (
        _resampled(truth, one, parts, weights, rng, auroc, widening).only(column)
        for one in settings
    )
    variance = float((after - before).error_and_freedom()[0].item() ** 2)
    rows = np.concatenate([np.ones((1, len(truth))), weights[:200]])
    mixed, seeds = np.zeros(2), np.zeros(2)
    for number, one in enumerate(settings):
        if len(one) > 1:
            total, by_record = _seed_variance(*_additive(truth, one, parts, rows, auroc))
            mixed[number] = min(total[column].item(), by_record[column].item())
            seeds[number] = total[column].item() - mixed[number]
    found = VarianceParts(0.0, mixed, seeds, (len(first), len(second)), len(parts))
    known = found.counted * mixed.sum() + seeds.sum()
    shrink = min(1.0, variance / known) if known else 1.0
    return VarianceParts(
        max(0.0, variance - known), mixed * shrink, seeds * shrink, found.trainings, found.rounds
    )


def simultaneous(
    truth: np.ndarray,
    conditions: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, int]],
    patients: np.ndarray,
    rhythms: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    metric: str = "f1",
    rounds: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return a family of paired differences of one macro metric, with bands that hold together.

    All conditions are resampled with the same patients, and each condition has one set of draws
    wherever it occurs. So the draws have the dependence of the estimates. Each draw of a difference
    is divided by its standard deviation. The smallest p-value of a draw over all differences
    gives the level at which each limit must hold so that all hold together (Westfall & Young,
    Resampling-Based Multiple Testing, 1993). With equal degrees of freedom this is the maximum of
    |t|. p-values are adjusted step by step (Romano & Wolf, Econometrica 73:1237, 2005).

    The level of the draws is normal, and the limits at that level are those of t distributions.
    So few degrees of freedom widen the bands. A band is never narrower than the limits of one
    comparison, and never wider than Bonferroni's. The limits of one comparison are exactly those of
    `difference`: they do not depend on the other conditions.

    Args:
        truth: `[records]`, class indices into `rhythms`.
        conditions: for each, probabilities `[seeds, records, rhythms]` of the same records.
        pairs: (first, second), indices into `conditions`; each difference is second minus first.
        patients: `[records]`.
        rhythms: names in class order.
        confidence: e.g. 0.95, of one comparison for low and high, of all for the bands.
        resamples: number of bootstrap resamples; at least 1000 for the bands of many pairs.
        seed: of the bootstrap.
        metric: a macro metric.
        rounds: `[records]`, see `interval`.

    Returns:
        A row for each pair: first, second, estimate, low, high, band_low, band_high, p,
        p_adjusted. p is from the t distribution of low and high.

    Raises:
        ValueError: there is no pair, shapes disagree, or a patient is in several rounds.
    """
    if not len(pairs):
        raise ValueError("no pairs to compare")
    for condition in conditions:
        check_shapes(truth, condition, rhythms)
    keys = metric_keys(rhythms)
    column = keys.index[(keys["rhythm"] == MACRO) & (keys["metric"] == metric)]
    parts = _parts(patients, rounds)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, parts, resamples, rng)
    widening = _widening_of_differences(conditions)
    samples = [
        _resampled(truth, condition, parts, weights, rng, metric in BY_RANK, widening).only(column)
        for condition in conditions
    ]
    family = _together([samples[second] - samples[first] for first, second in pairs])
    options = (patients, resamples, seed, metric in BY_RANK, rounds)
    each = [
        _change(truth, conditions[first], conditions[second], *options).only(column)
        for first, second in pairs
    ]
    alone, names = _together(each), np.full(len(pairs), metric)
    p = _p_value(alone)
    low, high = _limits_of_difference(alone, confidence, names)
    level, p_adjusted = _familywise(family, confidence)
    band_low, band_high = _limits_of_difference(family, 1 - level, names)
    return pd.DataFrame(pairs, columns=["first", "second"]).assign(
        estimate=family.estimate,
        low=low,
        high=high,
        # The family has other draws of the seeds, and one condition with one seed widens all.
        band_low=np.minimum(band_low, low),
        band_high=np.maximum(band_high, high),
        p=p,
        p_adjusted=np.maximum(p_adjusted, p),
    )


def f1_draws(
    truth: np.ndarray,
    settings: Sequence[np.ndarray],
    patients: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample the macro-F1 of several settings over test patients and seeds.

    This serves quantities that are neither a mean nor a difference, such as label efficiency.
    Patients are resampled as in `interval`, with the same patients for all settings. Each draw
    also moves a mean over k seeds by its standard error times a random number from the t
    distribution with k - 1 degrees of freedom; with one seed, it does not move the mean.

    Args:
        truth: `[records]`, class indices.
        settings: for each, probabilities `[seeds, records, rhythms]`.
        patients: `[records]`.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Means over seeds, `[settings]`, and draws, `[settings, resamples]`.
    """
    rng = np.random.default_rng(seed)
    drawn = _patient_weights(patients, _parts(patients, None), resamples, rng)
    weights = np.concatenate([np.ones((1, len(truth))), drawn])
    means, draws = [], []
    for probabilities in settings:
        seeds = len(probabilities)
        by_seed = np.stack(
            [
                nan_mean(f1_of_counts(*weighted_counts(truth, one, weights)), axis=1)
                for one in probabilities
            ]
        )
        mean, resampled = by_seed[:, 0].mean(), by_seed[:, 1:].mean(axis=0)
        off = (
            rng.standard_t(seeds - 1, resamples) * by_seed[:, 0].std(ddof=1) / np.sqrt(seeds)
            if seeds > 1
            else 0
        )
        means.append(mean)
        draws.append(np.clip(mean + resampled - resampled.mean() + off, 0, 1))
    return np.array(means), np.array(draws)


@dataclass(frozen=True)
class _Sample:
    """Metrics of a setting, or a difference of two, with resamples.

    Attributes:
        estimate: `[metrics]`.
        draws: `[resamples, metrics]`; their variance is that of the estimate.
        doubt: `[metrics]`: for each part of the variance that comes from few seeds, its square
            over its degrees of freedom, summed. The patients' part counts as known, since there are
            many patients.
    """

    estimate: np.ndarray
    draws: np.ndarray
    doubt: np.ndarray

    def __sub__(self, other: _Sample) -> _Sample:
        return _Sample(
            self.estimate - other.estimate, self.draws - other.draws, other.doubt + self.doubt
        )

    def only(self, columns: pd.Index) -> _Sample:
        """Return the sample of some metrics, by their positions."""
        return _Sample(self.estimate[columns], self.draws[:, columns], self.doubt[columns])

    def error_and_freedom(self) -> tuple[np.ndarray, np.ndarray]:
        """Return standard errors and their degrees of freedom, each `[metrics]`."""
        variance = nan_mean(np.square(self.draws - nan_mean(self.draws, axis=0)), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = variance**2 / self.doubt
        return np.sqrt(variance), np.where(self.doubt > 0, freedom, np.inf)


def _together(samples: Sequence[_Sample]) -> _Sample:
    return _Sample(
        np.concatenate([one.estimate for one in samples]),
        np.concatenate([one.draws for one in samples], axis=1),
        np.concatenate([one.doubt for one in samples]),
    )


def _limits(sample: _Sample, confidence: np.ndarray | float) -> np.ndarray:
    """Return limits around the estimate from a t distribution, `[2, metrics]`."""
    error, freedom = sample.error_and_freedom()
    half = student_t.ppf((1 + confidence) / 2, freedom) * error
    return np.stack([sample.estimate - half, sample.estimate + half])


def _limits_of_difference(
    sample: _Sample, confidence: np.ndarray | float, metrics: np.ndarray
) -> np.ndarray:
    """Return `_limits` of a difference. No difference of two shares is larger than 1, but limits
    from few seeds can lie beyond.
    """
    most = np.where(metrics == "log_score", np.inf, 1)
    return np.clip(_limits(sample, confidence), -most, most)


def _p_value(sample: _Sample) -> np.ndarray:
    """Return two-sided p-values from the t distribution of `_limits`, `[metrics]`."""
    error, freedom = sample.error_and_freedom()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(sample.estimate == 0, 0, np.abs(sample.estimate) / error)
    return 2 * student_t.sf(ratio, freedom)


def _familywise(family: _Sample, confidence: float) -> tuple[float, np.ndarray]:
    """Return the level of each comparison at which all hold together, and adjusted p-values,
    `[comparisons]`.
    """
    off = family.draws - family.draws.mean(axis=0)
    error = off.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = 2 * norm.sf(np.where(error > 0, np.abs(off) / error, 0))
    single, count = 1 - confidence, levels.shape[1]
    level = np.clip(np.quantile(levels.min(axis=1), single), single / count, single)
    p = _p_value(family)
    order = np.argsort(p, kind="stable")
    # the smallest level of a comparison and of all with a larger p
    least = np.minimum.accumulate(levels[:, order[::-1]], axis=1)[:, ::-1]
    stepped = (1 + (least <= p[order]).sum(axis=0)) / (1 + len(levels))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.maximum(stepped, p[order]))
    return float(level), adjusted


def _change(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    resamples: int,
    seed: int,
    auroc: bool,
    rounds: np.ndarray | None,
) -> _Sample:
    """Resample the metrics of `second` minus those of `first`, see `difference`."""
    parts = _parts(patients, rounds)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, parts, resamples, rng)
    widening = _widening_of_differences([first, second])
    before = _resampled(truth, first, parts, weights, rng, auroc, widening)
    return _resampled(truth, second, parts, weights, rng, auroc, widening) - before


def _widening_of_differences(settings: Sequence[np.ndarray]) -> float:
    """Return the factor on the variance over patients: the same for all settings, so that what they
    share still cancels.
    """
    return SHARED_RECORDS if min(len(setting) for setting in settings) == 1 else 1.0


def _parts(patients: np.ndarray, rounds: np.ndarray | None) -> list[np.ndarray]:
    """Return the records of each round, as indices.

    Raises:
        ValueError: a patient is in several rounds.
    """
    if rounds is None:
        return [np.arange(len(patients))]
    parts = [np.flatnonzero(rounds == number) for number in np.unique(rounds)]
    if sum(len(np.unique(patients[part])) for part in parts) > len(np.unique(patients)):
        raise ValueError("a patient is in several rounds")
    return parts


def _patient_weights(
    patients: np.ndarray, parts: Sequence[np.ndarray], resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the count of each record in each resample of patients, `[resamples, records]`. The
    patients of each round are resampled among themselves.
    """
    weights = np.empty((resamples, len(patients)))
    for part in parts:
        _, patient = np.unique(patients[part], return_inverse=True)
        count = patient.max() + 1
        weights[:, part] = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[
            :, patient
        ]
    return weights


def _resampled(
    truth: np.ndarray,
    probabilities: np.ndarray,
    parts: Sequence[np.ndarray],
    weights: np.ndarray,
    rng: np.random.Generator,
    auroc: bool = True,
    widening: np.ndarray | float = 1.0,
) -> _Sample:
    """Resample the metrics of one setting, in the order of `metric_keys`.

    Args:
        widening: factor on the variance over patients if there are several rounds, of all metrics
            or `[metrics]`.
    """
    rows = np.concatenate([np.ones((1, len(truth))), weights])
    if len(parts) > 1:
        return _cross_fitted(truth, probabilities, parts, rows, rng, auroc, widening)
    by_seed = np.stack([weighted_metrics(truth, one, rows, auroc) for one in probabilities])
    seeds = len(by_seed)
    drawn = rng.integers(seeds, size=(len(weights), max(1, seeds - 1)))
    draws = by_seed[drawn, 1 + np.arange(len(weights))[:, None]]
    found = by_seed[:, 0]
    estimate, doubt = nan_mean(found, axis=0), np.zeros(found.shape[1])
    if seeds > 1:
        part = nan_mean(np.square(found - estimate), axis=0) / (seeds - 1)
        doubt += part**2 / (seeds - 1)
    return _Sample(estimate, nan_mean(draws, axis=1), doubt)


def _cross_fitted(
    truth: np.ndarray,
    probabilities: np.ndarray,
    parts: Sequence[np.ndarray],
    rows: np.ndarray,
    rng: np.random.Generator,
    auroc: bool,
    widening: np.ndarray | float,
) -> _Sample:
    """Resample the metrics of one setting over several rounds.

    The draws are over patients, with one normal random number added for the seeds.

    Args:
        rows: weights `[1 + resamples, records]`, the first row of ones.
    """
    counts, shares = _additive(truth, probabilities, parts, rows, auroc)
    pooled = np.stack(
        [_of_counts(*one) for one in zip(counts.sum(axis=1), shares.sum(axis=1), strict=True)]
    )
    over_seeds = nan_mean(pooled, axis=0)
    centre = nan_mean(over_seeds[1:], axis=0)
    draws = centre + np.sqrt(widening) * (over_seeds[1:] - centre)
    doubt = np.zeros(pooled.shape[2])
    seeds = len(counts)
    if seeds > 1:
        # two hundred resamples suffice for a variance
        total, by_record = _seed_variance(counts[:, :, :201], shares[:, :, :201])
        shift = np.maximum(0, total - by_record)
        draws = draws + rng.standard_normal((len(draws), 1)) * np.sqrt(shift)
        doubt = total**2 / (len(parts) * (seeds - 1))
    return _Sample(over_seeds[0], draws, doubt)


def _additive(
    truth: np.ndarray,
    probabilities: np.ndarray,
    parts: Sequence[np.ndarray],
    rows: np.ndarray,
    auroc: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what can be summed over rounds, under each row of record weights.

    Returns:
        Records of each rhythm taken for each rhythm, `[seeds, rounds, rows, rhythms ** 2]`, and
        shares of AUROC, of average precision and of the log score, `[seeds, rounds, rows,
        2 * rhythms + 1]`: a round's value times the share that the round has of all pairs of
        records, of all records of the rhythm, or of all records.
    """
    classes = probabilities.shape[2]
    cells = np.eye(classes**2)[truth * classes + probabilities.argmax(axis=2)]
    counts = np.stack([rows[:, part] @ cells[:, part] for part in parts], axis=1)
    total = rows.sum(axis=1)
    shares = np.full((*counts.shape[:3], len(BY_RANK) * classes + 1), np.nan)
    for seed, one in enumerate(probabilities):
        logs = log_probabilities(truth, one)
        shares[seed, :, :, -1] = [rows[:, part] @ logs[part] / total for part in parts]
    if auroc:
        of = [
            (truth[part], probabilities[:, part], np.ascontiguousarray(rows[:, part]))
            for part in parts
        ]
        # [rounds, areas, rows, rhythms]
        held = np.stack([_held(labels, weights, classes) for labels, _, weights in of])
        with np.errstate(invalid="ignore", divide="ignore"):
            share = held / held.sum(axis=0)
        for number, (labels, scores, weights) in enumerate(of):
            for seed, one in enumerate(scores):
                found = weighted_areas(labels, one, weights)
                each = np.where(held[number] > 0, found, 0) * share[number]
                shares[seed, number, :, :-1] = np.concatenate(list(each), axis=1)
    return counts, shares


def _held(labels: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Return the number of pairs of a record of each rhythm and one of another, and the number of
    records of each rhythm, `[2, rows, rhythms]`, under each row of record weights.
    """
    support = weights @ np.eye(classes)[labels]
    return np.stack([support * (weights.sum(axis=1, keepdims=True) - support), support])


def _of_counts(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the metrics of pooled counts `[rows, rhythms ** 2]` and of pooled shares `[rows,
    2 * rhythms + 1]`: `[rows, metrics]`.
    """
    classes = shares.shape[1] // len(BY_RANK)
    each = np.arange(classes**2)
    table = weighted_metrics(each // classes, np.eye(classes)[each % classes], counts, auroc=False)
    table[:, ALL_MACRO.index("log_score")] = shares[:, -1]
    table[:, -len(BY_RANK) * classes :] = shares[:, :-1]
    for metric, areas in zip(BY_RANK, np.split(shares[:, :-1], len(BY_RANK), axis=1), strict=True):
        table[:, ALL_MACRO.index(metric)] = nan_mean(areas, axis=1)
    return table


def _seed_variance(counts: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the mean over seeds that comes from the seeds, and the part of it that
    is a matter of single records, each `[metrics]`.

    The variance over patients already has the latter: a seed errs on other records, and a mean over
    these records and seeds varies no more for it. For each round and seed, that seed stands for all
    seeds of its round, with all seeds in the other rounds. Seeds of different rounds are unrelated,
    so variances are summed over rounds.
    """
    seeds, rounds = counts.shape[:2]
    total = by_record = np.zeros(())
    for number in range(rounds):
        # seeds times as many counts: whole numbers
        values = np.stack(
            [
                _of_counts(
                    *(
                        one.sum(axis=(0, 1))
                        - one[:, number].sum(axis=0)
                        + seeds * one[seed, number]
                        for one in (counts, shares / seeds)
                    )
                )
                for seed in range(seeds)
            ]
        )
        off = values - nan_mean(values, axis=0)
        squares = np.square(off - nan_mean(off[:, 1:], axis=1)[:, None])[:, 1:]
        total = total + nan_mean(np.square(off[:, 0]), axis=0) / (seeds - 1)
        by_record = by_record + nan_mean(nan_mean(squares, axis=1), axis=0) / (seeds - 1)
    return total, by_record
