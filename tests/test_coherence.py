"""Leads of one heart: correlations and relations that are known in advance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgforge.quality import coherence


def error(first: np.ndarray, second: np.ndarray) -> float:
    return coherence.error(coherence.correlations(first), coherence.correlations(second))


def w1(first: np.ndarray, second: np.ndarray) -> float:
    return coherence.w1(coherence.correlations(first), coherence.correlations(second))


def spread(first: np.ndarray, second: np.ndarray) -> float:
    return coherence.spread(coherence.correlations(first), coherence.correlations(second))


def pair(correlations: list[float], samples: int = 400) -> np.ndarray:
    """Records of two leads with exactly these correlations, `[records, 2, samples]`."""
    times = 2 * np.pi * np.arange(samples) / samples
    sine, cosine = np.sin(times), np.cos(times)
    return np.array([[sine, r * sine + np.sqrt(1 - r**2) * cosine] for r in correlations])


def noise(records: int, leads: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((records, leads, 300))


def test_correlations_are_compared_by_hand() -> None:
    assert error(pair([0.8] * 3), pair([0.5] * 2)) == pytest.approx(0.3)
    assert error(pair([0.8]), pair([-0.8])) == pytest.approx(1.6)
    assert w1(pair([0.8] * 3), pair([0.5] * 2)) == pytest.approx(0.3)


def test_correlations_are_averaged_as_fishers_z() -> None:
    # z of 0 and 0.98 are 0 and 2.298, whose mean is that of r = 0.8174; r itself would give 0.49.
    mean = np.tanh(np.arctanh(0.98) / 2)
    assert error(pair([0, 0.98]), pair([0])) == pytest.approx(mean)
    assert mean == pytest.approx(0.8174, abs=1e-4)


def test_the_mean_is_over_pairs_and_their_differences_do_not_cancel() -> None:
    first = noise(1, 1).repeat(4, axis=1)
    opposite = first * [[1], [1], [-1], [-1]]  # of six pairs, two stay at 1 and four go to -1
    assert error(first, opposite) == pytest.approx(8 / 6, abs=1e-5)


def test_equal_means_of_different_hearts_are_separated_by_the_distribution_alone() -> None:
    alike, unlike = pair([0.0] * 4), pair([-0.9, 0.9] * 2)
    assert error(alike, unlike) == pytest.approx(0, abs=1e-9)
    assert w1(alike, unlike) == pytest.approx(0.9)


def test_the_spread_is_that_over_records_and_not_a_shift() -> None:
    """Fisher's z of the records; equal steps of r near 1 and near 0 are not equal steps of z."""
    z = np.array([0.2, 0.5, 0.8, 1.1])
    real, shifted, alike = (
        pair(list(np.tanh(found))) for found in (z, z + 0.7, z.mean() + (z - z.mean()) / 3)
    )
    assert spread(real, shifted) == pytest.approx(1)
    assert spread(real, alike) == pytest.approx(1 / 3)
    assert spread(real, pair([0.5] * 4)) == pytest.approx(0, abs=1e-9)
    assert w1(real, shifted) > w1(real, alike) > 0.1, "the distance sees both"


def test_records_with_beats_of_many_hearts_have_correlations_too_alike() -> None:
    rng = np.random.default_rng(0)
    hearts = np.einsum(
        "nlx,nxs->nls", rng.standard_normal((60, 8, 3)), rng.standard_normal((60, 3, 300))
    )
    beats = hearts.reshape(60, 8, 10, 30)
    mixed = np.stack([beats[rng.permutation(60), :, beat] for beat in range(10)], axis=2)
    assert spread(hearts, mixed.reshape(60, 8, 300)) < 0.5
    assert 0.8 < spread(hearts[:30], hearts[30:]) < 1.25


def test_independent_leads_are_found() -> None:
    rng = np.random.default_rng(0)
    hearts = rng.standard_normal((80, 3, 300))
    signals = np.einsum("lx,nxs->nls", rng.standard_normal((8, 3)), hearts)
    shuffled = np.stack([signals[rng.permutation(80), lead] for lead in range(8)], axis=1)
    baseline = error(signals[:40], signals[40:])
    assert error(signals[:40], shuffled[40:]) > 5 * baseline


def test_copies_and_dead_leads_have_finite_scores() -> None:
    copies = noise(3, 1).repeat(2, axis=1)
    dead = noise(3, 2)
    dead[:, 1] = 0.7
    assert error(copies, dead) == pytest.approx(1, abs=1e-5)
    assert w1(copies, dead) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-10, 10))
def test_sizes_and_offsets_of_leads_do_not_count(seed: int, size: float, offset: float) -> None:
    first, second = noise(4, 5, seed), noise(4, 5, seed + 1)
    changed = second * np.array([1, size, 1, 1, 1 / size])[:, None] + offset
    for score in (error, w1):
        assert score(first, changed) == pytest.approx(score(first, second))
        assert score(first, second) == pytest.approx(score(second, first))
