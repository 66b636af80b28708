"""The rank correlation of quality scores with the gain of a classifier."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest

from ecgforge import rounds
from ecgforge.analysis.score_utility import SETTINGS, score_utility
from ecgforge.study.experiment import KEYS

GENERATORS = ("a", "b", "c")
PLACES = ("ptbxl", "chapman_1of3", "chapman_2of3", "chapman_3of3")

Values = dict[tuple[str, str], float]  # by dataset or round, and generator


def numbered(places: Iterable[str], generators: Iterable[str] = GENERATORS) -> Values:
    """Return a rising number for each set, the same in no two."""
    keys = [(place, generator) for place in places for generator in generators]
    return {key: 0.01 * number for number, key in enumerate(keys)}


def results(gains: Values, real: float = 0.5, **more: object) -> pd.DataFrame:
    """Return results in which each set has its gain over TrRTeR in both settings; two seeds that
    differ by 0.02.
    """
    tested = [(place, "", "TrRTeR", real) for place in dict.fromkeys(place for place, _ in gains)]
    tested += [
        (place, generator, setting, real + gain)
        for (place, generator), gain in gains.items()
        for setting in SETTINGS
    ]
    rows = [
        {
            **dict.fromkeys(KEYS, ""),
            **{"augmented": False, "draw": 0, "backbone": "resnet1d", "seed": seed},
            **{"dataset": rounds.base(place), "fold": getattr(rounds.parse(place), "number", 0)},
            **{"generator": generator, "setting": setting, "rhythm": "macro", "metric": "f1"},
            "value": value + 0.02 * seed,
            **more,
        }
        for place, generator, setting, value in tested
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def quality(values: Values, metric: str = "frechet", baseline: float = 0.0) -> pd.DataFrame:
    rows = [
        {"dataset": place, "generator": generator, "rhythm": rhythm, "metric": metric}
        | {"value": value if rhythm == "all" else 7.0, "baseline": baseline}
        for (place, generator), value in values.items()
        for rhythm in ("all", "SR")
    ]
    return pd.DataFrame(rows)


NONE = pd.DataFrame(columns=["dataset", "generator", "variation"])


def found(
    gains: pd.DataFrame, scores: pd.DataFrame, variations: pd.DataFrame = NONE, metric: str = ""
) -> pd.Series:
    table = score_utility(gains, scores, variations, "resnet1d", 0.95)
    chosen = table["metric"] == (metric or scores["metric"].iloc[0])
    return table[chosen & (table["setting"] == "TrSTeR")].iloc[0]


def opposite(values: Values) -> Values:
    return {key: -value for key, value in values.items()}


@pytest.mark.parametrize(
    ("metric", "lower_is_better"),
    [
        ("frechet", True),
        ("rr_cv_w1", True),
        ("c2st_accuracy", True),
        ("copied_share", True),
        ("recall", False),
        ("mmd_p", False),
        ("authenticity", False),
    ],
)
def test_a_planted_relation_is_found_in_the_orientation_of_the_score(
    metric: str, lower_is_better: bool
) -> None:
    gains = numbered(PLACES)
    worse = quality(gains if lower_is_better else opposite(gains), metric)
    better = quality(opposite(gains) if lower_is_better else gains, metric)
    assert found(results(gains), better)["rho"] == pytest.approx(1)
    assert found(results(gains), worse)["rho"] == pytest.approx(-1)


def test_a_two_sided_score_is_best_at_its_baseline() -> None:
    gains = numbered(PLACES)
    off = {
        key: 0.8 + (-1) ** place * (0.5 - gain) for place, (key, gain) in enumerate(gains.items())
    }
    assert found(results(gains), quality(off, "density", baseline=0.8))["rho"] == pytest.approx(1)


def test_the_gain_is_that_over_real_records_of_the_same_dataset_or_round() -> None:
    gains = numbered(PLACES[:2])
    one = results({key: gain for key, gain in gains.items() if key[0] == PLACES[0]}, real=0.9)
    two = results({key: gain for key, gain in gains.items() if key[0] == PLACES[1]}, real=0.1)
    row = found(pd.concat([one, two]), quality(opposite(gains)))
    assert row["rho"] == pytest.approx(1)


def test_rounds_stand_for_the_datasets_own_split() -> None:
    gains = numbered((*PLACES, "chapman"))
    row = found(results(gains), quality(opposite(gains)))
    assert (row["sets"], row["clusters"]) == (len(PLACES) * len(GENERATORS), len(PLACES))


def test_other_classifiers_sweeps_and_augmentation_do_not_count() -> None:
    gains = numbered(PLACES)
    plain, against = results(gains), opposite(gains)
    others = [
        results(against, backbone="transformer"),
        results(against, sweep="mixture", point="50"),
        results(against, augmented=True),
        results(against, draw=1),
    ]
    row = found(pd.concat([plain, *others]), quality(opposite(gains)))
    assert row["rho"] == pytest.approx(1)
    assert row["sets"] == len(gains)


def test_ablations_are_sets_of_their_own() -> None:
    gains = numbered(PLACES)
    varied = results({("ptbxl", "a"): 0.9}, sweep="ablation", point="guidance_2")
    varied = varied[varied["setting"] == "TrSTeR"]
    names = {"dataset": "ptbxl", "generator": "a"}
    # the unchanged generator is in the quality scores
    rows = [{**names, "variation": "as it is", "frechet": 5.0}]
    rows += [{**names, "variation": "guidance_2", "frechet": -5.0}]
    both = pd.concat([results(gains), varied])
    row = found(both, quality(opposite(gains)), pd.DataFrame(rows))
    assert row["sets"] == len(gains) + 1
    assert row["rho"] == pytest.approx(1)
    rows[1]["frechet"] = 5.0
    assert found(both, quality(opposite(gains)), pd.DataFrame(rows))["rho"] < 1


def test_ties_have_their_mean_rank() -> None:
    gains = numbered(["ptbxl"], "abcd")
    scores = dict(zip(gains, [0.0, -1.0, -1.0, -2.0], strict=True))
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: Pearson's correlation of these
    assert found(results(gains), quality(scores))["rho"] == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_a_set_without_a_score_is_left_out() -> None:
    gains = numbered(PLACES)
    scores = opposite(gains) | {("ptbxl", "a"): np.nan, ("ptbxl", "b"): np.nan}
    row = found(results(gains), quality(scores))
    assert row["sets"] == len(gains) - 2
    assert row["rho"] == pytest.approx(1)


def test_equal_scores_have_no_correlation() -> None:
    gains = numbered(PLACES)
    row = found(results(gains), quality(dict.fromkeys(gains, 0.3)))
    assert np.isnan(row["rho"])
    assert row["note"] == "all equal"


@pytest.mark.parametrize(
    ("places", "generators", "note"),
    [
        (PLACES[:1], "abcde", "too few record sets"),
        (PLACES[:3], "a", "too few record sets"),
        (PLACES[:1], "abcdefgh", "too few datasets or rounds"),
        (PLACES[:2], "abcde", "too few datasets or rounds"),
    ],
)
def test_few_sets_or_clusters_have_no_interval(
    places: tuple[str, ...], generators: str, note: str
) -> None:
    gains = numbered(places, generators)
    row = found(results(gains), quality(opposite(gains)))
    assert row["rho"] == pytest.approx(1)
    assert np.isnan([row["low"], row["high"]]).all()
    assert row["note"] == note


def test_a_perfect_correlation_of_few_sets_is_not_certain() -> None:
    gains = numbered(PLACES)
    row = found(results(gains), quality(opposite(gains)))
    assert row["note"] == ""
    assert 0.7 < row["low"] < 0.99
    assert row["high"] == pytest.approx(1)


def test_datasets_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    gains = {key: rng.normal() for key in numbered(PLACES, "abcdef")}
    agree = {key: rng.normal() - gain for key, gain in gains.items()}
    signs = dict(zip(PLACES, (1, 1, -1, -1), strict=True))
    disagree = {key: score * signs[key[0]] for key, score in agree.items()}
    alike, unlike = (found(results(gains), quality(scores)) for scores in (agree, disagree))
    # as wide as if all sets were independent, or wider
    assert unlike["high"] - unlike["low"] > 1.2 * (alike["high"] - alike["low"])
    assert unlike["low"] <= unlike["rho"] <= unlike["high"]
    independent = 2 * 1.96 * np.sqrt((1 + alike["rho"] ** 2 / 2) / (len(gains) - 3))
    width = np.arctanh(alike["high"]) - np.arctanh(alike["low"])
    assert width >= independent - 1e-9
