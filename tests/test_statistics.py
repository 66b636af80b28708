"""Metrics of a classifier and what may be concluded from them."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t
from sklearn.metrics import average_precision_score

from ecgforge.analysis import statistics
from ecgforge.study import metrics

RHYTHMS = ("SR", "SB", "AFIB")
BOOTSTRAP = {"confidence": 0.95, "resamples": 400, "seed": 0}


def one_hot(predicted: list[int] | np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes)[predicted]


def value_of(table: pd.DataFrame, rhythm: str, metric: str, column: str = "value") -> float:
    return float(table[(table["rhythm"] == rhythm) & (table["metric"] == metric)][column].item())


def skilled(
    truth: np.ndarray, accuracy: np.ndarray | float, rng: np.random.Generator
) -> np.ndarray:
    """Probabilities, `[records, rhythms]`, of a classifier that is right with the given chance on
    each record.
    """
    wrong = (truth + rng.integers(1, 3, len(truth))) % 3
    predicted = np.where(rng.random(len(truth)) < accuracy, truth, wrong)
    return (one_hot(predicted) + 0.2 * rng.random((len(truth), 3))) / 2


def test_metrics_of_a_small_case_by_hand() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 2])
    table = metrics.metrics(truth, one_hot([0, 0, 0, 1, 1, 0, 2]), RHYTHMS)
    assert value_of(table, "macro", "accuracy") == pytest.approx(5 / 7)
    assert value_of(table, "macro", "balanced_accuracy") == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert value_of(table, "macro", "precision") == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    # The mean of the rhythms' F1, not the F1 of mean precision and mean recall, and not weighted by
    # support.
    assert value_of(table, "macro", "f1") == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert value_of(table, "SB", "auroc") == pytest.approx((1 / 2 + 4 / 5) / 2)
    assert [value_of(table, rhythm, "support") for rhythm in RHYTHMS] == [4, 2, 1]


def test_auroc_is_of_the_scores_and_not_of_the_decisions() -> None:
    # Every record is called SR, yet the order of the probabilities is perfect.
    truth = np.array([0, 0, 1, 1])
    table = metrics.metrics(
        truth, np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), ("SR", "SB")
    )
    assert value_of(table, "macro", "auroc") == 1
    assert value_of(table, "SB", "recall") == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_average_precision_is_that_of_scikit_learn_with_ties_and_weights(
    seed: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = np.append(rng.integers(0, 3, 30), [0, 1, 2])
    probabilities = rng.random((33, 3)).round(1 if ties else 6)
    weights = np.append(rng.integers(0, 4, (4, 30)), np.ones((4, 3), int), axis=1)
    found = metrics.weighted_metrics(truth, probabilities, weights.astype(float))
    expected = [
        [
            average_precision_score(truth == k, probabilities[:, k], sample_weight=row)
            for k in range(3)
        ]
        for row in weights
    ]
    keys = metrics.metric_keys(RHYTHMS)
    columns = keys.index[(keys["metric"] == "average_precision") & (keys["rhythm"] != "macro")]
    np.testing.assert_allclose(found[:, columns], expected)
    macro = keys.index[(keys["metric"] == "average_precision") & (keys["rhythm"] == "macro")]
    np.testing.assert_allclose(found[:, macro[0]], np.mean(expected, axis=1))


def test_the_log_score_is_a_mean_over_records_and_bounded_below() -> None:
    truth = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [1.0, 0.0]])
    table = metrics.metrics(truth, probabilities, ("SR", "SB"))
    expected = (np.log(0.5) + np.log(0.25) + np.log(1) + np.log(1e-6)) / 4
    assert value_of(table, "macro", "log_score") == pytest.approx(expected)
    assert set(table[table["metric"] == "log_score"]["rhythm"]) == {"macro"}


def test_limits_of_the_log_score_are_cut_at_0_only_above() -> None:
    truth = np.array([0, 1] * 20)
    sure, unsure = np.full((40, 2), 0.5), np.full((40, 2), 0.5)
    sure[np.arange(40), truth], sure[np.arange(40), 1 - truth] = 1, 0
    sure[0], unsure[::3] = [0.9, 0.1], [0.02, 0.98]
    limits = [
        table[table["metric"] == "log_score"][["low", "high"]].to_numpy()[0]
        for table in (
            statistics.interval(truth, one[None], np.arange(40), ("SR", "SB"), **BOOTSTRAP)
            for one in (sure, unsure)
        )
    ]
    assert limits[0][0] < 0 == limits[0][1]
    assert limits[1][0] < -1 < limits[1][1] < 0


def test_rounds_compare_their_own_records_and_share_in_all_metrics() -> None:
    rng = np.random.default_rng(0)
    truth, rounds = np.arange(60) % 3, np.repeat([1, 2], [24, 36])
    scores = rng.dirichlet(np.ones(3), (2, 60))
    scores[:, rounds == 2] *= 0.1  # another scale
    table = statistics.interval(
        truth, scores, np.arange(60), RHYTHMS, rounds=rounds, **BOOTSTRAP
    ).set_index(["rhythm", "metric"])["mean"]
    parts = [
        metrics.metrics(truth[part], one[part], RHYTHMS)
        for one in scores
        for part in (rounds == 1, rounds == 2)
    ]
    for rhythm in RHYTHMS:  # 8 of 20 records of each rhythm are in the first round
        of_rounds = [value_of(part, rhythm, "average_precision") for part in parts]
        expected = np.average(of_rounds, weights=[8, 12, 8, 12])
        assert table[rhythm, "average_precision"] == pytest.approx(expected)
    macro = np.mean([table[rhythm, "average_precision"] for rhythm in RHYTHMS])
    assert table["macro", "average_precision"] == pytest.approx(macro)
    logs = [value_of(metrics.metrics(truth, one, RHYTHMS), "macro", "log_score") for one in scores]
    assert table["macro", "log_score"] == pytest.approx(np.mean(logs))


def test_a_rhythm_that_no_record_has_is_left_out_but_its_false_alarms_count() -> None:
    truth = np.array([0, 0, 1, 1])
    table = metrics.metrics(truth, one_hot([0, 2, 1, 1]), RHYTHMS)
    assert table[table["rhythm"] == "AFIB"][["metric", "value"]].to_numpy().tolist() == [
        ["support", 0]
    ]
    assert value_of(table, "macro", "accuracy") == 0.75
    assert value_of(table, "macro", "recall") == 0.75
    assert value_of(table, "macro", "f1") == pytest.approx((2 / 3 + 1) / 2)


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="4 records, 3 rhythms"):
        metrics.metrics(np.zeros(4, int), np.zeros((4, 2)), RHYTHMS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.booleans())
def test_the_bootstrap_judges_as_metrics_does(seed: int, records: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, records)
    probabilities = rng.random((records, 3)).round(1 if ties else 6)
    expected = (
        metrics.metrics(truth, probabilities, RHYTHMS)
        .set_index(["rhythm", "metric"])["value"]
        .drop("support", level=1)
    )
    found = statistics.interval(
        truth,
        probabilities[None],
        np.arange(records),
        RHYTHMS,
        confidence=0.95,
        resamples=5,
        seed=0,
    )
    pd.testing.assert_series_equal(
        found.set_index(["rhythm", "metric"])["mean"].sort_index(),
        expected.sort_index(),
        check_names=False,
        check_dtype=False,
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weights_are_repeated_records(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, probabilities = rng.integers(0, 3, 20), rng.random((20, 3)).round(1)
    weights = rng.integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weights)
    weighted = metrics.weighted_metrics(truth, probabilities, weights[None].astype(float))
    plain = metrics.weighted_metrics(
        truth[repeated], probabilities[repeated], np.ones((1, len(repeated)))
    )
    np.testing.assert_allclose(weighted, plain)


def test_interval_repeats_and_holds_its_mean() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 120)
    runs = np.stack([skilled(truth, 0.8, rng) for _ in range(3)])
    table = statistics.interval(truth, runs, np.arange(120), RHYTHMS, **BOOTSTRAP)
    pd.testing.assert_frame_equal(
        table, statistics.interval(truth, runs, np.arange(120), RHYTHMS, **BOOTSTRAP)
    )
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    assert set(table["seeds"]) == {3}
    accuracies = [
        value_of(metrics.metrics(truth, run, RHYTHMS), "macro", "accuracy") for run in runs
    ]
    assert value_of(table, "macro", "accuracy", "mean") == pytest.approx(np.mean(accuracies))


def test_interval_of_one_seed_is_the_binomial_one() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    run = skilled(truth, 0.8, rng)
    table = statistics.interval(
        truth, run[None], np.arange(400), RHYTHMS, confidence=0.95, resamples=2000, seed=0
    )
    share = value_of(table, "macro", "accuracy", "mean")
    width = value_of(table, "macro", "accuracy", "high") - value_of(
        table, "macro", "accuracy", "low"
    )
    assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 400), rel=0.1)


def test_records_of_a_patient_are_resampled_together() -> None:
    # Four records of each patient that stand or fall together hold a quarter of the evidence.
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(60), 4)
    truth = np.repeat(rng.integers(0, 3, 60), 4)
    run = np.repeat(skilled(truth[::4], 0.75, rng), 4, axis=0)[None]
    tables = [
        statistics.interval(truth, run, who, RHYTHMS, **BOOTSTRAP)
        for who in (patients, np.arange(240))
    ]
    by_patient, by_record = (
        value_of(t, "macro", "accuracy", "high") - value_of(t, "macro", "accuracy", "low")
        for t in tables
    )
    assert by_patient == pytest.approx(2 * by_record, rel=0.2)


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 2000)
    steady = np.stack([skilled(truth, 0.8, rng) for _ in range(4)])
    moody = np.stack([skilled(truth, accuracy, rng) for accuracy in (0.6, 0.75, 0.85, 1.0)])
    tables = [
        statistics.interval(truth, runs, np.arange(2000), RHYTHMS, **BOOTSTRAP)
        for runs in (steady, moody)
    ]
    widths = [
        value_of(t, "macro", "accuracy", "high") - value_of(t, "macro", "accuracy", "low")
        for t in tables
    ]
    assert widths[1] > 3 * widths[0]


def coverage(seeds: int, spread: float, studies: int = 100) -> float:
    """How often the interval holds the accuracy of the law, over test records, patients' difficulty
    and training seeds.
    """
    held = 0
    for study in range(studies):
        rng = np.random.default_rng([study, seeds])
        truth, difficulty = rng.integers(0, 3, 100), rng.normal(0, 0.1, 100)
        runs = np.stack(
            [skilled(truth, 0.75 + difficulty + rng.normal(0, spread), rng) for _ in range(seeds)]
        )
        table = statistics.interval(
            truth, runs, np.arange(100), RHYTHMS, confidence=0.95, resamples=200, seed=study
        )
        held += (
            value_of(table, "macro", "accuracy", "low")
            <= 0.75
            <= value_of(table, "macro", "accuracy", "high")
        )
    return held / studies


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    assert coverage(seeds=1, spread=0.0) == pytest.approx(0.95, abs=0.05)
    # Without the seeds' share of the doubt this would be about 0.8.
    assert coverage(seeds=5, spread=0.05) == pytest.approx(0.95, abs=0.05)


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 300)
    first = skilled(truth, 0.7, rng)
    better = rng.random(300) < 0.1
    second = np.where(better[:, None], one_hot(truth), first)
    paired = statistics.difference(
        truth, first[None], second[None], np.arange(300), RHYTHMS, **BOOTSTRAP
    )
    gain = value_of(paired, "macro", "accuracy", "estimate")
    apart = [
        statistics.interval(truth, run[None], np.arange(300), RHYTHMS, **BOOTSTRAP)
        for run in (first, second)
    ]
    unpaired = np.hypot(
        *(
            value_of(t, "macro", "accuracy", "high") - value_of(t, "macro", "accuracy", "low")
            for t in apart
        )
    )
    assert gain == pytest.approx(
        np.mean(second.argmax(1) == truth) - np.mean(first.argmax(1) == truth)
    )
    assert (
        value_of(paired, "macro", "accuracy", "high") - value_of(paired, "macro", "accuracy", "low")
        < 0.6 * unpaired
    )
    assert value_of(paired, "macro", "accuracy", "low") > 0
    p = value_of(paired, "macro", "accuracy", "p")
    touching = statistics.difference(
        truth,
        first[None],
        second[None],
        np.arange(300),
        RHYTHMS,
        **{**BOOTSTRAP, "confidence": 1 - p},
    )
    assert value_of(touching, "macro", "accuracy", "low") == pytest.approx(0, abs=1e-9)


def test_holm_corrects_the_smallest_p_most() -> None:
    found = statistics.holm(np.array([0.04, np.nan, 0.01, 0.03, 0.9]))
    np.testing.assert_allclose(found, [0.09, np.nan, 0.04, 0.09, 0.9])


@pytest.mark.parametrize("hits", [(30, 60), (30, 60, 75), (20, 40, 60, 80)])
def test_limits_over_few_seeds_are_those_of_a_t_distribution_for_the_mean(
    hits: tuple[int, ...],
) -> None:
    """One patient has all records, so that only seeds vary: the limits are those of a mean of k
    numbers, with k - 1 degrees of freedom.
    """
    truth = np.zeros(100, int)
    second = np.stack([one_hot(np.where(np.arange(100) < hit, 0, 1), 2) for hit in hits])
    first = one_hot(np.ones(100, int), 2)[None]
    options = BOOTSTRAP | {"resamples": 20_000}
    found = statistics.difference(
        truth, first, second, np.zeros(100, int), ("SR", "SB"), **options, auroc=False
    )
    row = found[(found["rhythm"] == "macro") & (found["metric"] == "accuracy")].iloc[0]
    values = np.array(hits) / 100
    half = student_t.ppf(0.975, len(hits) - 1) * values.std(ddof=1) / np.sqrt(len(hits))
    assert row["estimate"] == pytest.approx(values.mean())
    low, high = np.clip(values.mean() + np.array([-half, half]), -1, 1)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.05 * half)


@pytest.mark.parametrize("comparisons", [24, 216])
def test_an_interval_that_holds_with_many_others_is_as_wide_as_it_says(comparisons: int) -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 400)
    first, second = (skilled(truth, accuracy, rng) for accuracy in (0.6, 0.7))
    together = {"confidence": 1 - 0.05 / comparisons, "resamples": 300, "seed": 0}
    table = statistics.difference(
        truth, first[None], second[None], np.arange(400), RHYTHMS, **together
    )
    right = (second.argmax(1) == truth).astype(float) - (first.argmax(1) == truth)
    expected = 2 * NormalDist().inv_cdf(1 - 0.025 / comparisons) * right.std() / np.sqrt(400)
    width = value_of(table, "macro", "accuracy", "high") - value_of(
        table, "macro", "accuracy", "low"
    )
    # 300 resamples alone reach some 2.9 standard deviations to each side, and 3.1 and 3.7 are
    # needed.
    assert width == pytest.approx(expected, rel=0.05)
    assert table[["low", "high"]].mean(axis=1).to_numpy() == pytest.approx(
        table["estimate"].to_numpy()
    )


def test_a_setting_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 100)
    run = skilled(truth, 0.7, rng)[None]
    table = statistics.difference(truth, run, run, np.arange(100), RHYTHMS, **BOOTSTRAP)
    assert (table[["estimate", "low", "high"]] == 0).all(axis=None)
    assert (table["p"] == 1).all()


def test_differences_are_second_less_first_and_rarely_significant_by_chance() -> None:
    found = []
    for study in range(60):
        rng = np.random.default_rng(study)
        truth = rng.integers(0, 3, 80)
        first, second = (np.stack([skilled(truth, 0.7, rng) for _ in range(3)]) for _ in range(2))
        there = statistics.difference(
            truth, first, second, np.arange(80), RHYTHMS, confidence=0.95, resamples=200, seed=study
        )
        found.append(value_of(there, "macro", "f1", "p") < 0.05)
    assert np.mean(found) < 0.1
    assert value_of(there, "macro", "f1", "estimate") == pytest.approx(
        np.mean([value_of(metrics.metrics(truth, run, RHYTHMS), "macro", "f1") for run in second])
        - np.mean([value_of(metrics.metrics(truth, run, RHYTHMS), "macro", "f1") for run in first])
    )


def test_a_difference_without_auroc_is_the_same_but_for_it() -> None:
    rng = np.random.default_rng(0)
    truth, patients = np.arange(60) % 3, np.arange(60)
    first, second = (
        np.stack([skilled(truth, chance, rng) for _ in range(2)]) for chance in (0.5, 0.8)
    )
    whole = statistics.difference(truth, first, second, patients, RHYTHMS, **BOOTSTRAP)
    short = statistics.difference(truth, first, second, patients, RHYTHMS, auroc=False, **BOOTSTRAP)
    assert set(whole["metric"]) - set(short["metric"]) == {"auroc", "average_precision"}
    others = whole[whole["metric"].isin(short["metric"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, others)


def of_hits(hits: np.ndarray, records: int = 100) -> np.ndarray:
    """Probabilities `[seeds, rounds * records, 2]` of classifiers that are right on the first of
    each round's records, all of class 0; hits are `[seeds, rounds]`.
    """
    right = np.arange(records) < hits[:, :, None]
    return np.stack([right, ~right], axis=3).reshape(len(hits), -1, 2).astype(float)


def accuracy_of(table: pd.DataFrame) -> pd.Series:
    return table[(table["rhythm"] == "macro") & (table["metric"] == "accuracy")].iloc[0]


def crossed(
    rng: np.random.Generator, records: int, seeds: int, rounds: int, accuracy: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probabilities and rounds of a study in which all records and seeds are independent."""
    truth = rng.integers(0, 3, records)
    runs = np.stack([skilled(truth, accuracy, rng) for _ in range(seeds)])
    return truth, runs, np.arange(records) % rounds


def test_one_round_is_no_cross_fitting() -> None:
    rng = np.random.default_rng(0)
    truth, first, _ = crossed(rng, 90, 3, 1)
    second, patients = crossed(rng, 90, 2, 1)[1], np.arange(90) // 2
    rounds = np.full(90, 4)
    for with_rounds, without in [
        (
            statistics.interval(truth, first, patients, RHYTHMS, rounds=rounds, **BOOTSTRAP),
            statistics.interval(truth, first, patients, RHYTHMS, **BOOTSTRAP),
        ),
        (
            statistics.difference(
                truth, first, second, patients, RHYTHMS, rounds=rounds, **BOOTSTRAP
            ),
            statistics.difference(truth, first, second, patients, RHYTHMS, **BOOTSTRAP),
        ),
    ]:
        pd.testing.assert_frame_equal(with_rounds, without, check_exact=True)


def test_cross_fitted_metrics_are_those_of_all_records_together() -> None:
    rng = np.random.default_rng(1)
    truth, runs, rounds = crossed(rng, 60, 2, 3)
    truth[rounds == 1] %= 2  # a round without AFIB
    found = statistics.interval(truth, runs, np.arange(60), RHYTHMS, rounds=rounds, **BOOTSTRAP)
    both = [metrics.metrics(truth, run, RHYTHMS).set_index(["rhythm", "metric"]) for run in runs]
    expected = sum(table["value"] for table in both) / 2
    found = found[~found["metric"].isin(metrics.BY_RANK)].set_index(["rhythm", "metric"])["mean"]
    np.testing.assert_allclose(found, expected[found.index])


def test_cross_fitted_auroc_compares_records_of_the_same_round() -> None:
    # In each round the order is perfect; the scores of the second round are lower.
    truth, rounds = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 1, 1])
    second = np.array([0.5, 0.9, 0.1, 0.2, 0.05, 0.12])
    runs = np.stack([1 - second, second], axis=1)[None]
    found = statistics.interval(truth, runs, np.arange(6), ("SR", "SB"), rounds=rounds, **BOOTSTRAP)
    # Of 1 + 4 pairs, the two with the record of 0.05 are in the wrong order.
    assert value_of(found, "SB", "auroc", "mean") == pytest.approx(3 / 5)


@pytest.mark.parametrize("paired", [False, True])
def test_seeds_of_different_rounds_are_unrelated(paired: bool) -> None:
    """One patient has all records of a round, so that only seeds vary. The limits are those of a
    mean over rounds of means over seeds, with rounds * (seeds - 1) degrees of freedom. With seeds
    that go up in one round and down in the next, nothing cancels.
    """
    hits = np.array([[30, 60, 20, 80], [60, 90 if paired else 30, 50, 95 if paired else 65]])
    rounds = np.repeat(np.arange(4), 100)
    found = statistics.difference(
        np.zeros(400, int),
        of_hits(np.full((2, 4), 10)),
        of_hits(hits),
        rounds,
        ("SR", "SB"),
        auroc=False,
        rounds=rounds,
        **BOOTSTRAP | {"resamples": 20_000},
    )
    row = accuracy_of(found)
    error = np.sqrt(np.sum(np.square((hits[0] - hits[1]) / 100) / 4)) / 4
    assert row["estimate"] == pytest.approx(hits.mean() / 100 - 0.1)
    half = student_t.ppf(0.975, 4) * error
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.04)
    expected = 2 * student_t.sf(row["estimate"] / error, 4)
    assert row["p"] == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("seeds", [2, 3])
def test_what_seeds_do_to_single_records_counts_once(seeds: int) -> None:
    widths, errors = [], []
    for study in range(10):
        rng = np.random.default_rng(study)
        truth, first, rounds = crossed(rng, 900, seeds, 5)
        second = np.stack([skilled(truth, 0.7, rng) for _ in range(seeds)])
        found = statistics.difference(
            truth, first, second, np.arange(900), RHYTHMS, rounds=rounds, auroc=False, **BOOTSTRAP
        )
        widths.append(accuracy_of(found)["high"] - accuracy_of(found)["low"])
        errors.append(np.sqrt(2 * 0.7 * 0.3 / seeds / 900))
    # Resampling patients and seeds at once would give 1.7 times the width.
    assert np.mean(widths) == pytest.approx(2 * 2 * np.mean(errors), rel=0.2)


def test_a_metric_of_rounds_that_share_training_records_has_a_wider_interval() -> None:
    truth, runs, rounds = crossed(np.random.default_rng(2), 900, 1, 5)
    row = accuracy_of(
        statistics.interval(
            truth, runs, np.arange(900), RHYTHMS, rounds=rounds, **BOOTSTRAP | {"resamples": 2000}
        )
    )
    share = row["mean"]
    error = np.sqrt(1.5 * share * (1 - share) / 900)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * error, rel=0.07)


def test_what_two_settings_share_cancels_even_if_one_has_a_single_seed() -> None:
    truth, runs, rounds = crossed(np.random.default_rng(3), 300, 1, 5)
    found = statistics.difference(
        truth, runs, np.repeat(runs, 2, axis=0), np.arange(300), RHYTHMS, rounds=rounds, **BOOTSTRAP
    )
    assert (found[["low", "high"]].abs() < 1e-12).all(axis=None)
    assert (found["p"] == 1).all()


def test_a_patient_in_two_rounds_is_refused() -> None:
    truth, runs, rounds = crossed(np.random.default_rng(4), 30, 1, 3)
    with pytest.raises(ValueError, match="several rounds"):
        statistics.interval(truth, runs, np.arange(30) // 2, RHYTHMS, rounds=rounds, **BOOTSTRAP)


@pytest.mark.parametrize("metric", ["f1", "auroc"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_family_has_the_limits_of_each_difference(metric: str, rounds: int) -> None:
    rng = np.random.default_rng(5)
    truth, first, numbers = crossed(rng, 120, 2, rounds)
    second = np.stack([skilled(truth, 0.8, rng) for _ in range(2)])
    options = BOOTSTRAP | {"rounds": numbers}
    one = statistics.difference(truth, first, second, np.arange(120), RHYTHMS, **options)
    family = statistics.simultaneous(
        truth, [first, second], [(0, 1), (1, 0)], np.arange(120), RHYTHMS, metric=metric, **options
    )
    assert family[["first", "second"]].to_numpy().tolist() == [[0, 1], [1, 0]]
    for name in ("estimate", "low", "high"):
        assert family[name][0] == pytest.approx(value_of(one, "macro", metric, name))
    assert family["estimate"][1] == -family["estimate"][0]
    # A difference and its reverse are one comparison.
    assert family["band_high"][0] - family["band_low"][0] == pytest.approx(
        family["high"][0] - family["low"][0], rel=0.05
    )
    assert (family["p_adjusted"] >= family["p"]).all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_limits_of_one_comparison_do_not_depend_on_its_family(rounds: int) -> None:
    """A condition with one seed, and a place further back, would change them."""
    rng = np.random.default_rng(5)
    truth, first, numbers = crossed(rng, 120, 2, rounds)
    others = [np.stack([skilled(truth, 0.8, rng) for _ in range(seeds)]) for seeds in (1, 2, 2)]
    options = BOOTSTRAP | {"rounds": numbers}
    family = statistics.simultaneous(
        truth, [first, *others], [(0, 1), (0, 2), (0, 3)], np.arange(120), RHYTHMS, **options
    )
    for place, other in enumerate(others):
        one = statistics.difference(truth, first, other, np.arange(120), RHYTHMS, **options)
        for name in ("estimate", "low", "high", "p"):
            assert family[name][place] == value_of(one, "macro", "f1", name)
    assert (family["band_low"] <= family["low"]).all()
    assert (family["band_high"] >= family["high"]).all()
    assert (family["p_adjusted"] >= family["p"]).all()


def test_limits_of_a_difference_end_at_the_largest_one() -> None:
    """Two seeds that disagree would have limits beyond 1; the log score has them."""
    truth = np.arange(120) % 3
    right, wrong = np.eye(3)[truth] * 0.9 + 0.05, np.eye(3)[(truth + 1) % 3] * 0.9 + 0.05
    unlike, same = np.stack([right, wrong]), np.stack([wrong, wrong])
    table = statistics.difference(truth, unlike, same, np.arange(120), RHYTHMS, **BOOTSTRAP)
    assert value_of(table, "macro", "f1", "low") == -1
    assert value_of(table, "macro", "log_score", "low") < -1
    family = statistics.simultaneous(
        truth, [unlike, same], [(0, 1)], np.arange(120), RHYTHMS, **BOOTSTRAP
    )
    assert (family["low"][0], family["band_low"][0]) == (-1, -1)


def widening(arms: int, conditions: list[np.ndarray], pairs: list[tuple[int, int]]) -> float:
    """How much wider the bands of a family are than the limits of one comparison."""
    truth, rounds = np.zeros(conditions[0].shape[1], int), np.repeat(np.arange(4), 100)
    family = statistics.simultaneous(
        truth,
        conditions,
        pairs,
        rounds,
        ("SR", "SB"),
        metric="accuracy",
        rounds=rounds,
        **BOOTSTRAP | {"resamples": 4000},
    )
    assert len(family) == arms
    return float(
        ((family["band_high"] - family["band_low"]) / (family["high"] - family["low"])).mean()
    )


def test_bands_pay_for_independent_comparisons_with_the_quantiles_of_few_degrees() -> None:
    """Only seeds vary. Each pair has conditions of its own, so that comparisons are unrelated, and
    all have 8 degrees of freedom.
    """
    up, down = np.array([[20, 20, 20, 20], [40, 40, 40, 40]]), np.array([[60] * 4, [80] * 4])
    conditions = [of_hits(up if k % 2 else down) for k in range(40)]
    found = widening(20, conditions, [(k, k + 1) for k in range(0, 40, 2)])
    level = 1 - 0.95 ** (1 / 20)
    assert found == pytest.approx(
        student_t.ppf(1 - level / 2, 8) / student_t.ppf(0.975, 8), rel=0.05
    )


def test_bands_pay_nothing_for_the_same_comparison() -> None:
    conditions = [of_hits(np.array([[20] * 4, [40] * 4])), of_hits(np.array([[60] * 4, [80] * 4]))]
    assert widening(20, conditions, [(0, 1)] * 20) == pytest.approx(1, rel=0.03)


def test_adjusted_p_values_step_down() -> None:
    """After the plain difference of 60 points, the other one is alone in the rest of the family.
    One step would charge it for both.
    """
    rounds = np.repeat(np.arange(4), 100)
    weak = np.array([[10, 12, 8, 10], [30, 22, 20, 24]])
    hits = [np.array([[8] * 4, [12] * 4]), weak, np.array([[48] * 4, [52] * 4])]
    hits += [np.array([[1] * 4, [3] * 4])]
    family = statistics.simultaneous(
        np.zeros(400, int),
        [of_hits(one) for one in hits],
        [(0, 1), (3, 2)],
        rounds,
        ("SR", "SB"),
        metric="accuracy",
        rounds=rounds,
        **BOOTSTRAP | {"resamples": 8000},
    )
    assert family["p"][1] < 1e-3 < family["p"][0]
    assert family["p_adjusted"][0] == pytest.approx(family["p"][0], rel=0.2)
    assert family["p_adjusted"][1] >= 1 / 8001


def test_a_family_needs_a_pair() -> None:
    truth, runs, _ = crossed(np.random.default_rng(6), 30, 1, 1)
    with pytest.raises(ValueError, match="no pairs"):
        statistics.simultaneous(truth, [runs], [], np.arange(30), RHYTHMS, **BOOTSTRAP)
