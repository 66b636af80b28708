"""A label-free embedding of records, and the maximum mean discrepancy and the Fréchet distance in
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

TAPS = 9
KERNELS = 252
CHUNK = 16  # records convolved at a time
BANDWIDTHS = (0.5, 1.0, 2.0)  # of the pooled sample's median distance


@dataclass(frozen=True)
class Embedding:
    """Random convolutional features after ROCKET (Dempster et al., Data Min Knowl Disc 34:1454,
    2020).

    Fixed random kernels over all leads, in dilations up to the record's length, each pooled over
    time to the share of outputs above a bias and to their maximum: blind to labels and to where in
    the record a beat lies. The leads themselves are among the outputs, since ROCKET's kernels sum
    to zero and miss an offset; biases are outputs on the records fitted to (MiniRocket, KDD 2021).

    Attributes:
        kernels: by dilation, `[kernels of that dilation, TAPS * leads]`.
        scale: standard deviation of each lead in the records fitted to, `[leads, 1]`.
        biases: by dilation, `[kernels of that dilation, 1]`.
        centre, spread: of each feature in the records fitted to, `[features]`.
    """

    kernels: dict[int, np.ndarray]
    scale: np.ndarray
    biases: dict[int, np.ndarray]
    centre: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, signals: np.ndarray, seed: int) -> Embedding:
        """Draw kernels from `seed`, and scale, biases and standardisation from real `signals`,
        `[records, leads, samples]`.
        """
        rng = np.random.default_rng(seed)
        _, leads, samples = signals.shape
        scale = signals.std(axis=(0, 2))[:, None]
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        dilations = _dilations(samples)
        kernels = {
            dilation: _kernels(KERNELS // len(dilations), leads, rng) for dilation in dilations
        }
        kernels[1] = np.concatenate(
            [kernels[1], np.eye(leads, TAPS * leads, k=TAPS // 2 * leads, dtype=np.float32)]
        )
        few = signals[rng.permutation(len(signals))[:CHUNK]] / scale
        biases = {
            d: _random_quantiles(kernel @ _windows(few, d), rng) for d, kernel in kernels.items()
        }
        raw = _features(signals, kernels, scale, biases)
        spread = raw.std(axis=0)
        return cls(kernels, scale, biases, raw.mean(axis=0), np.where(spread > 0, spread, 1))

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """Embed `signals`, `[records, leads, samples]`, as `[records, features]`."""
        return (
            _features(signals, self.kernels, self.scale, self.biases) - self.centre
        ) / self.spread


def _dilations(samples: int) -> list[int]:
    """Powers of two, as far as a kernel fits into the record."""
    return [2**power for power in range(12) if 2**power * (TAPS - 1) < samples]


def _kernels(count: int, leads: int, rng: np.random.Generator) -> np.ndarray:
    """Random kernels that sum to zero over time in each lead, `[count, TAPS * leads]`."""
    weights = rng.standard_normal((count, TAPS, leads), dtype=np.float32)
    return (weights - weights.mean(axis=1, keepdims=True)).reshape(count, -1)


def _windows(signals: np.ndarray, dilation: int) -> np.ndarray:
    """What a dilated kernel sees at each of its places, `[records, TAPS * leads, places]`."""
    places = signals.shape[-1] - dilation * (TAPS - 1)
    return np.concatenate(
        [signals[..., tap * dilation : tap * dilation + places] for tap in range(TAPS)], axis=1
    )


def _random_quantiles(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One output of each kernel, drawn at random:

    `[records, kernels, places]` to `[kernels, 1]`.
    """
    records, kernels, places = outputs.shape
    return outputs[
        rng.integers(records, size=kernels), np.arange(kernels), rng.integers(places, size=kernels)
    ][:, None]


def _features(
    signals: np.ndarray,
    kernels: dict[int, np.ndarray],
    scale: np.ndarray,
    biases: dict[int, np.ndarray],
) -> np.ndarray:
    rows = []
    for start in range(0, len(signals), CHUNK):
        chunk = (signals[start : start + CHUNK] / scale).astype(np.float32)
        pooled = []
        for dilation, kernel in kernels.items():
            outputs = kernel @ _windows(chunk, dilation)
            pooled += [
                np.count_nonzero(outputs > biases[dilation], axis=-1) / outputs.shape[-1],
                outputs.max(axis=-1),
            ]
        rows.append(np.concatenate(pooled, axis=1))
    return np.concatenate(rows).astype(np.float64)


def mmd(
    first: np.ndarray,
    second: np.ndarray,
    strata: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy and its permutation p-value.

    Gretton et al., JMLR 13:723 (2012), eq. 3: pairs of a record with itself are left out, so that
    the mean over samples of one law is zero and single values may be negative. The kernel is a mean
    of Gaussians whose widths are multiples of the median distance in the pooled sample: one kernel
    for all three terms, since terms of different kernels do not subtract.

    Args:
        first, second: embedded records, `[records, features]`, as many of each, two or more.
        strata: `[records]`; record i of both belongs to stratum `strata[i]`. Since both samples
            have as many records of each, sides are permuted within strata: splits that mix rhythms
            unevenly would be further apart than any that could have been drawn.
        permutations: of the pooled sample, for the p-value; it is (1 + as large ones) / (1 +
            permutations).

    Returns:
        MMD^2 and p.
    """
    kernel = _kernel(np.concatenate([first, second]))
    sides = np.tile(np.arange(len(kernel)) < len(first), (1 + permutations, 1))
    both = np.concatenate([strata, strata])
    for stratum in np.unique(strata):
        sides[1:, both == stratum] = rng.permuted(sides[1:, both == stratum], axis=1)
    observed, *permuted = _mmd2(kernel, sides.T)
    return float(observed), float((1 + np.sum(np.array(permuted) >= observed)) / (1 + permutations))


def _kernel(pooled: np.ndarray) -> np.ndarray:
    """Kernel matrix without its diagonal, `[records, records]`."""
    squares = np.square(pooled).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * pooled @ pooled.T, 0)
    median = np.median(distances[np.triu_indices(len(pooled), 1)])
    kernel = sum(np.exp(-distances / (2 * median * width**2)) for width in BANDWIDTHS) / len(
        BANDWIDTHS
    )
    np.fill_diagonal(kernel, 0)
    return kernel


def _mmd2(kernel: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Unbiased MMD^2 for each column of `sides`, `[records, splits]` bool, all columns with as many
    records on a side.
    """
    first, second = sides.astype(float), (~sides).astype(float)
    m, n = first[:, 0].sum(), second[:, 0].sum()
    within_first = np.sum(first * (kernel @ first), axis=0) / (m * (m - 1))
    within_second = np.sum(second * (kernel @ second), axis=0) / (n * (n - 1))
    between = np.sum(first * (kernel @ second), axis=0) / (m * n)
    return within_first + within_second - 2 * between


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of embedded records, `[records,
    features]`, squared as is usual.

    Heusel et al., NeurIPS 2017, eq. 6, after Dowson & Landau, J Multivar Anal 12:450 (1982): the
    squared distance of means, and the traces of both covariances less twice that of the root of
    their product. That trace is also the sum of the singular values of the product of their roots,
    which needs no root of an unsymmetric matrix. There are more features than records, so
    covariances are shrunk towards a multiple of the identity (Ledoit & Wolf, J Multivar Anal
    88:365, 2004).

    It is biased: sets of one law are apart, by less the more records they have. Values compare only
    at equal numbers of records, as with the real-against-real baseline, and rank; shrinkage hides
    differences in covariance that few records cannot show.
    """
    shrunk_first, shrunk_second = ledoit_wolf(first)[0], ledoit_wolf(second)[0]
    common = np.linalg.svd(_root(shrunk_first) @ _root(shrunk_second), compute_uv=False).sum()
    apart = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return max(0.0, float(apart + np.trace(shrunk_first) + np.trace(shrunk_second) - 2 * common))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root of a covariance matrix."""
    variances, axes = np.linalg.eigh(covariance)
    return axes * np.sqrt(np.maximum(variances, 0)) @ axes.T


def surrogates(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return records with the same spectra and correlations between leads and with random phases,
    in which no beat is left.

    Theiler et al., Physica D 58:77 (1992), one phase for all leads of a record (Prichard & Theiler,
    PRL 73:951, 1994).
    """
    spectrum = np.fft.rfft(signals)
    turn = np.exp(2j * np.pi * rng.random((len(signals), 1, spectrum.shape[-1])))
    return np.fft.irfft(spectrum * turn, signals.shape[-1]).astype(np.float32)
