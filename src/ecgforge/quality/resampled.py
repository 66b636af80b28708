"""Distances of many bootstrap resamples at once.

A resample is a column of weights: how often each record is drawn. So a sample is sorted, multiplied
or squared once for all resamples. Each function returns the same as the plain distance of the drawn
records, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgforge.quality import coherence

Weights = np.ndarray  # how often each record is drawn, `[records, resamples]`
# measurements of two samples and their weights, to the distances `[resamples]`
Distance = Callable[[np.ndarray, np.ndarray, Weights, Weights], np.ndarray]

PART = 2**22  # numbers in memory at a time for second moments


def draw(strata: np.ndarray, resamples: int, seed: int) -> tuple[Weights, Weights]:
    """Draw resamples of two samples within strata.

    Args:
        strata: sorted, `[records]`; record i of both samples has the stratum `strata[i]`.
        resamples: number of resamples.
        seed: of the resamples.
    """
    rng, records = np.random.default_rng(seed), len(strata)
    _, starts, counts = np.unique(strata, return_index=True, return_counts=True)
    start, count = np.repeat(starts, counts), np.repeat(counts, counts)
    drawn = start + (rng.random((resamples, 2, records)) * count).astype(int)
    cells = drawn + records * np.arange(2 * resamples).reshape(resamples, 2, 1)
    weights = np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape)
    first, second = weights.transpose(1, 2, 0).astype(float)
    return first, second


def w1(first: np.ndarray, second: np.ndarray, one: Weights, other: Weights) -> np.ndarray:
    """Return `physiology.wasserstein` of each resample."""
    gaps, widths, empty = _gaps(first, second, one, other)
    return np.where(empty, np.nan, widths @ np.abs(gaps))


def ks(first: np.ndarray, second: np.ndarray, one: Weights, other: Weights) -> np.ndarray:
    """Return `waves.ks` of each resample."""
    gaps, widths, empty = _gaps(first, second, one, other)
    # Between equal values, a distribution function has not taken its whole step.
    return np.where(empty, np.nan, np.abs(gaps[widths > 0]).max(axis=0, initial=0))


def _gaps(
    first: np.ndarray, second: np.ndarray, one: Weights, other: Weights
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the differences of the distribution functions between neighbouring values, `[values -
    1, resamples]`, the distances of these values, and which resamples have no values of a sample.
    Missing values are left out.
    """
    present, other_present = ~np.isnan(first), ~np.isnan(second)
    one, other = one[present], other[other_present]
    count, other_count = one.sum(axis=0), other.sum(axis=0)
    pooled = np.concatenate([first[present], second[other_present]])
    steps = np.concatenate([one / np.maximum(count, 1), -other / np.maximum(other_count, 1)])
    order = np.argsort(pooled)
    gaps = steps[order].cumsum(axis=0)[:-1]
    return gaps, np.diff(pooled[order]), (count == 0) | (other_count == 0)


def psd(first: np.ndarray, second: np.ndarray, one: Weights, other: Weights) -> np.ndarray:
    """Return `spectrum.distance` of each resample."""
    mean, other_mean = (
        _means(sample.reshape(len(sample), -1), weights)
        for sample, weights in ((first, one), (second, other))
    )
    return 10 * np.abs(mean - other_mean).mean(axis=1)


def correlation_error(
    first: np.ndarray, second: np.ndarray, one: Weights, other: Weights
) -> np.ndarray:
    """Return `coherence.error` of each resample."""
    mean, other_mean = (
        np.tanh(_means(coherence.fisher_z(sample), weights))
        for sample, weights in ((first, one), (second, other))
    )
    return np.abs(mean - other_mean).mean(axis=1)


def correlation_w1(
    first: np.ndarray, second: np.ndarray, one: Weights, other: Weights
) -> np.ndarray:
    """Return `coherence.w1` of each resample."""
    pairs = zip(first.T, second.T, strict=True)
    return np.mean([w1(*pair, one, other) for pair in pairs], axis=0)


def correlation_spread(
    first: np.ndarray, second: np.ndarray, one: Weights, other: Weights
) -> np.ndarray:
    """Return `coherence.spread` of each resample."""
    real, made = (
        _deviations(coherence.fisher_z(sample), weights).mean(axis=1)
        for sample, weights in ((first, one), (second, other))
    )
    return np.asarray(made / real)


def frechet(first: np.ndarray, second: np.ndarray, one: Weights, other: Weights) -> np.ndarray:
    """Return `distribution.frechet` of each resample."""
    (mean, shrunk), (other_mean, other_shrunk) = (
        _gaussians(sample, weights) for sample, weights in ((first, one), (second, other))
    )
    variances, axes = np.linalg.eigh(shrunk)
    root = axes * np.sqrt(np.maximum(variances, 0))[:, None]
    product = np.linalg.eigvalsh(root.transpose(0, 2, 1) @ other_shrunk @ root)
    common = np.sqrt(np.maximum(product, 0)).sum(axis=1)
    apart = np.square(mean - other_mean).sum(axis=1)
    traces = np.trace(shrunk + other_shrunk, axis1=1, axis2=2)
    return np.maximum(0, apart + traces - 2 * common)


def _gaussians(sample: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, `[resamples, features]`, and the shrunk covariance, `[resamples, features,
    features]`, of each resample.

    The shrinkage is that of Ledoit & Wolf (J Multivar Anal 88:365, 2004, sec. 3.3), as in
    `sklearn.covariance.ledoit_wolf`.
    """
    count, size = weights[:, 0].sum(), sample.shape[1]
    # Around the mean of the sample, the means of resamples are small, and few digits cancel.
    centre = sample.mean(axis=0)
    apart = sample - centre
    mean = _means(apart, weights)
    covariance = _second_moments(apart, weights) / count - mean[:, :, None] * mean[:, None]
    # squared distance of each record to the mean of each resample
    distances = np.square(apart).sum(axis=1)[:, None] - 2 * apart @ mean.T
    distances += np.square(mean).sum(axis=1)
    scale = np.trace(covariance, axis1=1, axis2=2) / size
    squares = np.square(covariance).sum(axis=(1, 2))
    noise = ((weights * np.square(distances)).sum(axis=0) / count - squares) / (size * count)
    spread = squares / size - np.square(scale)
    noise = np.minimum(noise, spread)
    # A sample without spread needs no shrinkage.
    shrinkage = np.divide(noise, spread, out=np.zeros_like(noise), where=noise > 0)
    shrunk = (1 - shrinkage)[:, None, None] * covariance
    shrunk += (shrinkage * scale)[:, None, None] * np.eye(size)
    return mean + centre, shrunk


def _means(sample: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the mean of each resample, `[resamples, features]`."""
    return weights.T @ sample / weights[:, 0].sum()


def _deviations(sample: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the standard deviation of each resample, `[resamples, features]`."""
    # Around the mean of the sample, few digits cancel.
    apart = sample - sample.mean(axis=0)
    variances = _means(np.square(apart), weights) - np.square(_means(apart, weights))
    return np.sqrt(np.maximum(variances, 0))


def _second_moments(sample: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the sum over records of the outer products of features with themselves, `[resamples,
    features, features]`, in parts of the records.
    """
    size = sample.shape[1]
    found = np.zeros((weights.shape[1], size * size))
    records = max(1, PART // size**2)
    for start in range(0, len(sample), records):
        part = sample[start : start + records]
        outer = part[:, :, None] * part[:, None]
        found += weights[start : start + records].T @ outer.reshape(len(part), -1)
    return found.reshape(-1, size, size)
