"""Verdicts follow the results: the same claim is supported, contradicted or undecided as the
predictions have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecgforge.analysis import comparisons, verdicts
from ecgforge.analysis.claims import PAPER_GENERATORS, claims
from ecgforge.params import Study
from ecgforge.study import metrics

RHYTHMS = ["SR", "AFIB", "ST"]
RECORDS = 240
KEYS = ["dataset", "generator", "backbone", "sweep", "point", "setting", "augmented"]
Condition = tuple[str, str, str, str, str, str, bool]  # a value for each of these


def predicted(condition: Condition, right: float, seed: int) -> pd.DataFrame:
    """Predictions that are right for a share of the records, the same ones for each condition with
    this share.
    """
    truth = np.arange(RECORDS) % 3
    luck = np.random.default_rng(0).permutation(RECORDS) < right * RECORDS
    found = np.where(luck, truth, (truth + 1) % 3)
    table = pd.DataFrame(
        np.eye(3)[found] * 0.8 + 0.1, columns=[f"p_{rhythm}" for rhythm in RHYTHMS]
    )
    keys = dict(zip(KEYS, condition, strict=True))
    ids = [str(number) for number in range(RECORDS)]
    facts = {"id": ids, "patient": ids, "truth": np.array(RHYTHMS)[truth]}
    return table.assign(**keys, **facts, seed=seed, fold=0)


def settings(**changed: Any) -> Study:
    return Study(**{"seeds": [0], "synthetic_share": 0.5, "resamples": 400, **changed})


def study(shares: dict[Condition, float]) -> pd.DataFrame:
    return pd.concat(
        [
            predicted(condition, right, seed)
            for condition, right in shares.items()
            for seed in (0, 1)
        ],
        ignore_index=True,
    )


def judge(
    found: pd.DataFrame, validation: dict[Condition, float] | None = None, **changed: Any
) -> list[verdicts.Verdict]:
    """Judge the claims; `validation` has macro-F1 on validation records."""
    runs = [
        {**dict(zip(KEYS, one, strict=True)), "fold": fold, "seed": seed, "validation_f1": value}
        for one, value in (validation or {}).items()
        for fold in found["fold"].unique()
        for seed in (0, 1)
    ]
    table = pd.DataFrame(runs, columns=[*KEYS, "fold", "seed", "validation_f1"])
    evidence = comparisons.Evidence(
        comparisons.by_condition(found), comparisons.validation(table), {}
    )
    return verdicts.judge(evidence, claims(found, "resnet1d"), settings(**changed))


def one(judged: list[verdicts.Verdict], beginning: str) -> verdicts.Verdict:
    (found,) = [verdict for verdict in judged if verdict.claim.text.startswith(beginning)]
    return found


def word(
    found: pd.DataFrame,
    beginning: str,
    validation: dict[Condition, float] | None = None,
    **changed: Any,
) -> str:
    return one(judge(found, validation, **changed), beginning).word


def condition(
    setting: str,
    generator: str = "",
    dataset: str = "ptbxl",
    sweep: str = "",
    point: str = "",
    backbone: str = "resnet1d",
    augmented: bool = False,
) -> Condition:
    return (dataset, generator, backbone, sweep, point, setting, augmented)


@pytest.mark.parametrize(
    ("mixed", "expected"),
    [(0.9, "contradicted"), (0.7, "supported"), (0.5, "supported"), (0.73, "undecided")],
)
def test_whether_one_dataset_gains(mixed: float, expected: str) -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): mixed})
    assert word(found, "Additional synthetic records hardly help on a single dataset") == expected


@pytest.mark.parametrize(
    ("patients", "expected"),
    [(comparisons.FEWEST - 1, "undecided"), (comparisons.FEWEST, "contradicted")],
)
def test_a_handful_of_patients_decides_nothing(patients: int, expected: str) -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 1.0})
    few = found[found["id"].astype(int) < patients]
    assert word(few, "Additional synthetic records hardly help on a single dataset") == expected


def test_validation_records_choose_the_primary_comparison() -> None:
    """Test records would choose the best generator, and so find a gain by chance."""
    good, poor = condition("TrRSTeR", "time_vqvae"), condition("TrRSTeR", "diffwave")
    found = study({condition("TrRTeR"): 0.7, poor: 0.5, good: 0.9})
    beginning = "Additional synthetic records hardly help on a single dataset"
    real = {condition("TrRTeR"): 0.7}
    assert word(found, beginning, real | {poor: 0.6, good: 0.8}) == "contradicted"
    assert word(found, beginning, real | {poor: 0.8, good: 0.6}) == "supported"
    assert word(found, beginning, real | {poor: np.nan, good: 0.6}) == "contradicted", (
        "a pair without validation records is not chosen"
    )
    chosen = one(judge(found, real | {poor: 0.6, good: 0.8}), beginning)
    assert chosen.primary["second"].tolist() == ["TrRSTeR time_vqvae resnet1d"]
    assert chosen.primary["chosen"].tolist() == ["2 of 2"]
    assert len(chosen.points) == 2


def chosen(
    found: pd.DataFrame, values: dict[Condition, dict[tuple[int, int], float]]
) -> dict[str, Any]:
    """The first claim's primary comparison; `values` are macro-F1 on validation records, by round
    and seed.
    """
    runs = [
        {**dict(zip(KEYS, of, strict=True)), "fold": fold, "seed": seed, "validation_f1": value}
        for of, by_unit in values.items()
        for (fold, seed), value in by_unit.items()
    ]
    validation = comparisons.validation(pd.DataFrame(runs))
    evidence = comparisons.Evidence(comparisons.by_condition(found), validation)
    (row,) = verdicts.judge(evidence, claims(found, "resnet1d"), settings())[0].primary.to_dict(
        "records"
    )
    return row


def wrong_in(found: pd.DataFrame, rows: pd.Series) -> None:
    columns = [f"p_{rhythm}" for rhythm in RHYTHMS]
    found.loc[rows, columns] = np.roll(found.loc[rows, columns].to_numpy(), 1, axis=1)


def test_neither_a_round_nor_its_test_records_take_part_in_its_choice() -> None:
    """Round 5 validates on the test records of round 1."""
    usual, other = condition("TrRSTeR", "diffwave"), condition("TrRSTeR", "time_vqvae")
    found = study({condition("TrRTeR"): 0.6, usual: 1.0, other: 1.0})
    found["fold"] = 1 + found["id"].astype(int) % 5
    wrong_in(found, (found["generator"] == "diffwave") & (found["fold"] == 1))
    wrong_in(found, (found["generator"] == "time_vqvae") & (found["fold"] != 1))
    rounds = {(fold, 0): 0.5 for fold in range(1, 6)}
    lucky = {(fold, 0): 5.0 if fold in (1, 5) else 0.1 for fold in range(1, 6)}
    row = chosen(found, {condition("TrRTeR"): rounds, usual: lucky, other: rounds})
    assert row["estimate"] == pytest.approx(0.4, abs=0.01)
    assert (row["second"], row["chosen"]) == ("TrRSTeR diffwave resnet1d", "4 of 5")


def test_a_seed_does_not_take_part_in_its_choice() -> None:
    first, second = condition("TrRSTeR", "diffwave"), condition("TrRSTeR", "time_vqvae")
    found = study({condition("TrRTeR"): 0.6, first: 1.0, second: 1.0})
    wrong_in(found, (found["generator"] == "diffwave") & (found["seed"] == 0))
    wrong_in(found, (found["generator"] == "time_vqvae") & (found["seed"] == 1))
    values = {
        condition("TrRTeR"): {(0, 0): 0.6, (0, 1): 0.6},
        first: {(0, 0): 0.9, (0, 1): 0.1},
        second: {(0, 0): 0.2, (0, 1): 0.8},
    }
    row = chosen(found, values)
    assert row["estimate"] == pytest.approx(0.4, abs=0.01)
    assert row["chosen"] == "1 of 2"


@pytest.mark.parametrize(
    ("mixed", "expected"), [(0.9, "supported"), (0.7, "contradicted"), (0.72, "undecided")]
)
def test_merged_data_is_judged_by_all_metrics(mixed: float, expected: str) -> None:
    found = study(
        {
            condition("TrRTeR", dataset="merged"): 0.7,
            condition("TrRSTeR", "diffwave", "merged"): mixed,
        }
    )
    assert (
        word(found, "Additional synthetic records help on merged datasets by all metrics")
        == expected
    )
    assert set(judge(found, resamples=100)[1].primary["metric"]) == set(metrics.OVERALL)
    assert word(found, "Additional synthetic records hardly help") == "not tested", (
        "merged is not one dataset"
    )


@pytest.mark.parametrize(
    ("vqvae", "expected"), [(0.9, "supported"), (0.5, "contradicted"), (0.7, "undecided")]
)
def test_the_best_of_three_is_better_than_both_others(vqvae: float, expected: str) -> None:
    found = study(
        {
            condition("TrSTeR", "diffwave"): 0.7,
            condition("TrSTeR", "time_diffusion"): 0.4,
            condition("TrSTeR", "time_vqvae"): vqvae,
        }
    )
    assert word(found, "Time-VQVAE generates the best records") == expected


@pytest.mark.parametrize(
    ("best", "beginning"),
    [
        ("time_vqvae", "Time-VQVAE generates the best records"),
        ("beat_diffusion", "Beat-Diffusion generates better records"),
    ],
)
def test_the_best_of_some_is_not_the_best_of_three(best: str, beginning: str) -> None:
    found = {condition("TrSTeR", "diffwave"): 0.5, condition("TrSTeR", best): 0.9}
    assert word(study(found), beginning) == "not tested"
    others = {condition("TrSTeR", name): 0.5 for name in PAPER_GENERATORS if name != best}
    assert word(study(found | others), beginning) == "supported"


@pytest.mark.parametrize("resamples", [400, 1000])
def test_the_best_generator_is_judged_over_all_generator_seeds(resamples: int) -> None:
    """One training was lucky; three of each that differ by as much decide nothing."""
    beginning = "Time-VQVAE generates the best records"
    once = study(
        {
            condition("TrSTeR", name): 0.9 if name == "time_vqvae" else 0.6
            for name in PAPER_GENERATORS
        }
    )
    assert word(once, beginning, resamples=resamples) == "supported"
    shares = {
        "time_vqvae": (0.62, 0.75, 0.9),
        "diffwave": (0.3, 0.45, 0.6),
        "time_diffusion": (0.3, 0.45, 0.6),
    }
    several = pd.concat(
        predicted(condition("TrSTeR", name, sweep="generator_seeds"), right, seed)
        for name in shares
        for seed, right in enumerate(shares[name])
    )
    assert (
        word(pd.concat([once, several], ignore_index=True), beginning, resamples=resamples)
        == "undecided"
    )
    for some in (several[several["generator"] != "diffwave"], several[several["seed"] == 2]):
        assert (
            word(pd.concat([once, some], ignore_index=True), beginning, resamples=resamples)
            == "supported"
        ), "not all, and one training of each"


def test_mixed_training_data_is_judged_by_all_generator_seeds() -> None:
    real = {condition("TrRTeR"): 0.7, condition("TrRTeR", augmented=True): 0.7}
    once = {
        condition("TrRSTeR", "diffwave"): 0.9,
        condition("TrRSTeR", "diffwave", augmented=True): 0.9,
    }
    several = {condition("TrRSTeR", "diffwave", sweep="generator_seeds"): 0.6}
    found = study(real | once | several)
    assert (
        word(found, "Additional synthetic records hardly help on a single dataset") == "supported"
    )
    assert word(found, "Synthetic records help more than classical augmentation") == "contradicted"
    assert word(found, "Synthetic records still help in addition") == "supported", (
        "augmented, the generator was trained once"
    )
    changed = {condition("TrRSTeR", "diffwave", sweep="generator_seeds", augmented=True): 0.6}
    assert (
        word(study(real | once | several | changed), "Synthetic records still help in addition")
        == "contradicted"
    )


@pytest.mark.parametrize(
    ("tuned", "expected"), [(0.5, "supported"), (0.7, "undecided"), (0.9, "contradicted")]
)
def test_fine_tuning_is_judged_at_its_largest_share_by_all_real_records(
    tuned: float, expected: str
) -> None:
    points = {
        condition("TrSTeR", "diffwave", sweep="fine-tuning, full", point=point): right
        for point, right in (("5", 0.2), ("80", tuned))
    }
    found = study({condition("TrRTeR"): 0.7, **points})
    assert word(found, "A classifier that is pre-trained on synthetic") == expected
    few = found[found["point"] != "80"]
    assert word(few, "A classifier that is pre-trained on synthetic") == "not tested", (
        "few real records are no match for all"
    )


def test_the_baseline_is_classical_augmentation() -> None:
    shares = {
        condition("TrRTeR"): 0.5,
        condition("TrRTeR", augmented=True): 0.8,
        condition("TrRSTeR", "diffwave"): 0.7,
    }
    assert (
        word(study(shares), "Synthetic records help more than classical augmentation")
        == "contradicted"
    )
    assert word(study(shares), "Synthetic records still help in addition") == "not tested"
    both = {condition("TrRSTeR", "diffwave", augmented=True): 0.95}
    assert word(study(shares | both), "Synthetic records still help in addition") == "supported"


def test_a_gain_that_is_sure_and_too_small_counts_as_none() -> None:
    small, large = (
        {"finding": comparisons.finding(0.001, 0.015, 0.02)},
        {"finding": comparisons.finding(0.001, 0.025, 0.02)},
    )
    row = {"dataset": "merged", "second": "TrRSTeR"}
    for rule in (verdicts.any_gain, verdicts.some_condition_gains_everywhere):
        assert rule(pd.DataFrame([row | small])) == (False, True)
        assert rule(pd.DataFrame([row | large])) == (True, False)
    assert verdicts.no_gain(pd.DataFrame([small])) == (True, False)
    assert verdicts.no_gain(pd.DataFrame([large])) == (False, False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.021, 0.05, "helps enough"),
        (0.02, 0.05, "helps"),
        (0.001, 0.02, "helps"),
        (0.001, 0.019, "does not help enough"),
        (0.0, 0.05, "undecided"),
        (-0.01, 0.02, "undecided"),
        (-0.01, 0.019, "does not help enough"),
        (-0.01, 0.0, "does not help enough"),
        (-0.02, -0.001, "hurts"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_an_interval_has_one_finding(low: float, high: float, expected: str) -> None:
    assert comparisons.finding(low, high, 0.02) == expected


def test_a_gain_is_better_than_none_by_however_little() -> None:
    rows = pd.DataFrame([{"finding": "does not help enough", "low": 0.001, "high": 0.015}])
    assert verdicts.always_better(rows) == (True, False)
    assert verdicts.always_worse(rows) == (False, True)


def test_one_metric_without_a_gain_denies_a_gain_by_all_metrics() -> None:
    both = [{"dataset": "merged", "second": "TrRSTeR", "finding": "helps enough"}]
    both += [both[0] | {"finding": "hurts"}]
    open_question = [both[0], both[0] | {"finding": "undecided"}]
    rule = verdicts.some_condition_gains_everywhere
    assert rule(pd.DataFrame(both)) == (False, True)
    assert rule(pd.DataFrame(open_question)) == (False, False)


def test_the_smallest_gain_is_a_parameter_of_findings_and_words() -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.8})
    beginning = "Additional synthetic records hardly help on a single dataset"

    def finding(smallest_gain: float) -> tuple[str, str]:
        (row,) = judge(found, smallest_gain=smallest_gain)[0].primary.to_dict("records")
        return row["finding"], word(found, beginning, smallest_gain=smallest_gain)

    assert finding(0.02) == ("helps enough", "contradicted")
    assert finding(0.1) == ("helps", "undecided")
    assert finding(0.3) == ("does not help enough", "supported")


def test_in_every_sweep_a_baseline_is_classical_augmentation() -> None:
    shares = {
        condition("TrRTeR"): 0.5,
        condition("TrRTeR", augmented=True): 0.8,
        condition("TrRSTeR", "diffwave", sweep="mixture, balance", point="50"): 0.7,
        condition(
            "TrRSTeR", "diffwave", sweep="mixture, balance", point="50", augmented=True
        ): 0.99,
        condition("TrRTeR", sweep="scratch", point="5"): 0.4,
        condition("TrRTeR", sweep="scratch", point="5", augmented=True): 0.8,
        condition("TrSTeR", "diffwave", sweep="fine-tuning, full", point="5"): 0.7,
        condition("TrSTeR", "diffwave", sweep="fine-tuning, full", point="5", augmented=True): 0.99,
        condition("TrRTeR", "diffwave", sweep="size", point="5"): 0.4,
        condition("TrRTeR", "diffwave", sweep="size", point="5", augmented=True): 0.8,
        condition("TrRSTeR", "diffwave", sweep="size", point="5"): 0.7,
        condition("TrRSTeR", "diffwave", sweep="size", point="5", augmented=True): 0.99,
        condition("TrRTeR", sweep="backbones", backbone="transformer"): 0.4,
        condition("TrRTeR", sweep="backbones", backbone="transformer", augmented=True): 0.8,
        condition("TrRSTeR", "diffwave", sweep="backbones", backbone="transformer"): 0.7,
        condition(
            "TrRSTeR", "diffwave", sweep="backbones", backbone="transformer", augmented=True
        ): 0.99,
    }
    found = study(shares)
    judged = judge(found)
    for words in (
        "ome mixture",
        "With few real records, pre-training",
        "With few real records, a generator",
        "Other classifiers",
    ):
        plain, augmented, both = (
            verdict
            for verdict in judged
            if words in verdict.claim.text and "self-supervised" not in verdict.claim.text
        )
        assert (plain.word, augmented.word, both.word) == (
            "supported",
            "contradicted",
            "supported",
        ), words
        assert len(plain.primary) == len(augmented.primary) == len(both.primary) == 1


def test_few_real_records_are_compared_with_as_few() -> None:
    few = {
        condition("TrRTeR"): 0.9,
        condition("TrRTeR", sweep="scratch", point="5"): 0.4,
        condition("TrSTeR", "diffwave", sweep="fine-tuning, full", point="5"): 0.7,
        condition("TrRTeR", "diffwave", sweep="size", point="5"): 0.6,
        condition("TrRSTeR", "diffwave", sweep="size", point="5"): 0.6,
    }
    assert (
        word(study(few), "With few real records, pre-training on synthetic ones helps")
        == "supported"
    )
    assert (
        word(study(few), "With few real records, a generator trained on them helps.")
        == "contradicted"
    ), "those few, and not as many others"


@pytest.mark.parametrize(
    ("synthetic", "expected"), [(0.9, "supported"), (0.7, "contradicted"), (0.5, "contradicted")]
)
def test_pre_training_on_synthetic_records_is_compared_with_that_without_labels(
    synthetic: float, expected: str
) -> None:
    """At the same share, with full fine-tuning alone."""
    found = study(
        {
            condition("TrRTeR", sweep="scratch", point="5"): 0.3,
            condition("TrRTeR", sweep="self_supervised", point="5"): 0.7,
            condition("TrRTeR", sweep="self_supervised", point="20"): 0.4,
            condition("TrSTeR", "diffwave", sweep="fine-tuning, full", point="5"): synthetic,
            condition("TrSTeR", "diffwave", sweep="fine-tuning, linear_probe", point="5"): 0.95,
        }
    )
    text = "With few real records, pre-training on synthetic records helps more than self"
    assert word(found, text) == expected


@pytest.mark.parametrize(("mixed", "expected"), [(0.9, "supported"), (0.7, "contradicted")])
def test_synthetic_records_are_compared_with_balanced_sampling(mixed: float, expected: str) -> None:
    """With equally frequent rhythms, and not with another power or with the plain setting."""
    found = study(
        {
            condition("TrRTeR"): 0.5,
            condition("TrRTeR", sweep="balanced_sampling", point="1"): 0.7,
            condition("TrRTeR", sweep="balanced_sampling", point="0"): 0.3,
            condition("TrRSTeR", "diffwave"): mixed,
        }
    )
    assert word(found, "Synthetic records help more than balanced sampling") == expected


@pytest.mark.slow
def test_other_datasets_are_compared_with_the_same_without_synthetic_records() -> None:
    there = {
        condition("TrRTeR", dataset="chapman"): 0.9,
        condition("TrRTeR", "diffwave", "chapman", "cross_dataset", "ptbxl, real"): 0.5,
        condition(
            "TrRTeR", "diffwave", "chapman", "cross_dataset", "ptbxl, real", augmented=True
        ): 0.9,
        condition(
            "TrRSTeR", "diffwave", "chapman", "cross_dataset", "ptbxl, synthetic (training dataset)"
        ): 0.8,
        condition(
            "TrRSTeR",
            "diffwave",
            "chapman",
            "cross_dataset",
            "ptbxl, synthetic (training dataset)",
            augmented=True,
        ): 0.99,
        condition(
            "TrRSTeR", "diffwave", "chapman", "cross_dataset", "ptbxl, synthetic (test dataset)"
        ): 0.4,
        condition(
            "TrRSTeR",
            "diffwave",
            "chapman",
            "cross_dataset",
            "ptbxl, synthetic (test dataset)",
            augmented=True,
        ): 0.6,
    }
    found = study(there)
    assert (
        word(found, "On another dataset, synthetic records of the training dataset help.")
        == "supported"
    )
    assert (
        word(found, "On another dataset, synthetic records of the training dataset help more")
        == "contradicted"
    )
    assert (
        word(found, "On another dataset, synthetic records of the training dataset still")
        == "supported"
    )
    assert (
        word(found, "On another dataset, synthetic records of that dataset help.") == "contradicted"
    )
    assert (
        word(found, "On another dataset, synthetic records of that dataset help more")
        == "contradicted"
    )
    assert (
        word(found, "On another dataset, synthetic records of that dataset still") == "contradicted"
    )


def widths(datasets: int, generators: int) -> tuple[float, float]:
    """Return the mean width of the primary intervals, and by how much the bands of the points are
    wider than the limits of one comparison.
    """
    shares: dict[Condition, float] = {}
    for name in ("ptbxl", "chapman", "cpsc", "georgia")[:datasets]:
        shares |= {condition("TrRTeR", dataset=name): 0.7}
        shares |= {
            condition("TrRSTeR", f"generator_{number}", name): 0.5 + number % 2 / 3
            for number in range(generators)
        }
    verdict = judge(study(shares), confidence=0.9, resamples=2000)[0]
    primary, points = verdict.primary, verdict.points
    wider = (points["band_high"] - points["band_low"]) / (points["high"] - points["low"])
    return float((primary["high"] - primary["low"]).mean()), float(wider.mean())


def test_points_of_a_sweep_widen_the_bands_and_not_the_primary_comparison() -> None:
    alone, _ = widths(1, 1)
    among_eight, wider = widths(1, 8)
    assert among_eight == pytest.approx(alone, rel=0.1)
    assert wider > 1.1


def test_datasets_of_a_claim_widen_its_primary_comparisons() -> None:
    assert widths(4, 1)[0] > 1.2 * widths(1, 1)[0]


@pytest.mark.parametrize(
    ("alone", "expected"), [(0.75, "supported"), (0.7, "supported"), (0.4, "contradicted")]
)
def test_replacing_real_records_must_not_be_worse_by_the_smallest_gain(
    alone: float, expected: str
) -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrSTeR", "diffwave"): alone})
    assert word(found, "Synthetic records can replace all") == expected
    slightly = study({condition("TrRTeR"): 0.7, condition("TrSTeR", "diffwave"): 0.69})
    assert word(slightly, "Synthetic records can replace all", smallest_gain=0.1) == "supported"
    assert word(slightly, "Synthetic records can replace all", smallest_gain=0.01) == "undecided"


def test_diversity_is_judged_at_equal_numbers_of_records() -> None:
    points = {"alone": 0.6, "merged, equal size": 0.6, "merged, all records": 0.9}
    shares = {
        condition("TrRTeR", sweep="equal_size", point=point): right
        for point, right in points.items()
    }
    beginning = "As many records of all sources"
    assert word(study(shares), beginning) == "contradicted"
    better = condition("TrRTeR", sweep="equal_size", point="merged, equal size")
    assert word(study(shares | {better: 0.8}), beginning) == "supported"


def test_half_of_the_real_records_is_replaced_at_one_point() -> None:
    points = {
        condition("TrRSTeR", "diffwave", sweep="mixture, replace", point=point): right
        for point, right in (("10", 0.7), ("50", 0.4))
    }
    found = study({condition("TrRTeR"): 0.7, **points})
    assert word(found, "Synthetic records can replace half") == "contradicted"


def test_recall_of_rare_rhythms_does_not_see_the_frequent_ones() -> None:
    """The best generator by all rhythms misses the rare one."""
    names = [condition("TrSTeR", name) for name in PAPER_GENERATORS]
    found = study(dict.fromkeys(names, 1.0))
    number = found["id"].astype(int)
    truth = np.where(number < 20, "ST", np.where(number < 130, "SR", "AFIB"))
    own = found["generator"] == "time_vqvae"
    guess = np.where(~own & (truth == "ST"), "AFIB", truth)
    guess = np.where(own & (truth != "ST"), "AFIB", guess)
    found["truth"] = truth
    for rhythm in RHYTHMS:
        found[f"p_{rhythm}"] = np.where(guess == rhythm, 0.9, 0.05)
    beginning = "Time-VQVAE is the best of the three by recall"
    few = found[number >= 20]
    judged = judge(found)
    assert one(judged, "Time-VQVAE generates the best records").word != "supported"
    assert one(judged, beginning).primary["estimate"].tolist() == [1.0]
    assert word(few, beginning) == "not tested", "no rhythm is rare"


def test_the_strongest_rival_by_validation_records_is_the_primary_comparison() -> None:
    shares = {"time_vqvae": 0.8, "diffwave": 0.9, "time_diffusion": 0.3}
    names = {name: condition("TrSTeR", name) for name in shares}
    found = study({names[name]: right for name, right in shares.items()})
    beginning = "Time-VQVAE generates the best records"
    validation = {names[name]: right for name, right in shares.items()}
    assert word(found, beginning, validation) == "contradicted"
    weak = validation | {names["diffwave"]: 0.2}
    assert one(judge(found, weak), beginning).primary["first"].tolist() == [
        "TrSTeR time_diffusion resnet1d"
    ]


def test_pre_training_is_compared_at_the_same_point() -> None:
    points = {
        condition("TrSTeR", name, sweep="fine-tuning, full", point=point): right
        for point in ("5", "100")
        for name, right in zip(PAPER_GENERATORS, (0.3, 0.4, 0.9), strict=True)
    }
    beginning = "With few real records, Time-VQVAE is the best"
    verdict = one(judge(study(points)), beginning)
    assert verdict.word == "supported"
    assert len(verdict.points) == 2, "the point with all real records is left out"
    some = {of: right for of, right in points.items() if of[1] != "diffwave"}
    assert word(study(some), beginning) == "not tested"


def test_p_values_are_corrected_for_all_primary_comparisons() -> None:
    shares = {
        condition("TrRTeR"): 0.6,
        condition("TrRTeR", augmented=True): 0.6,
        condition("TrRSTeR", "diffwave"): 0.7,
    }
    judged = judge(study(shares))
    rows = pd.concat(verdict.primary for verdict in judged)
    assert len(rows) > 1
    smallest = rows["p"].min()
    assert rows["p_holm"].min() == pytest.approx(min(1, len(rows) * smallest))
    assert (rows["p_holm"] >= rows["p"]).all()


def test_an_undecided_claim_says_what_would_decide_it() -> None:
    mixed = [
        predicted(condition("TrRSTeR", "diffwave"), right, seed)
        for seed, right in enumerate((0.66, 0.76))
    ]
    found = pd.concat([study({condition("TrRTeR"): 0.7}), *mixed], ignore_index=True)
    beginning = "Additional synthetic records hardly help on a single dataset"
    undecided = one(judge(found), beginning)
    assert undecided.word == "undecided"
    assert "test patients" in undecided.to_decide["ptbxl"]
    decided = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.9})
    assert not one(judge(decided), beginning).to_decide


def test_rounds_of_cross_fitting_judge_a_claim_together() -> None:
    """Each round has too few patients to decide; all of them decide."""
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 1.0})
    crossed = found.assign(fold=1 + found["id"].astype(int) % 10)
    beginning = "Additional synthetic records hardly help on a single dataset"
    assert word(crossed, beginning) == "contradicted"
    assert word(crossed[crossed["fold"] == 1], beginning) == "undecided"
