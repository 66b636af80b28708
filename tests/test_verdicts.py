"""Verdicts follow the results: the same claim is supported, contradicted or undecided as the
predictions have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecgforge.analysis import verdicts
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


def word(found: pd.DataFrame, beginning: str, **changed: Any) -> str:
    judged = verdicts.judge(found, claims(found, "resnet1d"), settings(**changed))
    (one,) = [verdict for verdict in judged if verdict.claim.text.startswith(beginning)]
    return one.word


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
    [(verdicts.FEWEST - 1, "undecided"), (verdicts.FEWEST, "contradicted")],
)
def test_a_handful_of_patients_decides_nothing(patients: int, expected: str) -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 1.0})
    few = found[found["id"].astype(int) < patients]
    assert word(few, "Additional synthetic records hardly help on a single dataset") == expected


def test_one_generator_that_gains_is_enough_against_it_and_all_must_fail_for_it() -> None:
    several = {
        condition("TrRTeR"): 0.7,
        condition("TrRSTeR", "diffwave"): 0.5,
        condition("TrRSTeR", "time_vqvae"): 0.9,
    }
    assert (
        word(study(several), "Additional synthetic records hardly help on a single dataset")
        == "contradicted"
    )


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
    judged = verdicts.judge(found, claims(found, "resnet1d"), settings(resamples=100))
    assert set(judged[1].comparisons["metric"]) == set(metrics.OVERALL)
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
        {"finding": verdicts.finding(0.001, 0.015, 0.02)},
        {"finding": verdicts.finding(0.001, 0.025, 0.02)},
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
    assert verdicts.finding(low, high, 0.02) == expected


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
        asked = settings(smallest_gain=smallest_gain)
        first = verdicts.judge(found, claims(found, "resnet1d"), asked)[0]
        (row,) = first.comparisons.to_dict("records")
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
    judged = verdicts.judge(found, claims(found, "resnet1d"), settings())
    for words in (
        "ome mixture",
        "With few real records, pre-training",
        "With few real records, a generator",
        "Other classifiers",
    ):
        plain, augmented, both = (verdict for verdict in judged if words in verdict.claim.text)
        assert (plain.word, augmented.word, both.word) == (
            "supported",
            "contradicted",
            "supported",
        ), words
        assert len(plain.comparisons) == len(augmented.comparisons) == len(both.comparisons) == 1


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


def test_many_comparisons_widen_each_interval() -> None:
    def interval(generators: int) -> float:
        mixed: dict[Condition, Any] = {
            condition("TrRSTeR", f"generator_{number}"): 0.72 for number in range(generators)
        }
        found = study({condition("TrRTeR"): 0.7, **mixed})
        asked = settings(confidence=0.9, resamples=4000)
        rows = verdicts.judge(found, claims(found, "resnet1d"), asked)[0].comparisons
        return float((rows["high"] - rows["low"]).mean())

    assert interval(8) > 1.2 * interval(1)


def test_rounds_of_cross_fitting_judge_a_claim_together() -> None:
    """Each round has too few patients to decide; all of them decide."""
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 1.0})
    crossed = found.assign(fold=1 + found["id"].astype(int) % 10)
    beginning = "Additional synthetic records hardly help on a single dataset"
    assert word(crossed, beginning) == "contradicted"
    assert word(crossed[crossed["fold"] == 1], beginning) == "undecided"
