"""Waves and intervals: measured as they were simulated."""

from __future__ import annotations

import neurokit2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from ecgforge.quality import waves
from ecgforge.simulator import heart, population

RATE = 100
SECONDS = np.arange(10 * RATE) / RATE


def patients(rhythm: str, count: int, **columns: object) -> pd.DataFrame:
    """Patients of a rhythm without bundle branch block, with these columns as given."""
    return population.draw(np.repeat(rhythm, count), np.random.default_rng(0)).assign(
        conduction="normal", **columns
    )


def simulate(table: pd.DataFrame, sampling_rate: int = RATE) -> np.ndarray:
    rngs = [[np.random.default_rng([seed, row]) for row in range(len(table))] for seed in (1, 2)]
    return heart.simulate(table, *rngs, sampling_rate, 10).signals


def bump(centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((SECONDS - centre) / width) ** 2)


def ecg(r_wave: float, t_wave: float, offset: float, beat_times: np.ndarray) -> np.ndarray:
    """P-QRS-T with these heights in lead II, `[8, samples]`, and half of them elsewhere."""
    heights = np.array([0.5, 1, *[0.5] * 6])[:, None]
    shape = sum(
        0.1 * bump(t - 0.16, 0.02) + r_wave * bump(t, 0.016) + t_wave * bump(t + 0.28, 0.045)
        for t in beat_times
    )
    return heights * shape + offset


@pytest.fixture(scope="module")
def sinus() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Patients in sinus rhythm at 75 bpm with known waves, and what is measured of them."""
    rng = np.random.default_rng(4)
    count = 30
    table = patients(
        "SR",
        count,
        rate=75.0,
        qrs=rng.permutation(np.linspace(70, 150, count)),
        qt=np.linspace(340, 450, count),
        t_axis=50.0,
    )
    table = table.assign(r_axis=rng.permutation(np.linspace(-60, 150, count)))
    return table, waves.measure(simulate(table), RATE, "mV")


def test_intervals_are_those_of_the_simulated_waves(
    sinus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table, found = sinus
    assert not found["failed"].any()
    # NeuroKit's own QRS bounds, the lowest points next to R, are 20 ms short and follow the truth
    # by 0.4.
    assert abs(np.median(found["qrs_duration"] - table["qrs"])) < 8
    assert found["qrs_duration"].corr(table["qrs"]) > 0.9
    assert abs(np.median(found["qt"] - table["qt"])) < 20
    assert found["qt"].corr(table["qt"]) > 0.8


@pytest.mark.parametrize(("rate", "qt"), [(50.0, 430.0), (110.0, 330.0), (140.0, 290.0)])
def test_qt_is_complete_at_every_rate(rate: float, qt: float) -> None:
    # A search as far as half of the RR interval ends 214 ms after R at 140 bpm, and T some 250 ms.
    rhythm = "SB" if rate < 60 else "ST"
    found = waves.measure(
        simulate(patients(rhythm, 16, rate=rate, qt=qt, qrs=86.0, r_axis=50.0, t_axis=50.0)),
        RATE,
        "mV",
    )
    assert not found["failed"].any()
    assert abs(np.median(found["qt"]) - qt) < 25
    np.testing.assert_allclose(found["qtc"], found["qt"] * np.cbrt(rate / 60), rtol=0.03)


def test_p_waves_are_found_in_sinus_rhythm_and_not_in_fibrillation() -> None:
    sinus, fibrillation = (
        waves.measure(simulate(patients(rhythm, 20)), RATE, "mV") for rhythm in ("SR", "AFIB")
    )
    assert sinus["p_share"].median() > 0.95
    assert fibrillation["p_share"].median() < 0.6


def test_the_axis_is_the_simulated_one(sinus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, found = sinus
    error = (found["axis"] - table["r_axis"] + 180) % 360 - 180
    assert abs(error.median()) < 3
    assert error.abs().quantile(0.9) < 15


def test_the_axis_in_every_quadrant() -> None:
    angles = np.array([-89.0, -45, 0, 30, 60, 100, 179, 225, 269])
    # A vector seen in Einthoven's triangle; without the correction of aVF, 45 degrees would be 41.
    one, two = np.cos(np.radians(angles)), np.cos(np.radians(angles - 60))
    qrs = np.zeros((len(angles), 8, 5))
    qrs[:, :2] = np.stack([one, two], axis=1)[..., None]
    np.testing.assert_allclose([waves._axis(record) for record in qrs], angles)


def test_amplitudes_count_from_the_level_before_the_qrs() -> None:
    beat_times = np.arange(0.5, 10, 0.8)
    signals = np.stack(
        [
            ecg(1.2, 0.3, 0.0, beat_times),
            ecg(1.2, -0.3, 5.0, beat_times),
            ecg(0.6, 0.15, -2.0, beat_times),
        ]
    )
    found = waves.measure(signals, RATE, "mV")
    np.testing.assert_allclose(found["r_amplitude"], [1.2, 1.2, 0.6], atol=0.05)
    np.testing.assert_allclose(found["t_amplitude"], [0.3, -0.3, 0.15], atol=0.03)


def test_units_change_amplitudes_and_no_interval(sinus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, found = sinus
    signals = simulate(table)
    deviations = signals.std(axis=-1, keepdims=True)
    standardised = waves.measure(signals / deviations, RATE, "per_lead_std")
    for column in ("qrs_duration", "qt", "qtc", "p_share"):
        # a sample, where rounding turns a bound
        np.testing.assert_allclose(standardised[column], found[column], atol=2.1)
    for column in ("r_amplitude", "t_amplitude"):
        np.testing.assert_allclose(
            standardised[column] * deviations[:, 1, 0], found[column], atol=0.01
        )
    assert standardised["axis"].isna().all()


def test_the_sampling_rate_changes_little(sinus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, found = sinus
    fine = waves.measure(simulate(table, 500), 500, "mV")
    for column, tolerance in (("qrs_duration", 6), ("qt", 10), ("r_amplitude", 0.05)):
        assert (fine[column] - found[column]).abs().median() < tolerance


def test_constancy_as_computed_by_hand() -> None:
    # Beats 0 2, 0 2, 0 2 and 2 4 have the median 0 2 and the mean 1.5: mean squares 1 and 1.75. The
    # second lead has another level, which does not count.
    lead = np.array([[0.0, 2], [0, 2], [0, 2], [2, 4]])
    assert waves.constancy(np.stack([lead, 10 + lead], axis=1)) == pytest.approx(1 - 1 / 1.75)
    assert waves.constancy(np.tile([[[0.0, 2]]], (5, 1, 1))) == 1


def test_qrs_constancy_is_of_the_qrs_of_all_leads_in_any_unit() -> None:
    beat_times = np.arange(0.5, 10, 0.8)[:, None]
    varied = np.tile([1.25, 0.75], 6)
    steady, t_varies, qrs_varies = (
        sum(ecg(r, t, 0.0, at) for r, t, at in zip(r_waves, t_waves, beat_times, strict=True))
        for r_waves, t_waves in (
            (np.ones(12), np.full(12, 0.3)),
            (np.ones(12), 0.3 * varied),
            (varied, np.full(12, 0.3)),
        )
    )
    in_one_lead = np.where(np.arange(8)[:, None] == 5, qrs_varies, steady)
    other_units = qrs_varies * np.where(np.arange(8)[:, None] == 5, 50, 1000)
    found = waves.measure(
        np.stack([steady, t_varies, in_one_lead, qrs_varies, other_units]), RATE, "mV"
    )["qrs_constancy"]
    assert found[:2].min() > 0.98, "T is not within 80 ms of R"
    assert found[3] < 0.95 < found[2] < 0.992 < found[0], "all leads count"
    assert found[4] == pytest.approx(found[3], abs=1e-6)


def test_what_cannot_be_measured_is_counted_and_kept() -> None:
    good = ecg(1.0, 0.3, 0.0, np.arange(0.5, 10, 0.8))
    noise = np.random.default_rng(0).standard_normal((8, 1000))
    two_beats = ecg(1.0, 0.3, 0.0, np.array([3.0, 7.0])) + 0.02 * noise
    found = waves.measure(np.stack([good, two_beats, np.zeros((8, 1000)), noise, good]), RATE, "mV")
    assert found["failed"].tolist() == [False, True, True, True, False]
    assert found.loc[1:3, list(waves.MEASURES)].isna().all(axis=None)
    assert found.loc[[0, 4], list(waves.MEASURES)].notna().all(axis=None)


def test_a_dead_second_lead_fails_and_the_others_still_give_the_qrs() -> None:
    signals = ecg(1.0, 0.3, 0.0, np.arange(0.5, 10, 0.8))
    signals[1] = 0
    found = waves.measure(signals[None], RATE, "mV").iloc[0]
    assert found["failed"]
    assert found["qrs_duration"] > 50
    assert np.isnan(found["qt"])


def by_neurokit(beats_apart: np.ndarray) -> list[np.ndarray]:
    """P peaks, T peaks and T ends of the same beats by NeuroKit."""
    middle, half = round(waves.BEFORE * waves.RATE), beats_apart.shape[1] // 2
    lead = np.pad(beats_apart, ((0, 0), (half - middle, 0)), mode="edge")[:, : 2 * half]
    starts = 2 * half * np.arange(len(lead))
    _, found = neurokit2.ecg_delineate(
        lead.ravel(), starts + half, sampling_rate=waves.RATE, method="prominence"
    )
    names = ("ECG_P_Peaks", "ECG_T_Peaks", "ECG_T_Offsets")
    return [np.array(found[name], dtype=float) - starts - half + middle for name in names]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40), st.integers(0, 20))
def test_waves_are_delineated_as_by_neurokit(
    seed: int, count: int, smoothing: int, levels: int
) -> None:
    # With few levels, many extrema are equal or flat. Some beats are constant, or rise throughout.
    rng = np.random.default_rng(seed)
    samples = round((waves.BEFORE + waves.AFTER) * waves.RATE)
    beats_apart = rng.standard_normal((count, samples + smoothing)).cumsum(axis=1) / 10
    window = np.ones(smoothing) / smoothing
    beats_apart = np.array([np.convolve(beat, window)[:samples] for beat in beats_apart])
    if levels:
        beats_apart = np.round(beats_apart * levels) / levels
    beats_apart[rng.random(count) < 0.1] = 1.0
    beats_apart[rng.random(count) < 0.1] = np.arange(samples)
    for found, expected in zip(
        waves._delineate(beats_apart), by_neurokit(beats_apart), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_no_record_is_an_empty_table() -> None:
    found = waves.measure(np.zeros((0, 8, 1000)), RATE, "mV")
    assert found.columns.tolist() == [*waves.MEASURES, "failed"]
    assert found.empty


def test_a_record_does_not_depend_on_its_neighbours(
    sinus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table, found = sinus
    signals = simulate(table)
    for place in (0, 3, len(signals) - 1):
        alone = waves.measure(signals[place : place + 1], RATE, "mV")
        pd.testing.assert_frame_equal(alone, found.iloc[place : place + 1].reset_index(drop=True))


# Kolmogorov-Smirnov


def test_the_greatest_gap_as_counted_by_hand() -> None:
    # Below 3 lie three of four, and one of five.
    first, second = np.array([0.0, 1, 2, 9]), np.array([0.5, 3, 4, 5, 6])
    assert waves.ks(first, second) == pytest.approx(3 / 4 - 1 / 5)
    assert waves.ks(np.append(first, [np.nan] * 9), second) == pytest.approx(3 / 4 - 1 / 5)
    assert np.isnan(waves.ks(first, np.full(3, np.nan)))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
)
def test_the_gap_has_no_unit_and_no_order(first: list[float], second: list[float]) -> None:
    one, other = np.array(first), np.array(second)
    assert waves.ks(one, other) == pytest.approx(waves.ks(other, one))
    assert waves.ks(one, one) == 0
    assert waves.ks(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert waves.ks(one, one + 300) == 1
    assert 0 <= waves.ks(one, other) <= 1
