"""Spectra: powers and distances that are known in advance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgforge.quality import spectrum

RATE = 100
TIMES = np.arange(1000) / RATE


def apart(first: np.ndarray, second: np.ndarray, sampling_rate: float) -> float:
    return spectrum.distance(
        spectrum.log_psd(first, sampling_rate), spectrum.log_psd(second, sampling_rate)
    )


def noise(records: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((records, 8, 1000))


def tones(*frequencies: float) -> np.ndarray:
    """Two records of eight leads with a sine of each frequency, of unit size."""
    wave = sum(np.sin(2 * np.pi * frequency * TIMES) for frequency in frequencies)
    return np.broadcast_to(wave, (2, 8, 1000))


@pytest.mark.parametrize("rate", [100, 500])
def test_white_noise_has_the_density_of_its_variance(rate: int) -> None:
    # A variance of 0.04 spread over half of the sampling rate.
    density = 10 ** spectrum.log_psd(
        0.2 * np.random.default_rng(0).standard_normal((40, 8, 10 * rate)), rate
    )
    assert density.shape == (40, 8, 159)  # 0.5 to 40 Hz by quarters
    assert density.mean() == pytest.approx(0.04 / (rate / 2), rel=0.02)


def test_the_mean_distance_of_spectra_is_in_decibels() -> None:
    first = noise()
    assert apart(first, first, RATE) == 0
    assert apart(first, 10 * first, RATE) == pytest.approx(20)
    # Only one lead of eight differs: a mean over leads first, as of one signal, would say something
    # else.
    changed = first.copy()
    changed[:, 3] *= 10
    assert apart(first, changed, RATE) == pytest.approx(20 / 8)
    # Powers are averaged in dB: of the mean power, half of the records a thousandfold would be 57
    # dB and not 30.
    assert apart(first, np.concatenate([first, 1000 * first]), RATE) == pytest.approx(30)


def test_differences_do_not_cancel() -> None:
    first, louder = noise(), noise()
    louder[:, :4] *= 10
    louder[:, 4:] /= 10
    assert apart(first, louder, RATE) == pytest.approx(20)


def test_sets_of_one_distribution_are_near_and_muscle_noise_is_not() -> None:
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(10) / 10, "same"), -1, noise(200))
    baseline = apart(smooth[:100], smooth[100:], RATE)
    assert baseline < 0.5
    assert apart(smooth[:100], smooth[100:] + 0.3 * noise(100, seed=1), RATE) > 10 * baseline


def test_nothing_beyond_the_band_counts() -> None:
    first = noise()
    hum = np.sin(2 * np.pi * 47 * TIMES)
    drift = 5 + 0 * TIMES
    assert apart(first, first + hum + drift, RATE) < 0.01


def test_a_dead_lead_is_at_the_converters_step_and_not_at_minus_infinity() -> None:
    assert spectrum.log_psd(np.zeros((1, 8, 1000)), RATE) == pytest.approx(np.log10(1e-6 / 50))
    assert np.isfinite(apart(noise(), np.zeros((3, 8, 1000)), RATE))


def test_band_powers_of_tones() -> None:
    # Powers go with the square of the size: 1 and 9 parts of 10.
    shares = spectrum.band_power(tones(2) + 3 * tones(10), RATE)
    assert list(shares.columns) == ["power_0_5", "power_5_15", "power_15_40"]
    np.testing.assert_allclose(shares, [[0.1, 0.9, 0]] * 2, atol=0.01)
    np.testing.assert_allclose(spectrum.band_power(tones(30), RATE), [[0, 0, 1]] * 2, atol=0.01)
    # White noise: 4.5, 10 and 25 Hz of 39.5.
    np.testing.assert_allclose(
        spectrum.band_power(noise(), RATE).mean(), np.array([4.5, 10, 25]) / 39.5, atol=0.02
    )


def test_every_lead_counts_as_much_and_dead_ones_do_not() -> None:
    leads = np.array(tones(2))
    leads[:, 4:] = 100 * tones(10)[:, 4:]
    np.testing.assert_allclose(spectrum.band_power(leads, RATE), [[0.5, 0.5, 0]] * 2, atol=0.01)
    leads[0, 4:] = 0
    leads[1] = 0
    shares = spectrum.band_power(leads, RATE)
    np.testing.assert_allclose(shares.iloc[0], [1, 0, 0], atol=0.01)
    assert shares.iloc[1].isna().all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_shares_add_up_to_one_and_do_not_depend_on_size(seed: int, size: float) -> None:
    signals = noise(3, seed)
    shares = spectrum.band_power(signals, RATE)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(spectrum.band_power(size * signals, RATE), shares)
