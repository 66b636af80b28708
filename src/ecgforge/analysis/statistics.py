"""Figures of a classifier, their intervals over seeds and test records, and paired differences
between two settings.
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
    """Give every figure of `metrics` as a mean over training seeds, with an interval over seeds and
    test patients by the bootstrap.

    Test patients, with all their records, and seeds are resampled independently of each other,
    since every seed's classifier is tested on the same records (the pigeonhole bootstrap: Owen, Ann
    Appl Stat 1:386, 2007). Of k seeds k - 1 are drawn, so that their spread comes out unbiased
    where they are few (Rao & Wu, J Am Stat Assoc 83:231, 1988). One seed alone says nothing about
    seeds: then the interval is over test patients only.

    Limits are those of a t law with the resamples' standard deviation, for which some hundred
    resamples suffice (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sec. 13.2 and
    6.4), and with as many degrees of freedom as so few seeds leave (Satterthwaite, Biometrics
    Bulletin 2:110, 1946): percentiles of two or three seeds know nothing beyond these. All figures
    lie between 0 and 1, and so do their limits.

    Args:
        truth: `[records]`, class indices into `rhythms`.
        probabilities: `[seeds, records, rhythms]`.
        patients: `[records]`.
        rhythms: in class order.
        confidence: e.g. 0.95.
        resamples: of the bootstrap.
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
    """Compare two settings tested on the same records: every figure of `second` less that of
    `first`, paired by test patient.

    Both are judged on the same resampled patients, so that what makes a patient hard for both
    cancels; their seeds are resampled apart, since equal seeds of two settings have nothing else in
    common. See `interval` for the bootstrap, the limits and the arguments.

    Args:
        auroc: whether it is wanted, which takes most of the time.

    Returns:
        Rows of rhythm, metric, estimate, low, high, p; p is two-sided, from the share of resamples
        on the far side of zero, and no smaller than 2 / (1 + resamples). It is not corrected for
        the number of comparisons.
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
    arms: Sequence[np.ndarray],
    patients: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw macro-F1 of several settings as other test patients, the same for all, and other seeds
    might have it: for what is no mean or difference of them.

    Patients are resampled as for `interval`, and what makes them hard for all cancels. A mean over
    k seeds is off by their standard error times a draw of the t law with k - 1 degrees of freedom;
    one seed alone says nothing about seeds.

    Args:
        truth: `[records]`, class indices.
        arms: of each setting, `[seeds, records, rhythms]`.
        patients: `[records]`.

    Returns:
        Means over seeds, `[arms]`, and draws, `[arms, resamples]`.
    """
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, len(truth))), _patient_weights(patients, resamples, rng)])
    means, draws = [], []
    for probabilities in arms:
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
    """Limits about `estimate`, `[figures]`, by the spread of `[resamples, figures]`, `[2,
    figures]`.

    Args:
        by_seed: of each arm, `[seeds, figures]`. Their part of the spread is known as well as their
            number allows; that of patients, of whom there are many, as well as can be.
    """
    variance = nan_mean(np.square(draws - nan_mean(draws, axis=0)), axis=0)
    doubt = np.zeros_like(variance)
    for figures in by_seed:
        seeds = len(figures)
        if seeds > 1:
            part = nan_mean(np.square(figures - nan_mean(figures, axis=0)), axis=0) / (seeds - 1)
            doubt += part**2 / (seeds - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / doubt
    half = student_t.ppf((1 + confidence) / 2, np.where(doubt > 0, freedom, np.inf)) * np.sqrt(
        variance
    )
    return np.stack([estimate - half, estimate + half])


def _patient_weights(patients: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each record is in each resample of patients, `[resamples, records]`."""
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
    """Figures in the order of `metric_keys`: of each seed, `[seeds, figures]`, and resampled means
    over seeds, `[resamples, figures]`.
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
