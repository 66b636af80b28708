"""Simulated patients: are they who the measurements say, do their hearts beat so, and do the files
read as published?
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgforge.files import md5, read_csv
from ecgforge.params import SimulatedSource
from ecgforge.simulator import heart, noise, population
from ecgforge.sources import simulated

RHYTHMS = ("SR", "SB", "ST", "SA", "AFIB", "AFLT", "SVT")
RATE = 500  # Hz


def generators(count: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(count)]


def simulate(patients: pd.DataFrame, seed: int = 0) -> heart.Ecg:
    return heart.simulate(
        patients, generators(len(patients), seed), generators(len(patients), seed + 1), RATE, 10
    )


def patients_with(rhythm: str, count: int, **columns: object) -> pd.DataFrame:
    return population.draw(np.repeat(rhythm, count), np.random.default_rng(0)).assign(**columns)


def rms(signals: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(signals).mean(axis=-2))


def r_peaks(signals: np.ndarray) -> np.ndarray:
    """Find beats in the signal alone: the steepest places, at least 0.2 s apart, as far as the
    QRS stands out.
    """
    steep = np.abs(np.diff(signals, axis=-1)).sum(axis=0)
    steep = np.convolve(steep, np.ones(30) / 30, "same")
    peaks = []
    left = steep.copy()
    while left.max() > 0.45 * np.quantile(steep, 0.995):
        peak = int(left.argmax())
        peaks.append(peak)
        left[max(0, peak - 100) : peak + 100] = 0
    return np.sort(peaks) / RATE


@pytest.fixture(scope="module")
def ecgs() -> dict[str, tuple[pd.DataFrame, heart.Ecg]]:
    """Forty clean ECGs of each rhythm."""
    tables = {rhythm: patients_with(rhythm, 40) for rhythm in RHYTHMS}
    return {rhythm: (table, simulate(table)) for rhythm, table in tables.items()}


@pytest.fixture(scope="module")
def crowd() -> pd.DataFrame:
    return population.draw(np.repeat(RHYTHMS, 3000), np.random.default_rng(5))


@pytest.mark.parametrize("quantity", ["rate", "qrs", "qt", "age", "r_axis", "t_axis"])
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_quantiles_lie_within_the_measured_ranges(
    crowd: pd.DataFrame, rhythm: str, quantity: str
) -> None:
    drawn = np.quantile(crowd.loc[crowd["rhythm"] == rhythm, quantity], [0.25, 0.5, 0.75])
    _, low, quarter, median, three_quarters, high, _ = population.quantiles(rhythm, quantity)
    # Each quantile lies between its measured neighbours, and near its own by the spread of all.
    assert ([low, quarter, median] <= drawn + 0.5).all()
    assert (drawn - 0.5 <= [median, three_quarters, high]).all()
    assert np.abs(drawn - [quarter, median, three_quarters]).max() < 0.05 * (high - low) + 0.5


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_correlations_are_the_measured_ones(crowd: pd.DataFrame, rhythm: str) -> None:
    drawn = np.corrcoef(
        crowd.loc[crowd["rhythm"] == rhythm, list(population.CORRELATED)], rowvar=False
    )
    assert np.abs(drawn - population.correlations(rhythm)).max() < 0.15
    assert drawn[0, 2] < -0.3  # the faster the heart, the shorter QT


def test_rates_keep_the_classes_apart(crowd: pd.DataFrame) -> None:
    rate = crowd.groupby("rhythm")["rate"]
    assert rate.max()["SB"] < 60
    assert rate.min()["SR"] > 59
    assert rate.max()["SR"] < 100
    assert rate.min()["ST"] > 100


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_rates_exceed_the_extreme_quantiles_by_the_rounding_of_the_measured_rates(
    crowd: pd.DataFrame, rhythm: str
) -> None:
    rate, measured = (
        crowd.loc[crowd["rhythm"] == rhythm, "rate"],
        population.quantiles(rhythm, "rate"),
    )
    assert measured[0] - rate.min() == pytest.approx(0.5, abs=0.15)
    assert rate.max() - measured[-1] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_the_simulated_rate_is_the_sampled_rate(
    ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]], rhythm: str
) -> None:
    table, ecg = ecgs[rhythm]
    produced = [60 / np.diff(times).mean() for times in ecg.beats]
    np.testing.assert_allclose(produced, table["rate"], rtol=1e-6)
    if rhythm != "AFLT":  # whose waves can be steeper than a low-voltage QRS
        found = [60 / np.diff(r_peaks(signals)).mean() for signals in ecg.signals]
        assert np.mean(np.abs(np.array(found) / table["rate"] - 1) < 0.05) > 0.85


def test_qrs_and_qt_measured_in_the_signal_are_the_sampled_ones() -> None:
    table = patients_with(
        "SR", 30, rate=60.0, qrs=np.linspace(70, 150, 30), qt=np.linspace(360, 460, 30)
    )
    ecg = simulate(table)
    errors = []
    for signals, times, qrs, qt in zip(
        ecg.signals, ecg.beats, table["qrs"], table["qt"], strict=True
    ):
        peak = round(times[2] * RATE)
        size = rms(signals[:, peak - 100 : peak + 350])
        limit = 0.05 * size[60:160].max()
        begin = 100 - int((size[100:0:-1] < limit).argmax())
        end = 100 + int((size[100:] < limit).argmax())
        t_peak = 100 + round(qrs / 2) + int(size[100 + round(qrs / 2) :].argmax())
        t_end = t_peak + int((size[t_peak:] < 0.10 * size[t_peak]).argmax())
        errors.append([(end - begin) * 1000 / RATE - qrs, (t_end - begin) * 1000 / RATE - qt])
    # In some patients ST lies above the limit where the QRS ends: so the median is held, and most
    # patients.
    assert (np.abs(np.median(errors, axis=0)) < 6).all()
    assert (np.mean(np.abs(errors) > 20, axis=0) < 0.3).all()


def test_the_frontal_axis_is_the_sampled_one() -> None:
    table = patients_with("SR", 12, r_axis=np.linspace(-60, 150, 12), qrs=90.0, rate=60.0)
    ecg = simulate(table)
    for signals, times, axis in zip(ecg.signals, ecg.beats, table["r_axis"], strict=True):
        peak = round(times[2] * RATE)
        one, two = signals[:2, peak - 30 : peak + 35].sum(axis=1)
        found = np.rad2deg(np.arctan2((two - one / 2) * 2 / np.sqrt(3), one))
        assert abs((found - axis + 180) % 360 - 180) < 15


def test_qt_follows_rr_from_beat_to_beat() -> None:
    from ecgforge.simulator.beats import Beats

    slow_then_fast = Beats(np.cumsum([0, *[1.2] * 15, *[0.6] * 15]), np.nan)
    qt = heart._qt(np.array([0.4]), [slow_then_fast])[0]
    assert qt[10] > 0.42
    assert qt[-1] < 0.37
    assert 0 < qt[15] - qt[18] < qt[15] - qt[-1]  # with a memory, not at once


def test_irregularity_orders_the_rhythms(ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]]) -> None:
    variation = {
        rhythm: np.median(
            [np.diff(times).std() / np.diff(times).mean() for times in ecgs[rhythm][1].beats]
        )
        for rhythm in RHYTHMS
    }
    assert variation["AFIB"] > 1.5 * variation["SA"] > 3 * variation["SR"] > 3 * variation["SVT"]


def test_arrhythmia_follows_the_breath_and_fibrillation_follows_nothing(
    ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]],
) -> None:
    def persistence(rhythm: str) -> float:
        intervals = [np.diff(times) for times in ecgs[rhythm][1].beats if len(times) > 8]
        return float(np.median([np.corrcoef(rr[1:], rr[:-1])[0, 1] for rr in intervals]))

    assert persistence("SA") > persistence("AFIB") + 0.2


def test_fibrillation_and_flutter_have_no_p(
    ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]],
) -> None:
    def before_qrs(rhythm: str) -> float:
        """Size of lead II, averaged over beats, where P would be; against the QRS."""
        shares = []
        for signals, times in zip(ecgs[rhythm][1].signals, ecgs[rhythm][1].beats, strict=True):
            peaks = (times[times > 0.3] * RATE).round().astype(int)
            average = np.mean(
                [signals[1, peak - 120 : peak - 50] for peak in peaks if peak - 120 >= 0], axis=0
            )
            shares.append(np.ptp(average) / np.ptp(signals[1]))
        return float(np.median(shares))

    assert before_qrs("AFIB") < 0.6 * before_qrs("SR")


def test_flutter_waves_have_a_peak_in_the_spectrum() -> None:
    table = patients_with("AFLT", 12, rate=75.0)
    ecg = simulate(table)
    heights = []
    for row, signals in enumerate(ecg.signals):
        power = (
            np.abs(np.fft.rfft(np.diff(signals[1]) * np.hanning(signals.shape[1] - 1), 2**15)) ** 2
        )
        frequencies = np.fft.rfftfreq(2**15, 1 / RATE)
        train = heart.beats.draw(
            "AFLT",
            75.0,
            table["qt"].iloc[row],
            10,
            0,
            heart.Breath(0.2, 0),
            np.random.default_rng(row),
        )
        assert 220 / 60 - 0.6 < 1 / train.cycle < 350 / 60 + 0.6
        flutter = power[(frequencies > 3.5) & (frequencies < 6.0)].max()
        heights.append(flutter / np.median(power[(frequencies > 3.5) & (frequencies < 6.0)]))
    assert np.median(heights) > 5


def diastole(ecg: heart.Ecg, row: int, begin: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Times in s, and I, II and V1-V6, of a record from `begin` after each R peak to `end` before
    the next.
    """
    times = np.arange(ecg.signals.shape[-1]) / RATE
    peaks = ecg.beats[row]
    since = times - np.insert(peaks, 0, -np.inf)[np.searchsorted(peaks, times, side="right")]
    until = np.append(peaks, np.inf)[np.searchsorted(peaks, times, side="right")] - times
    inside = (since > begin) & np.isfinite(since) & (until > end) & np.isfinite(until)
    return times[inside], ecg.signals[row][:, inside]


@pytest.fixture(scope="module")
def flutter() -> heart.Ecg:
    """Sixty clean flutters with long stretches free of QRS and T."""
    return simulate(patients_with("AFLT", 60, rate=55.0, qt=380.0, qrs=90.0))


def test_flutter_waves_are_negative_in_two_and_upright_in_v1(flutter: heart.Ecg) -> None:
    def skewness(signal: np.ndarray) -> float:
        return float(np.mean((signal - signal.mean()) ** 3) / signal.std() ** 3)

    found = np.array(
        [
            [skewness(lead) for lead in diastole(flutter, row, 0.5, 0.08)[1][[1, 2]]]
            for row in range(60)
        ]
    )
    turned = (found[:, 0] > 0) & (found[:, 1] < 0)  # clockwise
    assert ((found[:, 0] < -0.15) & (found[:, 1] > 0.2)).mean() > 0.75
    assert 0 < turned.mean() < 0.25


def test_the_upright_wave_in_v1_falls_on_the_rise_of_two(flutter: heart.Ecg) -> None:
    late = []
    for row in range(60):
        _, (_, two, v1, *_) = diastole(flutter, row, 0.5, 0.08)
        trough = two[60:-60].argmin() + 60
        late.append(v1[trough - 50 : trough + 50].argmax() > 50)
    assert np.mean(late) > 0.75


def best_wave(times: np.ndarray, signal: np.ndarray) -> tuple[float, float]:
    """Fit a wave and its first harmonic: the rate per minute that explains most of the variance,
    and how much it explains.
    """
    rates = np.arange(150.0, 480.0, 2.0)
    angles = 2 * np.pi * times * rates[:, None] / 60
    waves = np.stack(
        [
            np.sin(angles),
            np.cos(angles),
            np.sin(2 * angles),
            np.cos(2 * angles),
            np.ones_like(angles),
        ],
        axis=-1,
    )
    shares = [
        1 - np.var(signal - wave @ np.linalg.lstsq(wave, signal, rcond=None)[0]) / np.var(signal)
        for wave in waves
    ]
    return rates[np.argmax(shares)], max(shares)


def test_flutter_waves_are_as_high_as_real_ones_and_never_at_rest(flutter: heart.Ecg) -> None:
    heights, ratios, fits = [], [], []
    for row, signals in enumerate(flutter.signals):
        times, (_, two, *_) = diastole(flutter, row, 0.5, 0.08)
        heights.append(np.ptp(two))
        ratios.append(np.ptp(two) / np.ptp(signals[1]))
        fits.append(best_wave(times[::8], two[::8]))
    rates, explained = np.transpose(fits)
    assert 0.2 < np.median(heights) < 0.4  # mV
    assert 0.1 < np.quantile(heights, 0.05) < np.quantile(heights, 0.95) < 0.6
    assert 0.1 < np.median(ratios) < 0.5
    assert np.quantile(explained, 0.1) > 0.8
    assert 250 < np.median(rates) < 330
    assert ((rates > 200) & (rates < 360)).mean() > 0.9


def test_flutter_rates_are_the_usual_ones() -> None:
    rates = population.draw(np.repeat("AFLT", 300), np.random.default_rng(1))["rate"]
    trains = [
        heart.beats.draw("AFLT", rate, 300, 10, 0, heart.Breath(0.2, 0), np.random.default_rng(row))
        for row, rate in enumerate(rates)
    ]
    low, quarter, median, three_quarters, high = np.quantile(
        [60 / train.cycle for train in trains], [0.02, 0.25, 0.5, 0.75, 0.98]
    )
    assert low > 190
    assert 250 < quarter < median < three_quarters < 330
    assert high < 430


def test_beats_follow_their_flutter_waves_and_do_not_drift() -> None:
    trains = [
        heart.beats.draw(
            "AFLT", 150.0, 280, 10, 0, heart.Breath(0.2, 0), np.random.default_rng(row)
        )
        for row in range(40)
    ]
    ratios = [np.diff(train.times) / train.cycle for train in trains]
    assert np.mean([np.median(ratio).round() == 2 for ratio in ratios]) > 0.5
    for train in trains:
        phases = np.exp(2j * np.pi * train.times / train.cycle)
        assert np.abs(phases.mean()) > 0.9, "each beat comes at the same place of a wave"


def test_supraventricular_tachycardia_is_regular(
    ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]],
) -> None:
    variation = [np.diff(times).std() / np.diff(times).mean() for times in ecgs["SVT"][1].beats]
    assert max(variation) < 0.025
    assert 0.005 < np.median(variation) < 0.015


def test_supraventricular_tachycardia_has_no_p_before_its_qrs() -> None:
    table = patients_with("SVT", 40, rate=125.0, qt=250.0, qrs=80.0, conduction="normal")
    ecg, sinus = simulate(table), simulate(table.assign(rhythm="ST", rate=100.0))
    quiet = [np.ptp(diastole(ecg, row, 0.29, 0.07)[1], axis=1).max() for row in range(40)]
    assert max(quiet) < 0.06  # mV, in any lead
    assert (
        np.median([np.ptp(diastole(sinus, row, 0.29, 0.07)[1], axis=1).max() for row in range(40)])
        > 0.1
    )


def test_atria_woken_from_below_give_a_p_that_is_negative_in_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = patients_with("SVT", 40, rate=150.0, qt=270.0, qrs=80.0)
    with_p, whole = simulate(table), heart._p_kernels
    monkeypatch.setattr(heart, "_p_kernels", lambda *args: (*whole(*args)[:2], np.zeros((2, 3))))
    p = with_p.signals - simulate(table).signals
    two, v1 = p[:, 1], p[:, 2]
    assert (-two.min(axis=1) > 2 * two.max(axis=1)).mean() > 0.95
    assert (v1.max(axis=1) > -v1.min(axis=1)).mean() > 0.8
    assert 0.03 < np.median(-two.min(axis=1)) < 0.2  # mV
    after = []
    for signal, peaks in zip(two, with_p.beats, strict=True):
        lowest = np.array(
            [
                signal[round((t - 0.1) * RATE) : round((t + 0.25) * RATE)].argmin() / RATE - 0.1
                for t in peaks[1:-1]
            ]
        )
        after.append(np.median(lowest))
    assert min(after) > -0.03
    # nodal re-entry; the others return by a bypass tract
    assert 0.5 < np.mean(np.array(after) < 0.08) < 0.85


def test_st_sinks_in_most_supraventricular_tachycardias() -> None:
    def level(rhythm: str) -> np.ndarray:
        ecg = simulate(
            patients_with(
                "SVT", 40, rate=125.0, qt=270.0, qrs=80.0, r_axis=60.0, t_axis=45.0
            ).assign(rhythm=rhythm)
        )
        levels = []
        for signals, peaks in zip(ecg.signals, ecg.beats, strict=True):
            at = (peaks[1:-1] * RATE).round().astype(int)
            # 80 ms behind R, 60 ms before it
            levels.append(np.median(signals[1, at + 40]) - np.median(signals[1, at - 30]))
        return np.array(levels)

    assert np.median(level("SVT")) < -0.03
    assert (level("SVT") < 0).mean() > 0.7
    assert np.median(level("ST")) > -0.03


def test_chest_leads_progress_from_s_to_r_and_avr_points_down(
    ecgs: dict[str, tuple[pd.DataFrame, heart.Ecg]],
) -> None:
    table, ecg = ecgs["SR"]
    signals = ecg.signals[(table["conduction"] == "normal") & table["r_axis"].between(0, 90)]
    high, low = signals.max(axis=-1), signals.min(axis=-1)
    net = np.median(high + low, axis=0)
    assert net[2] < -0.3  # V1: rS
    assert net[2] < net[4] < net[6]
    assert (np.median(high, axis=0)[2:5] < np.median(high, axis=0)[3:6]).all()  # R grows to V4
    assert np.median((-(signals[:, 0] + signals[:, 1]) / 2).min(axis=-1)) < -0.4
    assert 0.4 < np.median(high[:, 1]) < 1.2  # mV in lead II


# The written folders


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "ptbxl"
    simulated.write(folder, settings("ptbxl"))
    return folder


@pytest.fixture(scope="module")
def chapman(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "chapman"
    simulated.write(folder, settings("chapman"))
    return folder


@pytest.fixture(params=["ptbxl", "chapman"])
def site(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(request.param)


def settings(layout: str, records: int = 140, seed: int = 3) -> SimulatedSource:
    return SimulatedSource(kind="simulated", layout=layout, records=records, seed=seed)


def record_paths(layout: str, folder: Path) -> list[str]:
    if layout == "ptbxl":
        return read_csv(folder / "ptbxl_database.csv")["filename_lr"].tolist()
    parents = (folder / "RECORDS").read_text().split()
    return [
        parent + name
        for parent in parents
        for name in (folder / parent / "RECORDS").read_text().split()
    ]


def test_wfdb_reads_what_was_written(site: tuple[str, Path]) -> None:
    layout, folder = site
    paths = record_paths(layout, folder)
    assert len(paths) == 140
    for path in paths[::10]:
        record = wfdb.rdrecord(folder / path, physical=False)
        rate, augmented = (
            (100, ["AVR", "AVL", "AVF"]) if layout == "ptbxl" else (500, ["aVR", "aVL", "aVF"])
        )
        assert (record.fs, record.sig_len) == (rate, 10 * rate)
        assert record.sig_name == ["I", "II", "III", *augmented, "V1", "V2", "V3", "V4", "V5", "V6"]
        assert set(record.units) == {"mV"}
        assert set(record.adc_gain) == {1000}
        samples = record.d_signal.astype(np.int64)
        assert record.init_value == samples[0].tolist()
        np.testing.assert_array_equal(
            np.array(record.checksum) % 65536, samples.sum(axis=0) % 65536
        )
        assert "simulated by ecgforge" in record.comments
        assert 0.05 < np.abs(samples).max() / 1000 < 10


def test_limb_leads_are_einthovens(site: tuple[str, Path]) -> None:
    layout, folder = site
    for path in record_paths(layout, folder)[::20]:
        one, two, three, avr, avl, avf = (
            wfdb.rdrecord(folder / path, physical=False).d_signal[:, :6].astype(int).T
        )
        np.testing.assert_array_equal(three, two - one)
        for derived, exact in ((avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
            assert np.abs(derived - exact).max() <= 0.5


def test_mains_are_heard_where_the_sampling_rate_lets_them() -> None:
    cohort = population.draw(np.repeat("SR", 24), np.random.default_rng(1))
    cohort["patient"] = cohort["number"] = np.arange(24)
    signals, _ = simulated.simulate("chapman", 0, cohort)
    power = np.median(np.abs(np.fft.rfft(signals * np.hanning(5000))) ** 2, axis=(0, 1))
    assert power[500] > 5 * power[470]  # 50 Hz against 47 Hz


@pytest.mark.parametrize(("rate", "heard"), [(100, False), (500, True)])
def test_mains_at_half_the_sampling_rate_are_not_heard(rate: int, heard: bool) -> None:
    recorder = noise.Recorder(rate, 0.05, 150, 10, 5, 20, 0.1, mains_frequency=50, gain=0)
    with_mains, without = (
        replace(recorder, mains=mains).record(np.zeros((2, 8, 5000)), generators(2, 0), 500)
        for mains in (20, 0)
    )
    assert np.allclose(with_mains, without, atol=1e-4) is not heard


def test_ptbxl_tables_are_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_write_batch", lambda *_: None)  # tables alone
    simulated.write(tmp_path / "raw", settings("ptbxl", records=600))
    table = read_csv(tmp_path / "raw" / "ptbxl_database.csv")
    codes = table["scp_codes"].map(ast.literal_eval)
    statements = read_csv(tmp_path / "raw" / "scp_statements.csv", index_col=0)
    assert {code for row in codes for code in row} <= set(statements.index)
    rhythmic = set(statements.index[statements["rhythm"] == 1])
    number = codes.map(lambda row: len(rhythmic & set(row)))
    assert 0.98 < (number == 1).mean() < 0.99
    assert {0, 1, 2} == set(number)
    rhythm = codes[number == 1].map(lambda row: next(iter(rhythmic & set(row))))
    assert rhythm.value_counts(normalize=True).min() >= 0.06
    records = table["patient_id"].value_counts()
    assert set(records) == {1, 2}
    assert (table.groupby("patient_id")["strat_fold"].nunique() == 1).all()
    balance = pd.crosstab(rhythm, table.loc[rhythm.index, "strat_fold"])
    assert (balance.max(axis=1) - balance.min(axis=1)).max() <= 6
    assert (balance.to_numpy() >= 1).all()
    assert set(table["age"][table["age"] > 89]) <= {300}


def test_chapman_headers_are_as_published(chapman: Path) -> None:
    headers = [(chapman / f"{path}.hea").read_text() for path in record_paths("chapman", chapman)]
    codes = [
        re.search(r"^#Dx: (.*)$", header, re.MULTILINE).group(1).split(",") for header in headers
    ]  # type: ignore[union-attr]
    names = read_csv(chapman / "ConditionNames_SNOMED-CT.csv", dtype=str)
    assert list(names.columns) == ["AcronymName", "FullName", "Snomed_CT"]
    assert {code for row in codes for code in row if code} <= set(names["Snomed_CT"])
    assert any(len(row) > 1 for row in codes)
    assert sum("#Age: NaN" in header for header in headers) == 1
    assert all(re.search(r"^#Sex: (Male|Female)$", header, re.MULTILINE) for header in headers)


@pytest.mark.parametrize("layout", ["ptbxl", "chapman"])
def test_bytes_depend_on_the_seed_and_on_nothing_else(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.write(tmp_path / "once", settings(layout, records=15))
    simulated.write(tmp_path / "other seed", settings(layout, records=15, seed=4))
    monkeypatch.setattr(simulated, "_BATCH", 4)
    simulated.write(tmp_path / "in parts", settings(layout, records=15))
    assert md5(tmp_path / "once") == md5(tmp_path / "in parts") != md5(tmp_path / "other seed")


def test_nothing_remains_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulated, "_write_chapman_record", full)
    with pytest.raises(OSError, match="No space left"):
        simulated.write(tmp_path / "raw", settings("chapman", records=20))
    assert list(tmp_path.iterdir()) == []


def test_a_patient_keeps_the_shape_of_the_heart() -> None:
    table = patients_with("SR", 2, rate=70.0, qrs=90.0, qt=390.0, r_axis=40.0, t_axis=40.0)
    beats = []
    for seed in (10, 20):
        ecg = heart.simulate(table, generators(2, 1), generators(2, seed), RATE, 10)
        centres = [round(times[3] * RATE) for times in ecg.beats]
        beats.append(
            [
                signals[:, peak - 40 : peak + 40].ravel()
                for signals, peak in zip(ecg.signals, centres, strict=True)
            ]
        )
    same = np.corrcoef(beats[0][0], beats[1][0])[0, 1]
    assert same > 0.98
    assert same > np.corrcoef(beats[0][0], beats[0][1])[0, 1] + 0.01
