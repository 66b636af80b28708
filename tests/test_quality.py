"""Quality scores: each is right where the answer is known, and wrong implementations give another
one.
"""

from __future__ import annotations

import importlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ecgforge import console
from ecgforge.commands import score
from ecgforge.errors import EcgforgeError
from ecgforge.files import read_csv
from ecgforge.params import Params, Quality
from ecgforge.quality import (
    distances,
    distribution,
    intervals,
    manifold,
    memorisation,
    physiology,
    resampled,
    samples,
    two_sample,
    views,
    waves,
)
from ecgforge.quality.assess import assess, overall
from ecgforge.quality.flags import beyond_baseline, flags
from ecgforge.quality.samples import Samples
from ecgforge.quality.scores import compare
from ecgforge.quality.stored import Stored
from ecgforge.records import beats
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.report import page

RATE = 100
SAMPLES = 1000
RATES = {"SR": 75, "SB": 45, "ST": 130}


def bump(times: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((times - centre) / width) ** 2)


def ecg(
    beat_times: np.ndarray,
    rng: np.random.Generator,
    *,
    qrs: float = 0.09,
    t_wave: float = 0.3,
    flutter: float = 0.0,
    noise: float = 0.02,
) -> np.ndarray:
    """P-QRS-T trains in eight leads, `[8, samples]` in mV;

    `qrs` is its duration in s, `flutter` and `t_wave` are heights.
    """
    times = np.arange(SAMPLES) / RATE
    qrs_leads, t_leads = rng.uniform(0.4, 1.2, 8) * rng.choice([-1, 1], 8), rng.uniform(0.3, 1, 8)
    interval = float(np.median(np.diff(beat_times)))
    signal = np.zeros((8, SAMPLES))
    for beat in beat_times:
        complex_ = (
            bump(times, beat, qrs / 6)
            - 0.25 * bump(times, beat - qrs / 3, qrs / 6)
            - 0.3 * bump(times, beat + qrs / 3, qrs / 6)
        )
        signal += np.outer(qrs_leads, complex_)
        signal += np.outer(
            t_wave * t_leads, bump(times, beat + 0.29 * np.sqrt(interval), 0.05 * np.sqrt(interval))
        )
        signal += np.outer(0.1 * np.abs(qrs_leads) * (flutter == 0), bump(times, beat - 0.16, 0.02))
    signal += flutter * np.outer(rng.uniform(0.3, 1, 8), (5 * times) % 1 - 0.5)
    return signal + noise * rng.standard_normal(signal.shape)


def regular(bpm: float, rng: np.random.Generator) -> np.ndarray:
    return np.arange(rng.uniform(0.3, 0.8), SAMPLES / RATE - 0.25, 60 / bpm)


def hits(truth: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """Beats found within 50 ms, and detections that are none."""
    distances = np.abs(truth[:, None] - found[None])
    return int((distances.min(axis=1, initial=9) < 0.05).sum()), int(
        (distances.min(axis=0, initial=9) >= 0.05).sum()
    )


# Beats


@pytest.mark.parametrize("bpm", [30, 60, 100, 150, 190, 220])
@pytest.mark.parametrize(
    "shape", [{}, {"qrs": 0.13}, {"t_wave": 0.9}, {"flutter": 0.25}, {"noise": 0.08}], ids=str
)
def test_beats_are_found_at_every_rate_and_shape(bpm: int, shape: dict[str, float]) -> None:
    rngs = [np.random.default_rng(seed) for seed in range(8)]
    truth = [regular(bpm, rng) for rng in rngs]
    found = beats.detect(
        np.stack([ecg(t, rng, **shape) for t, rng in zip(truth, rngs, strict=True)]), RATE
    )
    right, wrong = np.sum([hits(t, f / RATE) for t, f in zip(truth, found, strict=True)], axis=0)
    assert right >= 0.98 * sum(map(len, truth))
    assert wrong <= 0.03 * sum(map(len, truth))


def test_irregular_beats_are_placed_within_a_sample() -> None:
    rng = np.random.default_rng(0)
    truth = 0.4 + np.cumsum(rng.uniform(0.4, 1.1, 11))
    found = beats.detect(ecg(truth, rng)[None], RATE)[0] / RATE
    assert np.std(found - truth) < 0.004
    assert abs(np.mean(found - truth)) < 0.01


def test_units_and_sampling_rate_change_no_beat() -> None:
    rng = np.random.default_rng(1)
    signal = ecg(regular(80, rng), rng)
    in_millivolts = beats.detect(signal[None], RATE)[0]
    standardised = beats.detect((signal / signal.std(axis=1, keepdims=True))[None], RATE)[0]
    np.testing.assert_allclose(standardised, in_millivolts, atol=1e-6)
    slow = beats.detect(signal[None, :, ::2], RATE / 2)[0]
    np.testing.assert_allclose(2 * slow, in_millivolts, atol=3)
    with pytest.raises(ValueError, match="50 Hz"):
        beats.detect(signal[None], 40)


def test_noise_and_flat_lines_have_no_beats() -> None:
    noise = np.random.default_rng(0).standard_normal((50, 8, SAMPLES))
    assert physiology.undetected(physiology.measure(noise, RATE)).mean() > 0.9
    flat = np.full((2, 8, SAMPLES), 0.3)
    assert physiology.undetected(physiology.measure(flat, RATE)).all()


def test_a_dead_and_a_noisy_lead_do_not_hide_beats() -> None:
    rng = np.random.default_rng(2)
    truth = regular(70, rng)
    signal = ecg(truth, rng)
    signal[2] = 0
    signal[5] = 3 * rng.standard_normal(SAMPLES)
    assert hits(truth, beats.detect(signal[None], RATE)[0] / RATE) == (len(truth), 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(35, 180))
def test_beats_of_a_record_do_not_depend_on_its_neighbours(seed: int, bpm: float) -> None:
    rng = np.random.default_rng(seed)
    signals = np.stack([ecg(regular(bpm, rng), rng) for _ in range(3)])
    together = beats.detect(signals, RATE)
    assert all(
        np.array_equal(beats.detect(signals[i : i + 1], RATE)[0], together[i]) for i in range(3)
    )
    assert all(np.all(np.diff(found) > 0) for found in together)


# Physiology


def test_rate_and_variation_of_known_beats() -> None:
    rng = np.random.default_rng(3)
    bigeminy = 0.5 + np.cumsum(np.tile([0.6, 1.0], 5))
    measured = physiology.measure(np.stack([ecg(regular(60, rng), rng), ecg(bigeminy, rng)]), RATE)
    assert measured["heart_rate"][0] == pytest.approx(60, abs=0.5)
    assert measured["rr_cv"][0] < 1
    intervals = np.diff(bigeminy)
    assert measured["rr_cv"][1] == pytest.approx(
        100 * intervals.std(ddof=1) / intervals.mean(), abs=1.5
    )


def test_variability_as_computed_by_hand() -> None:
    # Mean 0.85, deviations -0.05, 0.15, -0.15, 0.05; differences 0.2, -0.3, 0.2.
    _, _, _, sdnn, rmssd = physiology._rhythm(np.array([0.8, 1.0, 0.7, 0.9]))
    assert sdnn == pytest.approx(1000 * np.sqrt(0.05 / 3))
    assert rmssd == pytest.approx(1000 * np.sqrt(0.17 / 3))


def test_slow_and_fast_variability_are_distinguished() -> None:
    rng = np.random.default_rng(3)
    slow, fast = 0.5 + np.cumsum(np.linspace(0.7, 1.0, 10)), 0.5 + np.cumsum(np.tile([0.7, 1.0], 5))
    measured = physiology.measure(
        np.stack([ecg(slow, rng), ecg(fast, rng), np.zeros((8, SAMPLES))]), RATE
    )
    assert measured["rmssd"][0] == pytest.approx(300 / 9, abs=5)
    assert measured["rmssd"][1] == pytest.approx(300, abs=10)
    for row, times in enumerate((slow, fast)):
        assert measured["sdnn"][row] == pytest.approx(1000 * np.diff(times).std(ddof=1), abs=10)
    assert measured.loc[2, ["sdnn", "rmssd"]].isna().all()


def test_rate_is_of_the_median_interval() -> None:
    # One pause of 3 s: the mean interval would say 63 bpm.
    assert physiology._rhythm(np.array([0.8, 0.8, 3.0, 0.8, 0.8, 0.8, 0.8]))[1] == pytest.approx(75)


def test_wasserstein_has_its_closed_form_and_leaves_the_undetected_out() -> None:
    first = np.random.default_rng(0).normal(70, 10, 500)
    assert physiology.wasserstein(first, first + 7) == pytest.approx(7)
    # Same mean, twice the spread: a difference of means would say 0. E|Z| * 10 = 7.98.
    assert physiology.wasserstein(first, 2 * first - first.mean()) == pytest.approx(
        np.abs(first - first.mean()).mean()
    )
    with_gaps = np.concatenate([first + 7, [np.nan] * 20])
    assert physiology.wasserstein(first, with_gaps) == pytest.approx(7)
    assert np.isnan(physiology.wasserstein(first, np.full(5, np.nan)))


def test_wasserstein_interval_holds_its_value_and_keeps_to_strata() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat(["SB", "ST"], 40)
    level = np.repeat([50.0, 130.0], 40)
    first, second = level + rng.normal(0, 3, 80), level + 4 + rng.normal(0, 3, 80)
    draws = resampled.w1(first, second, *resampled.draw(strata, 200, seed=0))
    low, high = intervals.bootstrap(physiology.wasserstein(first, second), draws, 0.95)
    assert low < physiology.wasserstein(first, second) < high
    # Drawn over both strata at once, a different mix alone would open the interval to more than
    # ten.
    assert high - low < 4


def test_the_interval_of_an_area_narrows_with_records_and_keeps_its_confidence() -> None:
    rng, held = np.random.default_rng(0), 0
    truth = NormalDist().cdf(1 / 2**0.5)  # of N(1, 1) against N(0, 1)
    for _ in range(300):
        positive, negative = rng.normal(1, 1, 60), rng.normal(0, 1, 40)
        area = float((positive[:, None] > negative).mean())
        low, high = intervals.hanley_mcneil(area, 60, 40, 0.9)
        held += low < truth < high
    assert 0.84 < held / 300 < 0.96
    few, many = (intervals.hanley_mcneil(0.8, count, count, 0.95) for count in (10, 1000))
    assert few[1] - few[0] > 5 * (many[1] - many[0])


# Distribution


@pytest.fixture(scope="module")
def laws() -> dict[str, np.ndarray]:
    """Sets of 60 records: two of one law, and what differs from it."""
    rng = np.random.default_rng(5)
    signals = {
        name: np.stack([ecg(regular(rng.normal(75, 8), rng), rng) for _ in range(60)])
        for name in ("first", "second")
    }
    signals["slow"] = np.stack([ecg(regular(rng.normal(50, 5), rng), rng) for _ in range(60)])
    signals["offset"] = signals["second"] + 0.5
    signals["noise"] = signals["second"].std() * rng.standard_normal(signals["second"].shape)
    embed = distribution.Embedding.fit(signals["first"], seed=0)
    return {name: embed(values) for name, values in signals.items()}


def test_embedding_is_standardised_on_the_real_set_and_repeats(laws: dict[str, np.ndarray]) -> None:
    varied = laws["first"].std(axis=0) > 0
    assert varied.mean() > 0.9
    np.testing.assert_allclose(laws["first"].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(laws["first"].std(axis=0)[varied], 1)
    signals = np.random.default_rng(0).standard_normal((20, 8, 300)).astype(np.float32)
    embed = distribution.Embedding.fit(signals, seed=4)
    np.testing.assert_array_equal(
        embed(signals), distribution.Embedding.fit(signals, seed=4)(signals)
    )
    assert not np.array_equal(embed(signals), distribution.Embedding.fit(signals, seed=5)(signals))


def test_embedding_is_the_convolution_it_claims_to_be() -> None:
    signals = np.random.default_rng(0).standard_normal((2, 8, 100))
    embed = distribution.Embedding.fit(signals, seed=0)
    dilation = 4
    place = list(embed.kernels).index(dilation)
    kernel = embed.kernels[dilation][3].reshape(distribution.TAPS, 8)
    scaled = signals[1] / embed.scale
    outputs = [
        np.sum(kernel * scaled[:, t : t + 9 * dilation : dilation].T)
        for t in range(100 - 8 * dilation)
    ]
    sizes = [len(k) for k in embed.kernels.values()]
    start = 2 * sum(sizes[:place])
    raw = (embed(signals) * embed.spread + embed.centre)[1]
    assert raw[start + 3] == pytest.approx(
        np.mean(np.array(outputs) > embed.biases[dilation][3]), abs=0.02
    )
    assert raw[start + sizes[place] + 3] == pytest.approx(max(outputs), rel=1e-4)


def test_mmd_ranks_worse_sets_higher(laws: dict[str, np.ndarray]) -> None:
    # ecgen-eval 0.5.0, whose MMD has a bandwidth of its own in each term, prefers white noise to an
    # offset of half a millivolt.
    scores = {
        name: distribution.mmd(
            laws["first"], laws[name], np.zeros(60), 99, np.random.default_rng(0)
        )
        for name in ("second", "slow", "offset", "noise")
    }
    assert abs(scores["second"][0]) < 0.02
    assert scores["second"][1] > 0.05
    assert scores["second"][0] < scores["slow"][0] < scores["noise"][0]
    assert scores["second"][0] < scores["offset"][0] < scores["noise"][0]
    assert max(scores[name][1] for name in ("slow", "offset", "noise")) == 0.01


def test_mmd_has_one_kernel_for_all_terms() -> None:
    # A bandwidth of its own in each term hides how far apart the sets are: an offset of five
    # deviations then scores as noise does.
    rng = np.random.default_rng(0)
    real, other = rng.standard_normal((2, 80, 5))
    sets = [other + 5, 1000 * other]

    def one_term(x: np.ndarray, y: np.ndarray) -> float:
        distances = np.square(x[:, None] - y[None]).sum(axis=-1)
        return float(np.exp(-distances / np.median(distances)).mean())

    wrong = [one_term(real, real) + one_term(x, x) - 2 * one_term(real, x) for x in sets]
    assert max(np.abs(wrong)) < 0.15
    assert min(distribution.mmd(real, x, np.zeros(80), 1, rng)[0] for x in sets) > 0.3


def test_mmd_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    values = np.array(
        [
            distribution.mmd(*rng.standard_normal((2, 10, 3)), np.zeros(10), 1, rng)[0]
            for _ in range(300)
        ]
    )
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(300)
    # The biased estimator keeps the diagonal: (2 / 10) * (1 - mean kernel) on top, some 0.08 here.
    assert values.std() / np.sqrt(300) < 0.01


def test_mmd_is_the_sum_over_pairs() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 4, 2))
    pooled = np.concatenate([first, second])
    squares = np.square(pooled[:, None] - pooled[None]).sum(axis=-1)
    median = np.median(squares[np.triu_indices(8, 1)])
    k = np.mean(
        [np.exp(-squares / (2 * median * width**2)) for width in distribution.BANDWIDTHS], axis=0
    )
    pairs = [(i, j) for i in range(4) for j in range(4)]
    within = sum(k[i, j] + k[4 + i, 4 + j] for i, j in pairs if i != j) / 12
    between = sum(k[i, 4 + j] for i, j in pairs) / 16
    assert distribution.mmd(first, second, np.zeros(4), 1, np.random.default_rng(0))[
        0
    ] == pytest.approx(within - 2 * between)


def test_mmd_p_value_is_uniform_for_equal_distributions() -> None:
    rng = np.random.default_rng(1)
    p = np.array(
        [
            distribution.mmd(*rng.standard_normal((2, 12, 3)), np.zeros(12), 39, rng)[1]
            for _ in range(200)
        ]
    )
    assert p.min() >= 1 / 40
    assert np.mean(p <= 0.25) == pytest.approx(0.25, abs=0.09)


def test_mmd_p_value_knows_that_samples_have_as_many_of_each_rhythm() -> None:
    # Rhythms far apart: splits that mix them unevenly are further apart than any that could have
    # been drawn, and would hide a shift.
    rng = np.random.default_rng(2)
    strata = np.repeat([0, 1, 2], 12)
    centres = 20.0 * np.eye(3)[strata]

    def p(shift: float, labels: np.ndarray) -> np.ndarray:
        sides = (
            (centres + rng.standard_normal((36, 3)), centres + rng.standard_normal((36, 3)) + shift)
            for _ in range(100)
        )
        return np.array([distribution.mmd(*pair, labels, 39, rng)[1] for pair in sides])

    assert np.mean(p(0.0, strata) <= 0.25) == pytest.approx(0.25, abs=0.13)
    assert np.mean(p(0.5, strata) <= 0.05) > 0.5
    assert np.mean(p(0.5, np.zeros(36)) <= 0.05) < 0.1, "as if there were no rhythms"


def gaussian(mean: list[float], covariance: list[list[float]], seed: int) -> np.ndarray:
    """Records whose mean and covariance are exactly these, too many for shrinkage."""
    drawn = np.random.default_rng(seed).standard_normal((20000, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T, bias=True))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_has_its_closed_form() -> None:
    first = gaussian([0, 0], [[1, 0], [0, 4]], 0)
    # Apart by (3, 1), and standard deviations by (2 - 1, 5 - 2).
    assert distribution.frechet(first, gaussian([3, 1], [[4, 0], [0, 25]], 1)) == pytest.approx(
        10 + 1 + 9, rel=1e-3
    )
    assert distribution.frechet(first, first + np.array([3, 1])) == pytest.approx(10)
    assert distribution.frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    ours, theirs = [[4, 0], [0, 1]], [[2, 1.5], [1.5, 2]]
    found = distribution.frechet(gaussian([0, 0], ours, 0), gaussian([0, 0], theirs, 1))
    product = np.linalg.eigvals(np.array(ours) @ theirs)
    assert found == pytest.approx(
        np.trace(ours) + np.trace(theirs) - 2 * np.sqrt(product).sum(), rel=1e-3
    )
    # As if they commuted, it would be 1.266 and not 1.179.
    assert found == pytest.approx(1.179, abs=0.002)


def test_frechet_distance_of_fewer_records_than_features(laws: dict[str, np.ndarray]) -> None:
    assert laws["first"].shape[1] > 5 * len(laws["first"])
    values = {
        name: distribution.frechet(laws["first"], laws[name])
        for name in ("second", "slow", "offset", "noise")
    }
    assert np.isfinite(list(values.values())).all()
    assert (
        0
        < values["second"]
        < min(values["slow"], values["offset"])
        <= max(values["slow"], values["offset"])
        < values["noise"]
    )
    assert distribution.frechet(laws["slow"], laws["first"]) == pytest.approx(values["slow"])


def test_frechet_distance_falls_with_more_records_of_one_distribution() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        np.mean(
            [
                distribution.frechet(*rng.standard_normal((2, n, 40)) * np.arange(1, 41))
                for _ in range(5)
            ]
        )
        for n in (50, 800)
    )
    assert few > 5 * many > 0


# Two-sample test


def test_two_samples_of_one_distribution_are_not_distinguished(laws: dict[str, np.ndarray]) -> None:
    patients = np.arange(120)
    same = [two_sample.accuracy(laws["first"], laws["second"], patients, seed) for seed in range(4)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.1)
    assert two_sample.accuracy(laws["first"], laws["noise"], patients, 0) == 1
    assert two_sample.accuracy(laws["first"], laws["slow"], patients, 0) > 0.8


def test_a_patient_is_never_on_both_sides_of_a_fold() -> None:
    # Ten patients a side with ten near-identical records each: only a classifier that has seen a
    # patient knows the side.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 30))
    features = np.repeat(centres, 10, axis=0) + 0.01 * rng.standard_normal((200, 30))
    patients = np.repeat(np.arange(20), 10)
    leaky = two_sample.accuracy(features[:100], features[100:], np.arange(200), 0)
    assert leaky > 0.95
    assert two_sample.accuracy(features[:100], features[100:], patients, 0) < 0.8


def test_unequal_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal sizes"):
        two_sample.accuracy(np.zeros((10, 2)), np.zeros((30, 2)), np.arange(40), 0)


@pytest.mark.slow
def test_a_percentile_interval_keeps_its_confidence() -> None:
    rng = np.random.default_rng(0)
    held, width = 0, []
    for seed in range(200):
        own, holdout = rng.exponential(2.0, 80), rng.exponential(1.0, 60)
        low, high = intervals.percentile(memorisation.ratio, [own, holdout], 0.9, 200, seed)
        held += low < 2.0 < high
        width.append(high - low)
    assert 0.83 < held / 200 < 0.97
    few = intervals.percentile(memorisation.ratio, [own[:8], holdout[:8]], 0.9, 200, 0)
    assert few[1] - few[0] > 2 * np.median(width)


def test_density_is_the_mean_over_synthetic_records() -> None:
    # Balls reach to the fifth of 15 neighbours, 3 to each side in the middle and 5 at the ends: 3.0
    # lies in those of 0 to 6.
    real, made = np.arange(15.0)[:, None], np.append(np.full(14, 3.0), 100.0)[:, None]
    assert manifold.densities(real, made, np.zeros(15)).tolist() == [7 / 5] * 14 + [0]
    assert manifold.scores(real, made, np.zeros(15))["density"] == pytest.approx(14 / 15 * 7 / 5)


def test_wilson_interval_as_published() -> None:
    assert intervals.wilson(0.0, 10, 0.95) == pytest.approx((0, 0.2775), abs=1e-3)
    assert intervals.wilson(0.5, 100, 0.95) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_fidelity_and_diversity_are_distinguished() -> None:
    rng = np.random.default_rng(0)
    real, same = rng.standard_normal((2, 300, 4))
    one = np.zeros(300)
    for value in manifold.scores(real, same, one).values():
        assert value == pytest.approx(1, abs=0.15)
    # all look real, and most of what is real is missing
    crowded = manifold.scores(real, 0.1 * same, one)
    assert crowded["precision"] == 1
    assert crowded["recall"] < 0.1
    assert crowded["density"] > 1
    assert crowded["coverage"] < 0.3
    # balls so wide that all real ones lie in them, and coverage is not fooled
    scattered = manifold.scores(real, 10 * same, one)
    assert scattered["precision"] < 0.1
    assert scattered["recall"] > 0.9
    assert scattered["coverage"] < 0.3


def test_precision_and_recall_as_counted_by_hand() -> None:
    # of six records balls reach to the second neighbour: radii 2 1 1 1 1 2
    real = np.arange(6.0)[:, None]
    synthetic = np.array([[-1.5], [2.5], [20.0], [21.0], [22.0], [23.0]])
    found = manifold.scores(real, synthetic, np.zeros(6))
    assert found["precision"] == pytest.approx(2 / 6)
    assert found["density"] == pytest.approx((1 + 2) / 2 / 6)
    assert found["coverage"] == pytest.approx(3 / 6)
    assert found["recall"] == 1


def test_noise_does_not_hide_in_the_balls_of_an_irregular_rhythm() -> None:
    # One rhythm's records are scattered, and their balls reach over everything; the other's lie
    # close together.
    rng = np.random.default_rng(0)
    strata = np.repeat(["AFIB", "SR"], 60)
    spread = np.repeat([10.0, 1.0], 60)[:, None]
    real, same = spread * rng.standard_normal((2, 120, 8))
    noise = same.copy()
    noise[60:] = 5 + 0.1 * rng.standard_normal((60, 8))
    apart, together = (
        manifold.scores(real, noise, strata),
        manifold.scores(real, noise, np.zeros(120)),
    )
    assert apart["precision"] < 0.6 < 0.9 < together["precision"]
    assert apart["density"] < 0.6 < 0.9 < together["density"]
    for value in manifold.scores(real, same, strata).values():
        assert value == pytest.approx(1, abs=0.2)
    # Records that are as real, and of the other rhythm than was asked for.
    swapped = manifold.scores(real, same[::-1], strata)
    assert (
        swapped["coverage"]
        < 0.7
        < 0.9
        < manifold.scores(real, same[::-1], np.zeros(120))["coverage"]
    )


def memorised(
    training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray, *rhythms: np.ndarray
) -> dict[str, float]:
    """Scores of synthetic records;

    `rhythms` are those of held-out and of synthetic ones, all equal if they are not given.
    """
    theirs, own = rhythms or (np.zeros(len(held_out)), np.zeros(len(synthetic)))
    neighbours = memorisation.NearestNeighbours.measure(
        (synthetic, own), (training, np.zeros(len(training))), (held_out, theirs)
    )
    return neighbours.scores(memorisation.near(neighbours.holdout))


def attack(training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray) -> float:
    return memorised(training, held_out, synthetic)["membership_auc"]


def authenticity(training: np.ndarray, synthetic: np.ndarray) -> float:
    nobody = np.zeros(len(synthetic))
    neighbours = memorisation.NearestNeighbours.measure(
        (synthetic, nobody), (training, np.zeros(len(training))), (synthetic, nobody)
    )
    return float(neighbours.authentic.mean())


def test_copies_are_found_and_independent_records_are_not() -> None:
    rng = np.random.default_rng(0)
    training, held_out, independent = rng.standard_normal((3, 400, 8))
    copies = training[:200] + 0.01 * rng.standard_normal((200, 8))
    found = memorised(training, held_out, independent)
    assert found["dcr_ratio"] == pytest.approx(1, abs=0.1)
    assert found["copied_share"] < 0.05
    found = memorised(training, held_out, copies)
    assert found["dcr_ratio"] < 0.05
    assert found["copied_share"] == 1
    half = memorised(training, held_out, np.concatenate([copies[:100], independent[:100]]))
    assert half["copied_share"] == pytest.approx(0.5, abs=0.05)


def test_a_uniform_mix_of_rhythms_hides_no_copies_of_rare_ones() -> None:
    # Nine in ten real records are of one rhythm; the few of the other lie far apart, and so do
    # other records of it from them.
    rng = np.random.default_rng(0)

    def records(common: int, rare: int) -> tuple[np.ndarray, np.ndarray]:
        far = 40 + 8 * rng.standard_normal((rare, 8))
        return np.concatenate([rng.standard_normal((common, 8)), far]), np.repeat(
            [0, 1], [common, rare]
        )

    (training, known), (held_out, theirs), (even, own) = (
        records(900, 100),
        records(900, 100),
        records(500, 500),
    )
    innocent = memorised(training, held_out, even, theirs, own)
    assert innocent["dcr_ratio"] == pytest.approx(1, abs=0.1)
    assert innocent["copied_share"] < 0.03
    assert memorised(training, held_out, even)["dcr_ratio"] > 2, (
        "as if there were no rhythms, an even mix is novel"
    )

    near = np.concatenate(
        [even[:500], training[known == 1].repeat(5, axis=0) + 0.5 * rng.standard_normal((500, 8))]
    )
    assert memorised(training, held_out, near, theirs, own)["copied_share"] == pytest.approx(
        0.5, abs=0.05
    )
    assert memorised(training, held_out, near)["copied_share"] < 0.05, (
        "in plain distances, copies of rare records pass"
    )
    # A rhythm that no held-out record has is measured by all of them.
    assert np.isfinite(memorised(training, held_out, even, theirs, own + 1)["dcr_ratio"])


def test_authenticity_as_counted_by_hand() -> None:
    training = np.array([[0.0], [1.0], [10.0], [14.0], [14.0]])
    # To the nearest training record, and from it to its nearest other: 0.9 and 1; 2 and 1; 3 and 4;
    # 1 and 0.
    synthetic = np.array([[-0.9], [3.0], [7.0], [15.0]])
    assert authenticity(training, synthetic) == 2 / 4


def test_copies_are_not_authentic_and_independent_records_are_at_the_expected_rate() -> None:
    rng = np.random.default_rng(0)
    line, independent = rng.uniform(size=(2, 20000, 1))
    # On a line two in three records are the nearest of their nearest.
    assert authenticity(line[:4000], independent[:4000]) == pytest.approx(1 / 3, abs=0.03)
    training = rng.standard_normal((300, 8))
    assert authenticity(training, training + 0.01 * rng.standard_normal((300, 8))) == 0
    assert authenticity(training, training) == 0
    assert authenticity(training, rng.standard_normal((300, 8))) > 0.3


def test_membership_inference_works_on_copies_alone() -> None:
    rng = np.random.default_rng(0)
    training, held_out, independent = rng.standard_normal((3, 300, 8))
    copies = training + 0.01 * rng.standard_normal((300, 8))
    assert attack(training, held_out, copies) > 0.99
    assert attack(training, held_out, independent) == pytest.approx(0.5, abs=0.07)
    assert attack(training, held_out, held_out) < 0.01
    half = np.concatenate([copies[:150], independent[150:]])
    assert attack(training, held_out, half) == pytest.approx(0.75, abs=0.07)
    assert attack(training, held_out[:50], copies) > 0.99  # whatever the numbers


def test_an_attack_as_counted_by_hand() -> None:
    training, held_out, synthetic = (
        np.array([[0.0], [5.0]]),
        np.array([[2.0], [9.0]]),
        np.array([[0.5], [6.0]]),
    )
    # Distances 0.5 and 1 against 1.5 and 3: every pair is distinguished.
    assert attack(training, held_out, synthetic) == 1
    # 0.5 and 4.5 against 1.5 and 8.5: three of four are.
    assert attack(training, held_out, synthetic[:1]) == 0.75


def test_many_records_are_compared_part_by_part_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name in ((distances, "ROWS"), (distances, "COLUMNS"), (memorisation, "PART")):
        monkeypatch.setattr(module, name, 256)
    rng = np.random.default_rng(0)
    training, synthetic = rng.standard_normal((2, 773, 4))
    between, own = cdist(synthetic, training), cdist(training, training)
    np.fill_diagonal(own, np.inf)
    nearest, places, back = distances.nearest(synthetic, training)
    np.testing.assert_array_equal(nearest, between.min(axis=1))
    np.testing.assert_array_equal(places, between.argmin(axis=1))
    np.testing.assert_array_equal(back, between.min(axis=0))
    authentic = between.min(axis=1) > own.min(axis=1)[between.argmin(axis=1)]
    assert authenticity(training, synthetic) == authentic.mean()
    stored = distances.nearest(Stored([synthetic[:300], synthetic[300:]]), Stored([training]))
    for one, other in zip(stored, (nearest, places, back), strict=True):
        np.testing.assert_array_equal(one, other)


def test_stored_rows_are_those_of_an_array() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 3))
    stored = Stored([rows[:2], rows[2:2], rows[2:]])
    assert (len(stored), stored.shape) == (7, (7, 3))
    for index in (slice(1, 5), slice(5, 99), np.array([6, 0, 6]), rows[:, 0] > 0):
        np.testing.assert_array_equal(stored[index], rows[index])


@pytest.mark.slow
def test_memory_does_not_grow_with_training_times_synthetic_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROWS", "COLUMNS"):
        monkeypatch.setattr(distances, name, 512)
    training, held_out, synthetic = np.random.default_rng(0).standard_normal((3, 4000, 2))
    tracemalloc.start()
    memorised(training, held_out, synthetic)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4000**2 / 4, "a quarter of a whole matrix of distances"


@pytest.mark.slow
def test_copied_records_are_found_however_they_are_shifted(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    train, test = real
    rng = np.random.default_rng(0)
    copies = [np.roll(signals, rng.integers(SAMPLES), axis=-1) for signals in train.signals()[:120]]
    with write_record_set(tmp_path / "copies", train.about) as writer:
        writer.append(
            np.array(copies),
            train.records.iloc[:120].assign(patient=[f"copy-{i}" for i in range(120)]),
        )
    copied = overall(train, test, RecordSet.open(tmp_path / "copies"), SETTINGS)
    fresh = overall(
        train,
        test,
        record_set(tmp_path / "generated", {"SR": 50, "SB": 40, "ST": 40}, seed=7),
        SETTINGS,
    )
    assert copied["copied_share"] > 0.8 > 0.2 > fresh["copied_share"]
    assert copied["dcr_ratio"] < 0.8 < fresh["dcr_ratio"]


def test_views_show_every_record_and_repeat(laws: dict[str, np.ndarray]) -> None:
    features = np.concatenate([laws["first"], laws["noise"]])
    flat = views.flatten(features, seed=0)
    assert flat.groupby("view").size().to_dict() == {"pca": 120, "tsne": 120}
    pd.testing.assert_frame_equal(flat, views.flatten(features, seed=0))
    for _, points in flat.groupby("view"):
        centres = points[["x", "y"]].groupby(points["record"] < 60).mean()
        spread = points[["x", "y"]].groupby(points["record"] < 60).std().max().max()
        assert np.linalg.norm(centres.iloc[0] - centres.iloc[1]) > spread


@pytest.mark.parametrize(
    ("low", "baseline", "auc", "expected"),
    [(0.2, 0.17, 0.55, []), (0.2, 0.01, 0.55, ["Memorised"]), (0.2, 0.01, 0.4, ["Crowded"])],
)
def test_few_records_have_near_holdout_records_too(
    low: float, baseline: float, auc: float, expected: list[str]
) -> None:
    """A share of copies counts beyond that of real records; a record as near to holdout records as
    to training records is no copy.
    """
    metrics = {
        "copied_share": (low, baseline),
        "membership_auc": (auc, 0.5),
        "c2st_accuracy": (0.5, 0.5),
        "recall": (0.9, 0.9),
        "qrs_constancy": (0.9, 0.9),
    }
    rows = [("all", name, value, value, value, at, 1.0) for name, (value, at) in metrics.items()]
    scores = pd.DataFrame(
        rows, columns=["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    )
    assert [flag.split(":")[0] for flag in flags(scores)] == expected


@pytest.mark.parametrize(
    ("accuracy", "recall", "expected"),
    [(0.99, 0.3, ["Unlike real records"]), (0.99, 0.5, []), (0.9, 0.3, [])],
)
def test_records_that_a_classifier_distinguishes_have_low_recall_to_be_flagged(
    accuracy: float, recall: float, expected: list[str]
) -> None:
    """Low recall is below half of what real records reach, here 0.8."""
    metrics = {
        "copied_share": (0.01, 0.01),
        "membership_auc": (0.5, 0.5),
        "c2st_accuracy": (accuracy, 0.5),
        "recall": (recall, 0.8),
        "qrs_constancy": (0.9, 0.9),
    }
    rows = [("all", name, value, value, value, at, 1.0) for name, (value, at) in metrics.items()]
    scores = pd.DataFrame(
        rows, columns=["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    )
    assert [flag.split(":")[0] for flag in flags(scores)] == expected


@pytest.mark.parametrize(
    ("value", "high", "baseline", "expected"),
    [
        (0.5, 0.6, 0.9, ["Inconstant"]),
        (0.6, 0.73, 0.9, []),  # chance may explain it
        (0.5, 0.6, 0.7, []),  # real beats of this set differ too
        (np.nan, np.nan, 0.9, []),  # no beats
    ],
)
def test_beats_that_differ_as_those_of_several_patients_are_flagged(
    value: float, high: float, baseline: float, expected: list[str]
) -> None:
    metrics = {
        "copied_share": (0.01, 0.01, 0.01),
        "membership_auc": (0.5, 0.5, 0.5),
        "c2st_accuracy": (0.5, 0.5, 0.5),
        "recall": (0.9, 0.9, 0.9),
        "qrs_constancy": (value, high, baseline),
    }
    rows = [("all", name, at, at, top, real, 0.0) for name, (at, top, real) in metrics.items()]
    scores = pd.DataFrame(
        rows, columns=["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    )
    assert [flag.split(":")[0] for flag in flags(scores)] == expected


def test_beyond_the_floor_is_what_chance_does_not_explain() -> None:
    rows = [
        ("all", "frechet", 5.0, 4.0, 6.0, 3.0, 9.0, True),
        # the interval ends above, but the baseline is as uncertain
        ("all", "frechet", 5.0, 4.0, 6.0, 3.8, 9.0, False),
        ("all", "frechet", 5.0, 4.0, 6.0, 8.0, 9.0, False),  # better than real records
        ("all", "recall", 0.5, 0.4, 0.6, 0.9, 0.0, True),
        ("all", "recall", 0.9, 0.8, 1.0, 0.5, 0.0, False),
        ("all", "density", 0.5, 0.4, 0.6, 1.0, 0.0, True),
        ("all", "density", 3.0, 2.9, 3.1, 1.0, 0.0, True),  # crowded
        ("all", "qrs_constancy", 0.5, 0.4, 0.6, 0.9, np.nan, True),
        ("all", "qrs_constancy", 0.99, 0.98, 1.0, 0.9, np.nan, True),  # a beat, repeated
        ("all", "correlation_spread", 0.5, 0.4, 0.6, 1.0, 0.1, True),
        ("all", "copied_share", 0.9, 0.8, 1.0, 0.0, 0.0, False),
        ("all", "qt_w1", np.nan, np.nan, np.nan, 3.0, np.nan, True),
        ("all", "qt_w1", np.nan, np.nan, np.nan, np.nan, np.nan, False),
        ("all", "mmd2", 0.1, np.nan, np.nan, 0.0, 1.0, True),
        ("all", "mmd_p", 0.01, np.nan, np.nan, 0.4, 0.01, False),
        ("SR", "mmd2", 0.1, np.nan, np.nan, 0.0, 1.0, False),
        ("SR", "mmd_p", 0.2, np.nan, np.nan, 0.4, 0.01, False),
    ]
    columns = [
        "rhythm",
        "metric",
        "value",
        "low",
        "high",
        "baseline",
        "negative_control",
        "expected",
    ]
    scores = pd.DataFrame(rows, columns=columns)
    assert beyond_baseline(scores).tolist() == scores["expected"].tolist()


@pytest.mark.slow
@pytest.mark.timeout(900)  # numba compiles for ten seconds, and for minutes on a busy machine
def test_umap_is_computed_on_request(
    laws: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # UMAP imports a search that so few records do not need
        patch.setattr(numba.config, "DISABLE_JIT", 1)
        importlib.import_module("pynndescent")
    features = np.concatenate([laws["first"], laws["noise"]])
    flat = views.flatten(features, seed=0, views=("umap", "pca"))
    assert flat.groupby("view").size().to_dict() == {"pca": 120, "umap": 120}
    pd.testing.assert_frame_equal(flat, views.flatten(features, seed=0, views=("umap", "pca")))
    points = flat[flat["view"] == "umap"]
    real, fake = (
        points.loc[(points["record"] < 60) == side, ["x", "y"]].to_numpy() for side in (True, False)
    )
    between = np.linalg.norm(real[:, None] - fake[None], axis=-1)
    assert (
        between.min()
        > np.sort(np.linalg.norm(real[:, None] - real[None], axis=-1), axis=1)[:, 1].max()
    )


# Assessment

SETTINGS = Quality(records=60, permutations=49, views=["pca", "tsne"], seed=0)
SHORT = Quality(records=30, permutations=1, views=["pca"], seed=0)


def record_set(
    folder: Path, counts: dict[str, int], seed: int, change: float = 1.0, units: str = "mV"
) -> RecordSet:
    """Records at the rates of `RATES` times `change`, every second patient of the real ones with
    two records.
    """
    rng = np.random.default_rng(seed)
    rhythms = [rhythm for rhythm, count in counts.items() for _ in range(count)]
    signals = np.stack(
        [ecg(regular(change * rng.normal(RATES[rhythm], 4), rng), rng) for rhythm in rhythms]
    )
    ids = [f"{seed}-{i}" for i in range(len(rhythms))]
    table = pd.DataFrame(
        {
            "id": ids,
            "patient": [f"{seed}-p{i // 3 * 2 + min(i % 3, 1)}" for i in range(len(ids))],
            "rhythm": rhythms,
        }
    )
    table = table.assign(dataset="toy", split="train", age=50, sex="", origin="simulated")
    with write_record_set(
        folder, About(RATE, SAMPLES, units, ("SR", "SB", "ST"), "simulated", {})
    ) as writer:
        writer.append(signals.astype(np.float32), table)
    return RecordSet.open(folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordSet, RecordSet]:
    folder = tmp_path_factory.mktemp("real")
    train = record_set(folder / "train", {"SR": 70, "SB": 50, "ST": 50}, seed=1)
    return train, record_set(folder / "test", {"SR": 30, "SB": 15, "ST": 15}, seed=2)


def scores_of(table: pd.DataFrame, column: str, rhythm: str = "all") -> dict[str, float]:
    return table[table["rhythm"] == rhythm].set_index("metric")[column].to_dict()


def test_parts_change_no_measurement(
    real: tuple[RecordSet, RecordSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Samples(*real, real[0], SHORT).reference
    monkeypatch.setattr(samples, "PART", 7)
    monkeypatch.setattr(waves, "PART", 3)
    parts = Samples(*real, real[0], SHORT).reference
    pd.testing.assert_frame_equal(parts.measures, whole.measures)
    for name in ("features", "spectra", "correlations", "rhythms", "patients"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


@pytest.mark.slow
def test_samples_of_one_distribution_score_as_the_baseline_for_any_class_mix(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    # Three slow records in four, where the real ones are mostly normal: a comparison of unmatched
    # sets would see that.
    table, points = assess(
        *real, record_set(tmp_path / "same", {"SR": 30, "SB": 120, "ST": 30}, seed=3), SETTINGS
    )
    value, baseline = scores_of(table, "value"), scores_of(table, "baseline")
    assert list(table.columns) == [
        "rhythm",
        "metric",
        "value",
        "low",
        "high",
        "baseline",
        "negative_control",
    ]
    negative_control = scores_of(table, "negative_control")
    for metric in ("heart_rate_w1", "frechet", "c2st_accuracy", "mmd2", "rr_cv_ks"):
        assert max(value[metric], baseline[metric]) < 0.75 * negative_control[metric], metric
    assert max(value["recall"], baseline["recall"]) > negative_control["recall"]
    for metric in ("psd_db", "power_15_40_w1", "correlation_error", "correlation_w1"):
        assert 2 * max(value[metric], baseline[metric]) < negative_control[metric], (
            f"{metric}: surrogates have it as real records do, noise has not"
        )
    assert set(table["rhythm"]) == {"all", "SR", "SB", "ST"}
    assert value["heart_rate_w1"] < 4
    assert baseline["heart_rate_w1"] < 4
    assert value["mmd_p"] > 0.01
    assert 0.3 < value["c2st_accuracy"] < 0.7
    assert value["undetected_share"] == 0
    assert points.groupby(["view", "kind", "rhythm"]).size().eq(20).all()


@pytest.mark.slow
def test_every_score_is_given_for_each_rhythm(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    """And of a wrong rhythm it is another, while the others stay as they are."""
    made = record_set(tmp_path / "made", {"SR": 40, "SB": 40, "ST": 40}, seed=8)
    signals, fast = made.signals(), record_set(tmp_path / "fast", {"SB": 40}, seed=9, change=2)
    signals[(made.records["rhythm"] == "SB").to_numpy()] = fast.signals()
    with write_record_set(tmp_path / "wrong", made.about) as writer:
        writer.append(signals, made.records)
    table, _ = assess(
        *real,
        RecordSet.open(tmp_path / "wrong"),
        SETTINGS,
        classifier=lambda signals: signals.std(axis=2),
    )
    values = {rhythm: scores_of(table, "value", rhythm) for rhythm in ("all", *RATES)}
    for column in ("value", "baseline", "negative_control"):
        scored = {
            rhythm: set(scores_of(table.dropna(subset=column), column, rhythm))
            for rhythm in ("all", *RATES)
        }
        assert scored["SR"] == scored["SB"] == scored["ST"] == scored["all"]
    for metric in ("heart_rate_w1", "qt_ks", "mmd2", "frechet", "c2st_accuracy", "dcr_ratio"):
        assert values["SB"][metric] > 1.1 * max(values["SR"][metric], values["ST"][metric]), metric
    for metric in ("precision", "density", "coverage"):
        assert values["SB"][metric] < 0.1 < 0.3 < min(values["SR"][metric], values["ST"][metric]), (
            metric
        )
        assert values["all"][metric] == pytest.approx(
            np.mean([values[rhythm][metric] for rhythm in RATES])
        ), metric
    beyond = table.assign(beyond=beyond_baseline(table)).groupby("rhythm")["beyond"].mean()
    assert beyond["SB"] > 0.3 > 0.1 > max(beyond["SR"], beyond["ST"])


@pytest.fixture(scope="module")
def judged(
    real: tuple[RecordSet, RecordSet], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RecordSet, pd.DataFrame]:
    """Records that are a tenth too fast, and their scores."""
    made = record_set(
        tmp_path_factory.mktemp("made") / "set", {"SR": 30, "SB": 30, "ST": 30}, seed=8, change=1.1
    )
    return made, assess(*real, made, SETTINGS, classifier=lambda signals: signals.std(axis=2))[0]


@pytest.mark.slow
def test_the_scores_of_a_variation_are_those_of_all_rhythms(
    real: tuple[RecordSet, RecordSet], judged: tuple[RecordSet, pd.DataFrame]
) -> None:
    made, table = judged
    expected = scores_of(table, "value")
    del expected["frechet_classifier"]
    assert overall(*real, made, SETTINGS) == expected


@pytest.mark.slow
def test_every_score_has_an_interval_about_it_or_a_p_value(
    judged: tuple[RecordSet, pd.DataFrame],
) -> None:
    _, table = judged
    without = set(table[table["low"].isna() & table["value"].notna()]["metric"])
    assert without == {"mmd2", "mmd_p"}
    bounded = table.dropna(subset="low")
    assert (bounded["low"] <= bounded["value"] + 1e-9).all()
    assert (bounded["value"] <= bounded["high"] + 1e-9).all()


def test_the_report_shows_every_score(judged: tuple[RecordSet, pd.DataFrame]) -> None:
    """Only records with all limb leads, which these do not have, have a `limb_residual`."""
    assert {*judged[1]["metric"], "limb_residual"} == set(page.SCORES)


def test_the_two_sample_test_counts_the_records_of_both_samples(
    judged: tuple[RecordSet, pd.DataFrame],
) -> None:
    _, table = judged
    for rhythm, records in (("all", 60), ("SR", 20)):
        value, low, high = (
            scores_of(table, column, rhythm)["c2st_accuracy"] for column in ("value", "low", "high")
        )
        assert (low, high) == intervals.wilson(value, 2 * records, 0.95)


@pytest.mark.slow
def test_each_frechet_distance_is_taken_in_its_own_embedding(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    fast = record_set(tmp_path / "fast", {"SR": 30, "SB": 30, "ST": 30}, seed=9, change=1.3)

    def against_baseline(embed: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        drawn = Samples(*real, fast, SHORT, embed)
        value, baseline = (
            compare(drawn.reference, other, SHORT)
            for other in (drawn.synthetic(), drawn.bounds()[0])
        )
        return [value[name] / baseline[name] for name in ("frechet", "frechet_classifier")]

    label_free, strengths = against_baseline(lambda signals: signals.std(axis=2))
    again, rates = against_baseline(
        lambda signals: physiology.measure(signals, RATE)[["heart_rate", "sdnn"]].to_numpy()
    )
    assert label_free == again
    assert label_free != strengths
    assert rates > 10, "it sees rates alone, and they are far off"


@pytest.mark.slow
def test_limb_leads_count_where_they_were_made(
    real: tuple[RecordSet, RecordSet], judged: tuple[RecordSet, pd.DataFrame], tmp_path: Path
) -> None:
    assert "limb_residual" not in set(judged[1]["metric"])
    made = record_set(tmp_path / "made", {"SR": 30, "SB": 30, "ST": 30}, seed=8)
    off = np.linspace(0.1, 0.5, len(made))
    pd.DataFrame({"id": made.records["id"], "residual": off}).to_csv(
        tmp_path / "made/limb_leads.csv", index=False
    )
    table, _ = assess(*real, made, SHORT)
    assert scores_of(table, "value")["limb_residual"] == pytest.approx(0.3)
    assert (
        0.2
        < scores_of(table, "low")["limb_residual"]
        < 0.3
        < scores_of(table, "high")["limb_residual"]
        < 0.4
    )
    for rhythm in RATES:
        expected = np.median(off[(made.records["rhythm"] == rhythm).to_numpy()])
        assert scores_of(table, "value", rhythm)["limb_residual"] == pytest.approx(expected)


@pytest.mark.slow
def test_copies_reveal_the_training_patients(real: tuple[RecordSet, RecordSet]) -> None:
    train, test = real
    table, _ = assess(train, test, train, SETTINGS)
    value, baseline = scores_of(table, "value"), scores_of(table, "baseline")
    assert value["membership_auc"] > 0.9
    assert 0.3 < baseline["membership_auc"] < 0.7
    assert value["authenticity"] == 0
    assert baseline["authenticity"] > 0.3
    assert value["copied_share"] == 1


@pytest.mark.slow
def test_a_wrong_heart_rate_is_seen_in_bpm(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    table, _ = assess(
        *real,
        record_set(tmp_path / "fast", {"SR": 30, "SB": 30, "ST": 30}, seed=4, change=1.2),
        SETTINGS,
    )
    for rhythm, bpm in RATES.items():
        row = table[(table["rhythm"] == rhythm) & (table["metric"] == "heart_rate_w1")].iloc[0]
        assert row["value"] == pytest.approx(0.2 * bpm, abs=4)
        assert row["low"] < row["value"] < row["high"]
        assert row["baseline"] < 4
    value = scores_of(table, "value")
    assert scores_of(table, "low")["c2st_accuracy"] > 0.5
    assert value["mmd2"] > scores_of(table, "baseline")["mmd2"]
    assert value["mmd_p"] == pytest.approx(1 / 50)


@pytest.mark.slow
def test_an_assessment_repeats(real: tuple[RecordSet, RecordSet]) -> None:
    train, test = real
    for first, second in zip(
        assess(train, test, test, SHORT), assess(train, test, test, SHORT), strict=True
    ):
        pd.testing.assert_frame_equal(first, second)


def test_the_command_prints_the_scores_of_all_rhythms_and_counts_those_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {
        "copied_share": (0.01, 0.0, 0.02, 0.01, 0.0),
        "membership_auc": (0.5, 0.4, 0.6, 0.5, 0.5),
        "c2st_accuracy": (0.75, 0.6, 0.9, 0.5, 1.0),
        "recall": (0.25, 0.2, 0.3, 0.875, 0.0),
        "qrs_constancy": (0.875, 0.75, 0.9375, 0.875, np.nan),
        "mmd2": (0.0625, np.nan, np.nan, 0.0, 1.0),
        "mmd_p": (0.5, np.nan, np.nan, 0.5, 0.01),
    }
    columns = ["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    rows = [("all", name, *values) for name, values in metrics.items()]
    table = pd.DataFrame([*rows, ("SR", "recall", 0.03125, 0.0, 0.1, 0.5, 0.0)], columns=columns)
    monkeypatch.setattr(score.scores, "assess", lambda *_: (table.copy(), None))
    for name in ("real", "synthetic"):
        record_set(tmp_path / name, {"SR": 2}, seed=0)
    params = Params.read(Path(__file__).parent.parent / "params.yaml")
    score.score(params, tmp_path / "real", tmp_path / "synthetic", tmp_path / "scores.csv")
    printed = capsys.readouterr().out
    cells = [[*map(str.strip, line.split("│")[1:-1])] for line in printed.splitlines()]
    assert ["recall", "0.25", "0.2 to 0.3", "0.875", "0", "▲"] in cells
    assert ["c2st_accuracy", "0.75", "0.6 to 0.9", "0.5", "1", "▲"] in cells
    assert ["mmd2", "0.0625", "", "0", "1", ""] in cells
    assert "0.0312" not in printed, "scores of a rhythm are in the file alone"
    assert "explains: all 2 of 4, SR 1 of 1 scores." in printed
    assert "too few records: SB, ST." in printed
    pd.testing.assert_frame_equal(read_csv(tmp_path / "scores.csv"), table)
    with console.document(True):
        score.score(params, tmp_path / "real", tmp_path / "synthetic", None)
    found = json.loads(capsys.readouterr().out)
    recall = next(row for row in found["scores"] if row["metric"] == "recall")
    assert recall["rhythm"] == "all"
    assert (recall["value"], recall["baseline"], recall["beyond"]) == (0.25, 0.875, True)
    mmd = next(row for row in found["scores"] if row["metric"] == "mmd2")
    assert (mmd["low"], mmd["high"]) == (None, None)
    assert found["not_scored"] == ["SB", "ST"]


def test_sets_that_cannot_be_compared_are_refused(
    real: tuple[RecordSet, RecordSet], tmp_path: Path
) -> None:
    train, test = real
    with pytest.raises(EcgforgeError, match="units is per_lead_std there and mV here"):
        assess(
            train,
            test,
            record_set(tmp_path / "units", {"SR": 10}, seed=5, units="per_lead_std"),
            SETTINGS,
        )
    with pytest.raises(EcgforgeError, match="no rhythm"):
        assess(train, test, record_set(tmp_path / "few", {"SR": 4}, seed=6), SETTINGS)
