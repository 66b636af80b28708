"""A label-free embedding of records, the maximum mean discrepancy and the Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgforge.quality import resampled

TAPS = 9
KERNELS = 252
FITTED = 16  # records that biases are drawn from
CHUNK = 4  # records convolved at a time; the outputs of more leave the cache
BANDWIDTHS = (0.5, 1.0, 2.0)  # multiples of the pooled sample's median distance


@dataclass(frozen=True)
class Embedding:
    """Random convolutional features after ROCKET (Dempster et al., Data Min Knowl Disc 34:1454,
    2020).

    Fixed random kernels over all leads have dilations up to the length of the record. The features
    of a kernel are the share of outputs above a bias, and the maximum. They do not depend on labels
    or on the positions of beats. The outputs also include the leads themselves, since the kernels
    sum to zero and do not see an offset. Biases are outputs on the fitted records (MiniRocket, KDD
    2021).

    Attributes:
        kernels: by dilation, `[kernels of that dilation, TAPS * leads]`.
        scale: standard deviation of each lead in the fitted records, `[leads, 1]`.
        biases: by dilation, `[kernels of that dilation, 1]`.
        centre, spread: of each feature in the fitted records, `[features]`.
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
        few = signals[rng.permutation(len(signals))[:FITTED]] / scale
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
    """Return powers of two with which a kernel fits into the record."""
    return [2**power for power in range(12) if 2**power * (TAPS - 1) < samples]


def _kernels(count: int, leads: int, rng: np.random.Generator) -> np.ndarray:
    """Return random kernels that sum to zero over time in each lead, `[count, TAPS * leads]`."""
    weights = rng.standard_normal((count, TAPS, leads), dtype=np.float32)
    return (weights - weights.mean(axis=1, keepdims=True)).reshape(count, -1)


def _windows(signals: np.ndarray, dilation: int) -> np.ndarray:
    """Return the inputs of a dilated kernel at each position, `[records, TAPS * leads, places]`."""
    places = signals.shape[-1] - dilation * (TAPS - 1)
    return np.concatenate(
        [signals[..., tap * dilation : tap * dilation + places] for tap in range(TAPS)], axis=1
    )


def _random_quantiles(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random output of each kernel: `[records, kernels, places]` to `[kernels, 1]`."""
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
            # A sum of bytes is faster than `count_nonzero` along an axis.
            above = (outputs > biases[dilation]).view(np.uint8).sum(axis=-1, dtype=np.uint32)
            pooled += [above / outputs.shape[-1], outputs.max(axis=-1)]
        rows.append(np.concatenate(pooled, axis=1))
    return np.concatenate(rows).astype(np.float64)


def mmd(
    first: np.ndarray,
    second: np.ndarray,
    strata: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the unbiased squared maximum mean discrepancy and its permutation p-value.

    The estimate leaves out pairs of a record with itself (Gretton et al., JMLR 13:723, 2012, eq.
    3). It is zero on average for samples of the same distribution, so single values can be
    negative. The kernel is a mean of Gaussians; their widths are multiples of the median distance
    in the pooled sample. All three terms have the same kernel.

    Args:
        first, second: embedded records, `[records, features]`, of equal size, two or more.
        strata: `[records]`; record i of both has the stratum `strata[i]`. Permutations keep the
            strata, since both samples have equal numbers of records in each; other permutations
            would have larger distances than any possible sample.
        permutations: of the pooled sample. The p-value is (1 + number of permutations with an equal
            or larger value) / (1 + permutations).
        rng: random generator of the permutations.

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
    """Return the kernel matrix with a diagonal of zeros, `[records, records]`."""
    squares = np.square(pooled).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * pooled @ pooled.T, 0)
    median = np.median(distances[np.triu_indices(len(pooled), 1)])
    kernel = sum(np.exp(-distances / (2 * median * width**2)) for width in BANDWIDTHS) / len(
        BANDWIDTHS
    )
    np.fill_diagonal(kernel, 0)
    return kernel


def _mmd2(kernel: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the unbiased MMD^2 for each column of `sides`, `[records, splits]` bool; all columns
    have equal numbers of records on a side.
    """
    first, second = sides.astype(float), (~sides).astype(float)
    m, n = first[:, 0].sum(), second[:, 0].sum()
    within_first = np.sum(first * (kernel @ first), axis=0) / (m * (m - 1))
    within_second = np.sum(second * (kernel @ second), axis=0) / (n * (n - 1))
    between = np.sum(first * (kernel @ second), axis=0) / (m * n)
    return within_first + within_second - 2 * between


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to two sets of embedded records,
    `[records, features]`.

    The distance is the squared distance of the means, plus the traces of both covariances, minus
    twice the trace of the root of their product (Heusel et al., NeurIPS 2017, eq. 6, after Dowson &
    Landau, J Multivar Anal 12:450, 1982). With few records, the covariances are shrunk towards a
    multiple of the identity (Ledoit & Wolf, J Multivar Anal 88:365, 2004).

    The estimate is biased: sets of the same distribution have a positive distance, which decreases
    with the number of records. Only values with equal numbers of records can be compared, as with
    the baseline, and ranked.
    """
    once = (np.ones((len(sample), 1)) for sample in (first, second))
    return float(resampled.frechet(first, second, *once)[0])


def surrogates(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return surrogates: records with random phases, without beats, but with the same spectra and
    correlations between leads.

    The method is that of Theiler et al. (Physica D 58:77, 1992), with the same phases for all leads
    of a record (Prichard & Theiler, PRL 73:951, 1994).
    """
    spectrum = np.fft.rfft(signals)
    turn = np.exp(2j * np.pi * rng.random((len(signals), 1, spectrum.shape[-1])))
    return np.fft.irfft(spectrum * turn, signals.shape[-1]).astype(np.float32)
