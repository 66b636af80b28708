"""How many real records pre-training is worth, by hand on curves that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ecgforge.study import statistics
from ecgforge.study.worth import COLUMNS, worth

RHYTHMS = ["SR", "AFIB"]
RECORDS = 400
FEW, SOME, ALL = ("scratch", "10"), ("scratch", "50"), ("", "")  # shares of the real records from scratch


def arm(sweep: str, point: str, right: float, generator: str = "", seeds: tuple[float, ...] = (0, 0)) -> pd.DataFrame:
    """Predictions of two rhythms, as many records of each, that are right for a share of them: macro-F1 is that share. Each seed is as
    much better than it as `seeds` says."""
    parts = []
    for seed, better in enumerate(seeds):
        truth = np.arange(RECORDS) % 2
        wrong = np.arange(RECORDS) // 2 >= (right + better) * RECORDS / 2
        table = pd.DataFrame(np.eye(2)[truth ^ wrong], columns=[f"p_{rhythm}" for rhythm in RHYTHMS])
        names = [str(number) for number in range(RECORDS)]
        parts.append(table.assign(id=names, patient=names, truth=np.array(RHYTHMS)[truth], seed=seed))
    keys = {"dataset": "ptbxl", "generator": generator, "backbone": "resnet1d", "sweep": sweep, "point": point}
    return pd.concat(parts).assign(**keys, setting="TrSTeR" if generator else "TrRTeR")


def study(scratch: dict[tuple[str, str], float], tuned: dict[str, float], **changes: object) -> pd.DataFrame:
    arms = [arm(*place, right) for place, right in scratch.items()]
    return pd.concat([*arms, *(arm("fine-tuning, all", point, right, "diffwave", **changes) for point, right in tuned.items())])  # type: ignore[arg-type]


def table(found: pd.DataFrame) -> pd.DataFrame:
    return worth(found, "resnet1d", 0.95, 200).set_index("percent")


def test_it_is_read_off_the_curve_from_scratch() -> None:
    found = table(study({FEW: 0.5, SOME: 0.7, ALL: 0.8}, {"10": 0.6, "20": 0.75, "50": 0.45, "100": 0.95}))
    assert found["equal"].to_dict() == pytest.approx({10: 30, 20: 75, 50: 0, 100: np.inf})
    assert found["tuned"].to_dict() == pytest.approx({10: 0.6, 20: 0.75, 50: 0.45, 100: 0.95})
    assert found["scratch"].to_dict() == pytest.approx({10: 0.5, 20: np.nan, 50: 0.7, 100: 0.8}, nan_ok=True)
    assert (found["fewest"] == 10).all()
    assert (found["low"] <= found["equal"]).all()
    assert (found["equal"] <= found["high"]).all()
    assert 20 < found.loc[10, "low"] < 28
    assert 32 < found.loc[10, "high"] < 40


def test_a_curve_that_falls_is_worth_what_first_reached_it() -> None:
    found = table(study({FEW: 0.6, SOME: 0.8, ALL: 0.7}, {"10": 0.7, "20": 0.75, "50": 0.85}))
    assert found["equal"].to_dict() == pytest.approx({10: 30, 20: 40, 50: np.inf})


def test_limits_hold_what_seeds_of_either_curve_differ_by() -> None:
    calm = {FEW: 0.5, SOME: 0.7, ALL: 0.9}
    steady = table(study(calm, {"10": 0.7}))
    restless = table(study(calm, {"10": 0.7}, seeds=(-0.1, 0.1)))
    rough = pd.concat([*(arm(*place, right, seeds=(-0.1, 0.1)) for place, right in calm.items()), arm("fine-tuning, all", "10", 0.7, "g")])
    for other in (restless, table(rough)):
        assert other.loc[10, "equal"] == pytest.approx(50)
        assert other.loc[10, "low"] < steady.loc[10, "low"]
        assert other.loc[10, "high"] > steady.loc[10, "high"]


def test_augmented_records_are_compared_with_augmented_ones() -> None:
    plain = study({FEW: 0.5, SOME: 0.7, ALL: 0.8}, {"10": 0.6})
    rival = study({("scratch, augmented", "10"): 0.6, ("augmentation", "classical"): 0.8}, {})
    both = arm("fine-tuning, all, augmented", "10", 0.7, "diffwave")
    found = worth(pd.concat([plain, rival, both]), "resnet1d", 0.95, 200)
    assert found[["augmented", "equal"]].to_numpy().tolist() == [[False, pytest.approx(30)], [True, pytest.approx(55)]]


@pytest.mark.parametrize("missing", ["scratch", "", "fine-tuning, all"])
def test_without_both_curves_nothing_is_said(missing: str) -> None:
    found = study({FEW: 0.5, SOME: 0.7, ALL: 0.8}, {"10": 0.6})
    left = table(found[found["sweep"] != missing]).reset_index()
    assert len(left) == 0
    assert set(left) == set(COLUMNS)


def test_draws_of_f1_spread_as_its_interval_does() -> None:
    parts = arm("scratch", "10", 0.7, seeds=(-0.1, 0.0, 0.05))
    truth = np.arange(RECORDS) % 2
    probabilities = np.stack([rows[[f"p_{rhythm}" for rhythm in RHYTHMS]].to_numpy() for _, rows in parts.groupby("seed")])
    patients = np.arange(RECORDS)
    bootstrap = {"confidence": 0.95, "resamples": 4000, "seed": 0}
    whole = statistics.interval(truth, probabilities, patients, RHYTHMS, **bootstrap)  # type: ignore[arg-type]
    f1 = whole[(whole["rhythm"] == "macro") & (whole["metric"] == "f1")].iloc[0]
    means, draws = statistics.f1_draws(truth, [probabilities, probabilities], patients, **bootstrap)  # type: ignore[arg-type]
    assert means == pytest.approx([f1["mean"]] * 2)
    low, high = np.quantile(draws[0], [0.025, 0.975])
    assert high - low == pytest.approx(f1["high"] - f1["low"], rel=0.1)
    assert np.corrcoef(draws)[0, 1] > 0.1, "on the same patients"
