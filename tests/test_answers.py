"""The answer in words follows the predictions by rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ecgforge.analysis import answers, comparisons
from ecgforge.analysis.answers import Answer, Gain, Training
from ecgforge.analysis.claims import RR, question
from ecgforge.params import Params
from ecgforge.study import predictions
from ecgforge.study.experiment import KEYS
from test_verdicts import Condition, condition, predicted, settings, study

REAL = Training([993], simulated=False)


def grid(found: pd.DataFrame) -> pd.DataFrame:
    return found.reindex(columns=KEYS).drop_duplicates()


def answered(
    found: pd.DataFrame, generator: str = "diffwave", patients: int = 0, **changed: Any
) -> Answer:
    """The answer on the only dataset, which has so many `patients`."""
    asked = question(grid(found), "resnet1d", generator)
    found = predictions.pooled(found.assign(draw=0))
    conditions = comparisons.by_condition(found)
    evidence = comparisons.Evidence(conditions, {}, dict.fromkeys(asked, patients))
    (one,) = answers.answers(evidence, asked, dict.fromkeys(asked, REAL), settings(**changed))
    return one


def an_answer(gain: Gain | None, augmentation: Gain | None = None) -> Answer:
    table = pd.DataFrame(columns=answers.COLUMNS)
    return Answer("ptbxl", "diffwave", REAL, 0.02, 0.95, gain, augmentation, table)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (
            Gain(0.06, 0.03, 0.09, "helps enough"),
            "yes. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by +.06 (+.03 to +.09); the gain is more than .02.",
        ),
        (
            Gain(0.03, 0.01, 0.05, "helps"),
            "yes. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by +.03 (+.01 to +.05); there is a gain, which may be less than .02.",
        ),
        (
            Gain(-0.01, -0.03, 0.01, "does not help enough"),
            "no. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by -.01 (-.03 to +.01); a gain of .02 or more is ruled out.",
        ),
        (
            Gain(-0.04, -0.06, -0.02, "hurts"),
            "no. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by -.04 (-.06 to -.02); they make the classifier worse.",
        ),
        (
            Gain(0.0, -0.15, 0.15, "undecided"),
            "not known. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by .00 (-.15 to +.15); anything from -.15 to +.15 is possible.",
        ),
        (
            Gain(0.1, float("nan"), float("nan"), "undecided"),
            "not known. With 993 real training records, adding synthetic ones (diffwave) changes "
            "macro-F1 by +.10; fewer than 30 test patients decide nothing.",
        ),
        (None, "not known. Real and synthetic records (diffwave) were not compared."),
    ],
)
def test_each_finding_has_its_sentence(gain: Gain | None, expected: str) -> None:
    assert an_answer(gain).sentence == f"PTB-XL: {expected}"


def test_classical_augmentation_is_part_of_the_sentence() -> None:
    none = Gain(0.0, -0.01, 0.01, "does not help enough")
    gains = an_answer(none, Gain(0.05, 0.022, 0.08, "helps enough")).sentence
    assert gains.endswith("ruled out. Classical augmentation gains +.050 (+.022 to +.080).")
    changes = an_answer(none, Gain(0.0, -0.1, 0.1, "undecided")).sentence
    assert changes.endswith("Classical augmentation changes it by .00 (-.10 to +.10).")


@pytest.mark.parametrize(
    ("gain", "numbers"),
    [
        (Gain(0.0, -0.03, 0.0196, "does not help enough"), ".0000 (-.0300 to +.0196)"),
        (Gain(0.03, 0.0004, 0.05, "helps"), "(+.0004 to"),
        (Gain(-0.03, -0.05, -0.0004, "hurts"), "to -.0004)"),
    ],
)
def test_rounded_numbers_never_contradict_the_words(gain: Gain, numbers: str) -> None:
    assert numbers in an_answer(gain).sentence


@pytest.mark.parametrize(("features", "worse"), [(0.9, True), (0.5, False)])
def test_a_classifier_below_the_baseline_on_rr_intervals_is_named(
    features: float, worse: bool
) -> None:
    rr = condition("TrRTeR", backbone=RR)
    shares = {condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.7, rr: features}
    found = answered(study(shares))
    assert found.over_rr is not None
    assert found.over_rr.estimate == pytest.approx(0.7 - features, abs=0.03)
    end = (
        "With real records alone, the classifier is below logistic regression on RR intervals: -.2"
    )
    assert (end in found.sentence) == worse
    assert found.row()["over_rr"]["finding"] == found.over_rr.finding
    del shares[rr]
    assert answered(study(shares)).over_rr is None


def test_simulated_records_and_rounds_are_named() -> None:
    none = an_answer(Gain(0.0, -0.01, 0.01, "does not help enough"))
    crossed = replace(none, training=Training([744, 745, 746, 745, 745], simulated=True))
    assert crossed.sentence.startswith(
        "PTB-XL (simulated): no. With about 745 real training records in each of 5 rounds, "
    )


@pytest.mark.parametrize(
    ("mixed", "expected"), [(0.9, "yes"), (0.7, "no"), (0.5, "no"), (0.71, "not known")]
)
def test_the_word_follows_the_predictions(mixed: float, expected: str) -> None:
    shares = {
        condition("TrRTeR"): 0.7,
        condition("TrRSTeR", "diffwave"): mixed,
        condition("TrRTeR", augmented=True): 0.9,
    }
    found = answered(study(shares))
    assert found.word == expected
    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(mixed - 0.7, abs=0.03)
    assert found.augmentation is not None
    assert found.augmentation.finding == "helps enough"


def test_the_generator_is_chosen_by_no_result() -> None:
    """Another generator that does better does not answer, and is shown."""
    shares = {
        condition("TrRTeR"): 0.7,
        condition("TrRSTeR", "diffwave"): 0.7,
        condition("TrRSTeR", "time_vqvae"): 0.95,
    }
    found = answered(study(shares))
    assert (found.word, found.generator) == ("no", "diffwave")
    assert list(found.differences["name"]) == [
        "real and synthetic: diffwave",
        "real and synthetic: time_vqvae",
    ]
    assert list(found.differences["role"]) == ["primary", ""]
    assert answered(study(shares), generator="time_vqvae").word == "yes"


def test_the_first_generator_of_the_sweeps_answers() -> None:
    params = Params.read(Path(__file__).parents[1] / "params.yaml")

    def primary(swept: list[str]) -> str:
        targets = params.sweep_targets.model_copy(update={"generators": swept})
        changed = {"sweep_targets": targets, "generators": ["time_diffusion", "time_vqvae"]}
        return params.model_copy(update=changed).primary_generator

    assert primary(["time_vqvae", "time_diffusion"]) == "time_vqvae"
    assert primary([]) == "time_diffusion"


def test_several_trainings_of_the_generator_answer_in_place_of_one() -> None:
    """One training was lucky; what others do differs."""
    several = condition("TrRSTeR", "diffwave", sweep="generator_seeds")
    once: dict[Condition, float] = {
        condition("TrRTeR"): 0.7,
        condition("TrRSTeR", "diffwave"): 0.95,
    }
    trainings = [predicted(several, right, seed) for seed, right in enumerate((0.5, 0.7, 0.9))]
    found = answered(pd.concat([study(once), *trainings], ignore_index=True))
    assert found.word == "not known"
    assert list(found.differences["name"]) == ["real and synthetic: diffwave, 3 trainings"]


def test_the_figure_names_balanced_sampling_if_it_ran() -> None:
    found = {condition("TrRTeR"): 0.5, condition("TrRSTeR", "diffwave"): 0.6}
    balanced = {condition("TrRTeR", sweep="balanced_sampling", point="1"): 0.7}
    without, answer = answered(study(found)), answered(study(found | balanced))
    assert "balanced sampling" not in [*without.differences["name"]]
    row = answer.differences.set_index("name").loc["balanced sampling"]
    assert row["estimate"] == pytest.approx(0.2, abs=0.05)


def test_what_did_not_run_is_not_answered() -> None:
    found = answered(study({condition("TrRTeR"): 0.7, condition("TrSTeR", "diffwave"): 0.2}))
    assert (found.word, found.gain, found.augmentation) == ("not known", None, None)
    assert list(found.differences["name"]) == ["synthetic alone: diffwave"]
    assert list(found.differences["finding"]) == ["hurts"]


def test_a_handful_of_patients_answers_nothing() -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 1.0})
    few = answered(found[found["id"].astype(int) < 29])
    assert few.word == "not known"
    assert few.differences[["low", "high", "band_low", "band_high"]].isna().all(axis=None)
    row = json.loads(json.dumps(few.row(), allow_nan=False))
    assert (row["low"], row["finding"]) == (None, "undecided")


def test_bands_of_all_conditions_are_wider_than_one_interval() -> None:
    shares = {
        condition("TrRTeR"): 0.7,
        condition("TrRSTeR", "diffwave"): 0.72,
        condition("TrRSTeR", "time_vqvae"): 0.66,
        condition("TrSTeR", "diffwave"): 0.6,
    }
    rows = answered(study(shares), resamples=1000).differences
    assert (rows["band_low"] < rows["low"]).all()
    assert (rows["band_high"] > rows["high"]).all()


def test_the_smallest_gain_decides_the_word() -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.8})
    assert answered(found).word == "yes"
    denied = answered(found, smallest_gain=0.3)
    assert denied.word == "no"
    assert "a gain of .3 or more is ruled out" in denied.sentence
    assert denied.row()["smallest_gain"] == 0.3


def test_an_undecided_answer_says_what_would_decide_it() -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.71})
    open_one = answered(found, patients=2400)
    assert open_one.word == "not known"
    assert open_one.to_decide.startswith("To decide it: ")
    crossed = "cross-fitting (folds: {ptbxl: 5}), which tests on 10 times as many patients"
    assert crossed in open_one.to_decide
    assert open_one.row()["to_decide"] == open_one.to_decide
    assert "cross-fitting" not in answered(found).to_decide


def test_a_decided_answer_and_a_handful_of_patients_have_their_own_words() -> None:
    found = study({condition("TrRTeR"): 0.7, condition("TrRSTeR", "diffwave"): 0.9})
    assert answered(found).to_decide == ""
    few = answered(found[found["id"].astype(int) < 29])
    assert few.to_decide == "To decide it: at least 30 test patients."
