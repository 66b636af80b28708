"""Intervals of a classifier's metrics over seeds and test patients, and paired differences between
two settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from ecgforge.study.metrics import (
    check_shapes,
    f1_of_counts,
    metric_keys,
    nan_mean,
    weighted_counts,
    weighted_metrics,
)


def interval(
    truth: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    rhythms: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
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
    seeds. All metrics and limits lie between 0 and 1.

    Args:
        truth: `[records]`, class indices into `rhythms`.
        probabilities: `[seeds, records, rhythms]`.
        patients: `[records]`.
        rhythms: names in class order.
        confidence: e.g. 0.95.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        Rows of rhythm (`macro` or one), metric, mean, low, high, seeds.
    """
    check_shapes(truth, probabilities, rhythms)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, resamples, rng)
    found, draws = _resampled(truth, probabilities, weights, rng)
    mean = nan_mean(found, axis=0)
    low, high = np.clip(_t_limits(mean, draws, [found], confidence), 0, 1)
    table = metric_keys(rhythms).assign(mean=mean, low=low, high=high, seeds=len(probabilities))
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
) -> pd.DataFrame:
    """Return the metrics of `second` minus the metrics of `first`, paired by test patient.

    Both settings are tested on the same records and resampled with the same patients, so that a
    patient that is hard for both cancels. Their seeds are resampled independently, since equal
    seeds of two settings are unrelated. See `interval` for the bootstrap, the limits and the
    other arguments.

    Args:
        auroc: whether to compute the AUROC, which takes most of the time.

    Returns:
        Rows of rhythm, metric, estimate, low, high, p. p is two-sided, from the share of resamples
        on the other side of zero, and at least 2 / (1 + resamples). It is not corrected for the
        number of comparisons.
    """
    check_shapes(truth, first, rhythms)
    check_shapes(truth, second, rhythms)
    rng = np.random.default_rng(seed)
    weights = _patient_weights(patients, resamples, rng)
    first_found, first_draws = _resampled(truth, first, weights, rng, auroc)
    second_found, second_draws = _resampled(truth, second, weights, rng, auroc)
    estimate, draws = (
        nan_mean(second_found, axis=0) - nan_mean(first_found, axis=0),
        second_draws - first_draws,
    )
    low, high = _t_limits(estimate, draws, [first_found, second_found], confidence)
    beyond = np.minimum((draws <= 0).sum(axis=0), (draws >= 0).sum(axis=0))
    p = np.minimum(1, 2 * (1 + beyond) / (1 + resamples))
    table = metric_keys(rhythms).assign(estimate=estimate, low=low, high=high, p=p)
    return table.dropna(subset="estimate").reset_index(drop=True)


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
    weights = np.concatenate([np.ones((1, len(truth))), _patient_weights(patients, resamples, rng)])
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


def _t_limits(
    estimate: np.ndarray, draws: np.ndarray, by_seed: Sequence[np.ndarray], confidence: float
) -> np.ndarray:
    """Return limits around `estimate`, `[2, metrics]`, from the variance of the draws.

    Args:
        estimate: `[metrics]`.
        draws: `[resamples, metrics]`.
        by_seed: for each setting, `[seeds, metrics]`. Their part of the variance has as many
            degrees of freedom as there are seeds, minus one. The patients' part counts as known,
            since there are many patients.
        confidence: e.g. 0.95.
    """
    variance = nan_mean(np.square(draws - nan_mean(draws, axis=0)), axis=0)
    doubt = np.zeros_like(variance)
    for values in by_seed:
        seeds = len(values)
        if seeds > 1:
            part = nan_mean(np.square(values - nan_mean(values, axis=0)), axis=0) / (seeds - 1)
            doubt += part**2 / (seeds - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / doubt
    half = student_t.ppf((1 + confidence) / 2, np.where(doubt > 0, freedom, np.inf)) * np.sqrt(
        variance
    )
    return np.stack([estimate - half, estimate + half])


def _patient_weights(patients: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the count of each record in each resample of patients, `[resamples, records]`."""
    _, patient = np.unique(patients, return_inverse=True)
    count = patient.max() + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, patient].astype(
        float
    )


def _resampled(
    truth: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    rng: np.random.Generator,
    auroc: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return metrics in the order of `metric_keys`: of each seed, `[seeds, metrics]`, and resampled
    means over seeds, `[resamples, metrics]`.
    """
    once = np.ones((1, len(truth)))
    by_seed = np.stack(
        [
            weighted_metrics(truth, one, np.concatenate([once, weights]), auroc)
            for one in probabilities
        ]
    )
    seeds = len(by_seed)
    drawn = rng.integers(seeds, size=(len(weights), max(1, seeds - 1)))
    draws = by_seed[drawn, 1 + np.arange(len(weights))[:, None]]
    return by_seed[:, 0], nan_mean(draws, axis=1)
