"""Fast routines of the quality scores: each equals the plain routine of a library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ecgforge.quality import (
    coherence,
    distances,
    distribution,
    manifold,
    memorisation,
    resampled,
    spectrum,
    two_sample,
)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 12)
often = settings(max_examples=40, deadline=None)


def values(rng: np.random.Generator, shape: tuple[int, ...], tied: bool) -> np.ndarray:
    """Random numbers; `tied` ones are small integers."""
    return rng.integers(-2, 3, shape).astype(float) if tied else rng.standard_normal(shape)


def drawn(sample: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The records of each resample."""
    return [np.repeat(sample, column.astype(int), axis=0) for column in weights.T]


def in_a_loop(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    samples: tuple[np.ndarray, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray],
) -> list[float]:
    pairs = (drawn(sample, w) for sample, w in zip(samples, weights, strict=True))
    return [statistic(first, second) for first, second in zip(*pairs, strict=True)]


def plain_frechet(first: np.ndarray, second: np.ndarray) -> float:
    one, other = ledoit_wolf(first)[0], ledoit_wolf(second)[0]
    apart = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return float(apart + np.trace(one + other - 2 * sqrtm(one @ other).real))


def without_missing(
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray], float]:
    def known(first: np.ndarray, second: np.ndarray) -> float:
        first, second = first[~np.isnan(first)], second[~np.isnan(second)]
        return statistic(first, second) if len(first) and len(second) else np.nan

    return known


def test_resamples_keep_strata_and_draw_with_replacement() -> None:
    strata = np.repeat(["AFIB", "SR"], [3, 5])
    for weights in resampled.draw(strata, 400, seed=0):
        assert weights.shape == (8, 400)
        assert (weights[:3].sum(axis=0) == 3).all()
        assert (weights[3:].sum(axis=0) == 5).all()
        np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.2)
        # of drawing 3 of 3: 2/3
        assert weights[0].var() == pytest.approx(2 / 3, abs=0.15)
    first, second = resampled.draw(strata, 400, seed=0)
    assert not np.array_equal(first, second)


@often
@given(seeds, sizes, st.booleans(), st.floats(0, 0.9))
def test_distances_of_values_equal_scipy(seed: int, size: int, tied: bool, missing: float) -> None:
    rng = np.random.default_rng(seed)
    samples = values(rng, (size,), tied), values(rng, (size,), tied) + 0.5 * rng.integers(2)
    for sample in samples:
        sample[rng.random(size) < missing] = np.nan
    weights = resampled.draw(np.zeros(size), 10, seed)
    for fast, plain in (
        (resampled.w1, wasserstein_distance),
        (resampled.ks, lambda *pair: ks_2samp(*pair).statistic),
    ):
        expected = in_a_loop(without_missing(plain), samples, weights)
        np.testing.assert_allclose(fast(*samples, *weights), expected, atol=1e-12)


@often
@given(seeds, sizes, st.booleans())
def test_distances_of_records_equal_the_plain_ones(seed: int, size: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    weights = resampled.draw(np.repeat([0, 1], [1, size - 1]), 10, seed)
    leads = np.tanh(values(rng, (2, size, 6), tied))
    spectra = values(rng, (2, size, 3, 4), tied)
    for fast, plain, (first, second) in (
        (resampled.psd, spectrum.distance, spectra),
        (resampled.correlation_error, coherence.error, leads),
        (resampled.correlation_w1, coherence.w1, leads),
    ):
        expected = in_a_loop(plain, (first, second), weights)
        np.testing.assert_allclose(fast(first, second, *weights), expected, atol=1e-12)


@often
@given(seeds, st.integers(2, 12))
def test_spreads_of_correlations_equal_the_plain_ones(seed: int, size: int) -> None:
    # two strata, so that each resample has two different records
    weights = resampled.draw(np.repeat([0, 1], [1, size - 1]), 10, seed)
    first, second = np.tanh(np.random.default_rng(seed).standard_normal((2, size, 6)))
    expected = in_a_loop(coherence.spread, (first, second), weights)
    found = resampled.correlation_spread(first, second, *weights)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@often
@given(seeds, st.integers(3, 12), st.integers(1, 8), st.booleans(), st.floats(0, 100))
def test_frechet_equals_scikit_learn_and_scipy(
    seed: int, size: int, features: int, tied: bool, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    first, second = values(rng, (2, size, features), tied)
    # Of one stratum each, records 0 and 1 are in each resample, so that no covariance is zero.
    second = (second + shift) * rng.uniform(0.5, 2)
    first[:2] += np.eye(2, features)
    second[:2] += np.eye(2, features)
    weights = resampled.draw(np.minimum(np.arange(size), 2), 6, seed)
    expected = in_a_loop(plain_frechet, (first, second), weights)
    found = resampled.frechet(first, second, *weights)
    scale = max(1.0, np.max(expected))
    np.testing.assert_allclose(found, expected, atol=1e-6 * scale)
    assert distribution.frechet(first, second) == pytest.approx(
        plain_frechet(first, second), abs=1e-6 * scale
    )


@often
@given(seeds, sizes, st.integers(1, 8), st.booleans())
def test_shrunk_covariances_equal_scikit_learn(
    seed: int, size: int, features: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    sample = values(rng, (size, features), tied) + 1000
    weights, _ = resampled.draw(np.zeros(size), 8, seed)
    means, shrunk = resampled._gaussians(sample, weights)
    for records, mean, covariance in zip(drawn(sample, weights), means, shrunk, strict=True):
        np.testing.assert_allclose(mean, records.mean(axis=0))
        np.testing.assert_allclose(covariance, ledoit_wolf(records)[0], atol=1e-9)


@often
@given(
    seeds, st.integers(1, 30), sizes, st.integers(1, 5), st.booleans(), st.booleans(), st.booleans()
)
def test_nearest_records_equal_scipy(
    seed: int, size: int, others: int, features: int, tied: bool, far: bool, single: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Far from the origin, a matrix product alone has no digit of these distances right.
    shift = 1e7 * far
    known = values(rng, (others, features), tied) + shift
    records = values(rng, (size, features), tied) + shift
    records[rng.random(size) < 0.3] = known[0]
    between, own = cdist(records, known), cdist(known, known)
    np.fill_diagonal(own, np.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "MANY", float(single))
        patch.setattr(distances, "ROWS", 7)
        patch.setattr(distances, "COLUMNS", 5)
        found, places, back = distances.nearest(records, known)
        other, _, _ = distances.nearest(known, known, own=np.arange(others))
    np.testing.assert_allclose(found, between.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(back, between.min(axis=0), rtol=1e-12)
    if tied:
        np.testing.assert_array_equal(places, between.argmin(axis=1))
    np.testing.assert_allclose(other, own.min(axis=1), rtol=1e-12)


@often
@given(seeds, st.integers(4, 30), st.integers(1, 5), st.booleans(), st.booleans())
def test_balls_equal_those_of_scipy(
    seed: int, size: int, features: int, tied: bool, far: bool
) -> None:
    rng = np.random.default_rng(seed)
    real, made = values(rng, (2, size, features), tied) + 1e7 * far
    # A copy lies on the edge of the balls that reach to its original.
    copied = rng.random(size) < 0.5
    made[copied] = real[copied]
    neighbours = max(1, min(manifold.NEIGHBOURS, size // manifold.PART))
    radii, other_radii = (
        np.partition(cdist(one, one), neighbours, axis=1)[:, neighbours] for one in (real, made)
    )
    inside, other = cdist(real, made) <= radii[:, None], cdist(real, made) <= other_radii
    expected = {
        "precision": inside.any(axis=0).mean(),
        "recall": other.any(axis=1).mean(),
        "density": inside.sum() / neighbours / size,
        "coverage": inside.any(axis=1).mean(),
    }
    assert manifold.scores(real, made, np.zeros(size)) == pytest.approx(expected)


@pytest.mark.parametrize("part", [1, 3, 100])
def test_parts_change_no_distance(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records, others = np.random.default_rng(0).standard_normal((2, 20, 3))
    strata = np.zeros(20)
    whole = distances.nearest(records, others), manifold.scores(records, others, strata)
    for name in ("PART", "ROWS", "COLUMNS"):
        monkeypatch.setattr(distances, name, part)
    monkeypatch.setattr(distances, "PAIRS", 7)
    np.testing.assert_array_equal(distances.nearest(records, others), whole[0])
    assert manifold.scores(records, others, strata) == whole[1]


@often
@given(seeds, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_the_area_under_the_curve_is_the_share_of_pairs_with_the_member_nearer(
    seed: int, members: int, outsiders: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    near, far = values(rng, (members,), tied), values(rng, (outsiders,), tied)
    gaps = far[:, None] - near
    expected = np.mean((gaps > 0) + 0.5 * (gaps == 0))
    assert memorisation.membership_auc(near, far) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(5, 25), st.integers(2, 30))
def test_the_two_sample_test_equals_scikit_learn(seed: int, size: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, size, features))
    first[:, 0] = second[:, 0] = 0.3  # constant
    second[:, 1] += 1
    both, side = np.concatenate([first, second]), np.repeat([0, 1], size)
    folds = StratifiedKFold(two_sample.FOLDS, shuffle=True, random_state=seed).split(both, side)
    machine = make_pipeline(StandardScaler(), SVC())
    expected = (cross_val_predict(machine, both, side, cv=list(folds)) == side).mean()
    found = two_sample.accuracy(first, second, np.arange(2 * size), seed)
    assert found == pytest.approx(expected)
