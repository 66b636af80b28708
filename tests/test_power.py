"""What a study can see, before and after it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ecgforge.analysis import comparisons, power, statistics
from ecgforge.analysis.power import Place
from ecgforge.analysis.statistics import VarianceParts

RHYTHMS = ("SR", "SB", "AFIB")
PLACE = Place("ptbxl", 8.0)


def some_parts(
    patients: float = 0.0,
    mixed: float = 0.0,
    seeds: float = 0.0,
    trainings: tuple[int, int] = (2, 2),
    rounds: int = 1,
) -> VarianceParts:
    """Parts whose two settings have the same variances."""
    return VarianceParts(patients, np.full(2, mixed), np.full(2, seeds), trainings, rounds)


def conditions(seeds: int, records: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Rhythms, and scores `[2, seeds, records, rhythms]` of two settings.

    Records are hard for a setting and for a seed, and each seed has a recall of its own.
    """
    rng = np.random.default_rng(0)
    truth = np.arange(records) % 3
    recall = 0.7 + 0.06 * rng.normal(size=(2, seeds, 1))
    hard = rng.random((2, 1, records)) < 0.3
    luck = np.where(hard, rng.random((2, seeds, records)), rng.random((2, 1, records)))
    right = luck < recall
    return truth, np.eye(3)[np.where(right, truth, (truth + 1) % 3)]


@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize(
    ("seeds", "metric"),
    [(1, "f1"), (2, "f1"), (3, "f1"), (3, "average_precision"), (3, "log_score")],
)
def test_the_parts_have_the_width_of_the_interval(seeds: int, metric: str, rounds: int) -> None:
    truth, scores = conditions(seeds)
    folds = np.arange(len(truth)) // 3 % rounds
    given = (truth, *scores, np.arange(len(truth)), RHYTHMS)
    options = {"resamples": 400, "seed": 0, "rounds": folds if rounds > 1 else None}
    parts = statistics.variance_parts(*given, metric=metric, **options)
    table = statistics.difference(*given, confidence=0.95, **options)
    (row,) = table[(table["rhythm"] == "macro") & (table["metric"] == metric)].to_dict("records")
    family = statistics.simultaneous(
        truth, scores, [(0, 1)], *given[3:], confidence=0.95, metric=metric, **options
    )
    columns = ["estimate", "low", "high"]
    assert family[columns].iloc[0].to_dict() == pytest.approx({name: row[name] for name in columns})
    found = power.half_width(parts, 0.95)
    assert found == pytest.approx((row["high"] - row["low"]) / 2, rel=0.1)
    assert (parts.trainings, parts.rounds) == ((seeds, seeds), rounds)
    assert bool(parts.seeds.any()) == (seeds > 1)


@pytest.mark.parametrize("rounds", [1, 5])
def test_more_patients_have_the_width_that_was_foretold(rounds: int) -> None:
    halves = []
    for records in (300, 1200):
        truth, scores = conditions(3, records)
        folds = np.arange(records) // 3 % rounds
        parts = statistics.variance_parts(
            truth,
            *scores,
            np.arange(records),
            RHYTHMS,
            resamples=400,
            seed=0,
            rounds=folds if rounds > 1 else None,
        )
        times = 1200 / records
        halves.append(power.half_width(power.scaled(parts, patients=times), 0.95))
    assert halves[0] == pytest.approx(halves[1], rel=0.25)


def test_each_part_falls_with_what_it_comes_from() -> None:
    parts = some_parts(0.04, 0.01, 0.01)
    bigger = power.scaled(parts, patients=2, seeds=4, rounds=5)
    assert bigger.patients == pytest.approx(0.02)
    assert bigger.mixed == pytest.approx(np.full(2, 0.01 / 8))
    assert bigger.seeds == pytest.approx(np.full(2, 0.01 / 20))
    assert (bigger.trainings, bigger.rounds) == ((8, 8), 5)
    one = some_parts(0.04, trainings=(1, 1))
    assert power.scaled(one, rounds=5).patients == pytest.approx(0.06)


@pytest.mark.parametrize("estimate", [-0.03, 0.0, 0.005, 0.01, 0.018, 0.05])
def test_an_interval_of_the_wanted_width_decides(estimate: float) -> None:
    for share, decided in ((0.99, True), (1.01, False)):
        half = share * power.wanted_half_width(estimate, 0.02)
        found = comparisons.finding(estimate - half, estimate + half, 0.02)
        assert (found != "undecided") == decided


def to_decide(parts: VarianceParts, estimate: float = 0.0, place: Place = PLACE) -> str:
    return power.to_decide(parts, estimate, 0.02, 0.95, place)


def test_patients_decide_if_the_variance_is_theirs() -> None:
    assert to_decide(some_parts(0.0004, trainings=(1, 1))) == (
        "To decide it: about 4 times as many test patients, or cross-fitting (folds: {ptbxl: 5}), "
        "which tests on 8 times as many patients."
    )


def test_seeds_and_rounds_decide_if_the_variance_is_theirs() -> None:
    assert to_decide(some_parts(seeds=0.0001)) == (
        "To decide it: 6 seeds in place of 2, or cross-fitting (folds: {ptbxl: 5}), which tests on "
        "8 times as many patients."
    )
    crossed = some_parts(seeds=0.00008, rounds=4)
    assert to_decide(crossed, place=Place("ptbxl", 1.0)) == (
        "To decide it: 4 seeds in place of 2, or 8 rounds in place of 4 (folds: {ptbxl: 8})."
    )
    assert "times as many seeds" in to_decide(some_parts(seeds=0.0001, trainings=(2, 3)))


def test_two_changes_together_are_named_if_neither_suffices() -> None:
    both = to_decide(some_parts(0.001, seeds=0.0002), place=Place("ptbxl", 1.0))
    assert both.startswith("To decide it: about ")
    assert "times as many test patients, with " in both
    assert " or " not in both


def test_what_cannot_be_decided_is_said() -> None:
    assert to_decide(some_parts(5.0, seeds=1.0)) == (
        "Even 100 times as many test patients with 20 seeds would not decide it, if the estimate "
        "stays."
    )
    assert "seeds" not in to_decide(some_parts(5.0, trainings=(1, 1)))


@pytest.mark.parametrize("patients", [0.0001, 0.001, 0.01])
@pytest.mark.parametrize("seeds", [0.0, 0.00005, 0.0005])
@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_every_named_change_decides(patients: float, seeds: float, rounds: int) -> None:
    parts = some_parts(patients, 0.0001, seeds, rounds=rounds)
    found = to_decide(parts)
    assert found.endswith(".")
    assert "folds: {ptbxl: 11}" not in found
    if "about" in found and " with " not in found:
        times = float(found.split("about ")[1].split(" times")[0])
        assert power.half_width(power.scaled(parts, patients=times), 0.95) < 0.02


def found_of(
    tested: dict[str, int], trainings: tuple[int, int], rounds: int = 1, **changed: float
) -> power.Foreseen:
    return power.foreseen(power.Design(tested, trainings, rounds), power.Assumptions(**changed))


TESTED = {"SR": 600, "SB": 200, "AFIB": 100, "AFLT": 0}


def test_a_larger_study_sees_a_smaller_gain() -> None:
    few = found_of(TESTED, (2, 2)).detectable_gain(0.95)
    assert found_of(TESTED, (3, 3)).detectable_gain(0.95) < few
    assert found_of(TESTED, (2, 2), 5).detectable_gain(0.95) < few
    twice = {rhythm: 2 * count for rhythm, count in TESTED.items()}
    assert found_of(twice, (4, 4)).detectable_gain(0.95) < found_of(TESTED, (4, 4)).detectable_gain(
        0.95
    )
    assert found_of(TESTED, (2, 2), shift=0.0).detectable_gain(0.95) < few
    assert found_of(TESTED, (2, 2)).detectable_gain(0.99) > few


@pytest.mark.parametrize("trainings", [(1, 1), (2, 2), (1, 3), (3, 2)])
@pytest.mark.parametrize("rounds", [1, 5])
def test_the_detectable_gain_has_its_power(trainings: tuple[int, int], rounds: int) -> None:
    expected = found_of(TESTED, trainings, rounds)
    gain = expected.detectable_gain(0.95)
    assert expected.power(gain, 0.95) == pytest.approx(power.POWER, abs=0.001)
    assert expected.power(2 * gain, 0.95) > 0.95
    assert expected.power(0.0, 0.95) < 0.3


def test_what_trainings_share_is_the_patients_part() -> None:
    same = found_of(TESTED, (3, 3), seeds_differ=0.0, shift=0.0)
    assert same.parts.mixed.sum() == pytest.approx(0, abs=1e-9)
    assert same.parts.patients > 0
    alike = found_of(TESTED, (3, 3), seeds_differ=0.2, settings_differ=0.2)
    assert alike.parts.patients < 0.1 * same.parts.patients
    assert alike.parts.seeds == pytest.approx(np.full(2, 0.03**2 / 3), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.05, 0.1])
def test_predicted_power_is_found_in_simulated_studies(gain: float) -> None:
    file = Path(__file__).parents[1] / "benchmarks/power.py"
    benchmark: Any = ModuleType("benchmark_of_power")
    exec(compile(file.read_text(), file, "exec"), benchmark.__dict__)
    counts = benchmark.class_counts(300, 5)
    tested = dict(zip(benchmark.RHYTHMS, counts.tolist(), strict=True))
    design = power.Design(tested, (benchmark.SEEDS, benchmark.SEEDS), 5)
    predicted = power.foreseen(design, benchmark.assumed(counts)).power(gain, 0.95)
    found, mean, _ = benchmark.found_power(counts, 5, gain, 60)
    assert mean == pytest.approx(gain, abs=0.01)
    assert found == pytest.approx(predicted, abs=0.15)
