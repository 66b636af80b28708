"""Label efficiency of pre-training, computed by hand on known curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgforge.analysis import statistics
from ecgforge.analysis.comparisons import FEWEST
from ecgforge.analysis.label_efficiency import COLUMNS, _equal, label_efficiency

RHYTHMS = ["SR", "AFIB"]
# shares of the real records from scratch
FEW, SOME, ALL = ("scratch", "10"), ("scratch", "50"), ("", "")
CURVE = {FEW: 0.5, SOME: 0.7, ALL: 0.8}
STEADY = (0.0, 0.0)


def predicted(
    sweep: str,
    point: str,
    right: float,
    generator: str = "",
    better: tuple[float, ...] = STEADY,
    records: int = 400,
    augmented: bool = False,
) -> pd.DataFrame:
    """Predictions of two rhythms, as many records of each, that are right for a share of them:
    macro-F1 is that share. Each seed is as much `better` than it.
    """
    parts = []
    for seed, more in enumerate(better):
        truth = np.arange(records) % 2
        wrong = np.arange(records) // 2 >= (right + more) * records / 2
        table = pd.DataFrame(
            np.eye(2)[truth ^ wrong], columns=[f"p_{rhythm}" for rhythm in RHYTHMS]
        )
        names = [str(number) for number in range(records)]
        parts.append(
            table.assign(id=names, patient=names, truth=np.array(RHYTHMS)[truth], seed=seed)
        )
    keys = {
        "dataset": "ptbxl",
        "generator": generator,
        "backbone": "resnet1d",
        "sweep": sweep,
        "point": point,
    }
    setting = "TrSTeR" if generator else "TrRTeR"
    return pd.concat(parts).assign(**keys, setting=setting, augmented=augmented, fold=0)


def study(
    scratch: dict[tuple[str, str], float], tuned: dict[str, float], **changes: Any
) -> pd.DataFrame:
    """Curves from scratch, all points alike, and of a fine-tuning that may be changed."""
    parts = [
        predicted(*place, right, records=changes.get("records", 400))
        for place, right in scratch.items()
    ]
    return pd.concat(
        [
            *parts,
            *(
                predicted("fine-tuning, full", point, right, "diffwave", **changes)
                for point, right in tuned.items()
            ),
        ]
    )


def table(found: pd.DataFrame) -> pd.DataFrame:
    return label_efficiency(found, "resnet1d", 0.95, 200).set_index("percent")


def test_label_efficiency_is_read_off_the_curve_from_scratch() -> None:
    found = table(study(CURVE, {"5": 0.45, "10": 0.6, "20": 0.75, "100": 0.95}))
    assert found["equal"].to_dict() == pytest.approx({5: 0, 10: 30, 20: 75, 100: np.inf})
    assert list(found.index) == [5, 10, 20, 100], "as numbers, and not as words"
    assert found["tuned"].to_dict() == pytest.approx({5: 0.45, 10: 0.6, 20: 0.75, 100: 0.95})
    assert found["scratch"].to_dict() == pytest.approx(
        {5: np.nan, 10: 0.5, 20: np.nan, 100: 0.8}, nan_ok=True
    )
    assert (found["fewest"] == 10).all()
    assert (found["low"] <= found["equal"]).all()
    assert (found["equal"] <= found["high"]).all()
    assert 20 < found.loc[10, "low"] < 28
    assert 32 < found.loc[10, "high"] < 40


def test_points_of_the_curve_are_in_the_order_of_numbers() -> None:
    found = table(study({("scratch", "5"): 0.4, **CURVE}, {"10": 0.45}))
    assert found.loc[10, "equal"] == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("curve", "level", "equal"),
    [
        ((0.5, 0.5, 0.7), 0.6, 75),  # a plateau is no slope
        ((0.6, 0.5, 0.8), 0.7, 50 + 50 * 2 / 3),  # nor is a dip
        ((0.6, 0.8, 0.7), 0.7, 30),  # what comes after does not matter
        ((0.5, 0.7, 0.7), 0.7, 50),
        ((0.5, 0.6, 0.7), 0.5, 10),
        ((0.5, 0.6, 0.7), 0.49, 0),
        ((0.5, 0.7, 0.6), 0.71, np.inf),
    ],
)
def test_where_a_curve_first_reaches_a_level(
    curve: tuple[float, ...], level: float, equal: float
) -> None:
    assert _equal(np.array([10.0, 50.0, 100.0]), np.array(curve), level) == pytest.approx(equal)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
def test_the_curve_reaches_the_level_first_at_the_stated_percent(
    curve: list[float], level: float
) -> None:
    percents = np.geomspace(1, 100, len(curve))
    equal = _equal(percents, np.array(curve), level)
    before = percents < equal
    if 0 < equal < np.inf:
        assert np.interp(equal, percents, curve) == pytest.approx(level, abs=1e-9)
    assert (np.array(curve)[before] < level).all()


def test_limits_hold_what_seeds_of_either_curve_differ_by() -> None:
    calm, restless = {FEW: 0.5, SOME: 0.7, ALL: 0.9}, (-0.03, 0.03)
    steady = table(study(calm, {"10": 0.7}))
    tuned = table(study(calm, {"10": 0.7}, better=restless))
    rough = pd.concat(
        [
            *(predicted(*place, right, better=restless) for place, right in calm.items()),
            predicted("fine-tuning, full", "10", 0.7, "g"),
        ]
    )
    for other in (tuned, table(rough)):
        assert other.loc[10, "equal"] == pytest.approx(50)
        assert other.loc[10, "low"] < steady.loc[10, "low"]
        assert other.loc[10, "high"] > steady.loc[10, "high"]


def test_of_few_patients_there_are_no_limits() -> None:
    few, enough = (
        table(study(CURVE, {"10": 0.6}, records=records)).loc[10]
        for records in (FEWEST - 10, FEWEST)
    )
    assert few["equal"] == pytest.approx(30)
    assert few[["low", "high"]].isna().all()
    assert enough[["low", "high"]].notna().all()


def test_augmented_records_are_compared_with_augmented_ones() -> None:
    plain = study(CURVE, {"10": 0.75})
    augmented_scratch = [
        predicted(*place, right, augmented=True) for place, right in ((FEW, 0.6), (ALL, 0.9))
    ]
    both = predicted("fine-tuning, full", "10", 0.7, "diffwave", augmented=True)
    found = label_efficiency(pd.concat([plain, *augmented_scratch, both]), "resnet1d", 0.95, 200)
    assert found[["augmented", "equal"]].to_numpy().tolist() == [
        [False, pytest.approx(75)],
        [True, pytest.approx(40)],
    ]


def test_every_dataset_and_generator_has_its_own_curves() -> None:
    here = study(CURVE, {"10": 0.6})
    there = study({FEW: 0.2, SOME: 0.6, ALL: 0.7}, {"10": 0.6}).assign(dataset="chapman")
    other = predicted("fine-tuning, full", "10", 0.75, "time_vqvae")
    backbone = study({FEW: 0.9, SOME: 0.9, ALL: 0.9}, {"10": 0.9}).assign(backbone="transformer")
    found = label_efficiency(pd.concat([backbone, here, there, other]), "resnet1d", 0.95, 50)
    equal = found.set_index(["dataset", "generator"])["equal"].to_dict()
    assert equal == pytest.approx(
        {("ptbxl", "diffwave"): 30, ("ptbxl", "time_vqvae"): 75, ("chapman", "diffwave"): 50}
    )


@pytest.mark.parametrize("missing", ["scratch", "", "fine-tuning, full"])
def test_without_both_curves_there_is_no_label_efficiency(missing: str) -> None:
    found = study(CURVE, {"10": 0.6})
    left = label_efficiency(found[found["sweep"] != missing], "resnet1d", 0.95, 200)
    assert len(left) == 0
    assert list(left) == COLUMNS


def classifiers(
    chance: float, seeds: int, rng: np.random.Generator, truth: np.ndarray
) -> np.ndarray:
    """Probabilities of classifiers that are right by chance and, where they err, all say the first
    of three rhythms.
    """
    right = rng.random((seeds, len(truth))) < chance
    return np.eye(3)[np.where(right, truth, 0)]


def test_draws_of_f1_have_its_mean_and_spread() -> None:
    rng, truth, patients = np.random.default_rng(0), np.arange(300) % 3, np.arange(300)
    one, several = classifiers(0.7, 1, rng, truth), classifiers(0.7, 4, rng, truth)
    bootstrap = {"resamples": 4000, "seed": 0}
    means, draws = statistics.f1_draws(truth, [one, one, several], patients, **bootstrap)  # type: ignore[arg-type]
    for place, probabilities in ((0, one), (2, several)):
        table = statistics.interval(
            truth, probabilities, patients, "abc", confidence=0.95, **bootstrap
        )  # type: ignore[arg-type]
        f1 = table[(table["rhythm"] == "macro") & (table["metric"] == "f1")].iloc[0]
        low, high = np.quantile(draws[place], [0.025, 0.975])
        assert means[place] == pytest.approx(f1["mean"])
        assert draws[place].mean() == pytest.approx(f1["mean"], abs=0.003)
        assert high - low == pytest.approx(f1["high"] - f1["low"], rel=0.25)
    assert (draws[0] == draws[1]).all(), "the same on the same patients"
    assert np.corrcoef(draws[0], draws[2])[0, 1] > 0.1, "patients are the same for others, too"


def test_two_seeds_that_differ_leave_much_open() -> None:
    truth, patients = np.arange(400) % 2, np.arange(400)
    parts = predicted("scratch", "10", 0.6, better=(-0.02, 0.02))
    two = np.stack(
        [
            rows[[f"p_{rhythm}" for rhythm in RHYTHMS]].to_numpy()
            for _, rows in parts.groupby("seed")
        ]
    )
    _, draws = statistics.f1_draws(truth, [two], patients, resamples=2000, seed=0)
    low, high = np.quantile(draws[0], [0.025, 0.975])
    # Of the t law with one degree of freedom, 12.7 standard errors of .02 each way; a normal law's
    # would be two.
    assert high - low > 2 * 8 * 0.02
    assert draws.min() >= 0
    assert draws.max() <= 1


def test_a_classifier_that_never_errs_has_no_spread() -> None:
    truth = np.arange(60) % 3
    _, draws = statistics.f1_draws(
        truth, [np.eye(3)[truth][None].repeat(2, axis=0)], np.arange(60), resamples=50, seed=0
    )
    assert (draws == 1).all()
