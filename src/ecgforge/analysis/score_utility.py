"""Which quality score predicts how useful synthetic records are?

Each synthetic record set with quality scores is a pair: a score, and the gain of a classifier that
is trained with the set. Sets are those of each generator on each dataset or round, and those of the
ablations. The rank correlation over all sets is computed for each score.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student_t

from ecgforge import rounds
from ecgforge.quality.flags import ALL, MORE_IS_BETTER, TWO_SIDED
from ecgforge.study.metrics import MACRO

BASELINE = "TrRTeR"
SETTINGS = ("TrSTeR", "TrRSTeR")
ABLATION = "ablation"
HIGHER = (*MORE_IS_BETTER, "authenticity", "mmd_p")  # all others but `TWO_SIDED`: lower is better
FEWEST_SETS, FEWEST_CLUSTERS = 6, 3
CLUSTER = ["dataset", "fold"]
SET = [*CLUSTER, "generator", "variation"]
COLUMNS = ["metric", "setting", "rho", "low", "high", "sets", "clusters", "note"]


def score_utility(
    results: pd.DataFrame,
    quality: pd.DataFrame,
    variations: pd.DataFrame,
    backbone: str,
    confidence: float,
) -> pd.DataFrame:
    """Return the rank correlation of each quality score with the gain in macro-F1.

    The gain of a set is the macro-F1 of TrSTeR or TrRSTeR minus that of TrRTeR on the same test
    records. If a dataset has rounds, its own split is left out, since its test patients are also in
    the rounds. Scores are oriented so that a positive correlation means: the better the score, the
    more useful the set.

    The interval is on Fisher's scale. Sets of the same dataset or round share real records, so each
    dataset or round is a cluster. The standard error comes from the jackknife over clusters, with a
    t distribution (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sec. 11.5). The
    interval is never narrower than that of independent sets (Bonett & Wright, Psychometrika 65:23,
    2000). There is none with fewer than `FEWEST_SETS` sets or `FEWEST_CLUSTERS` clusters.

    Args:
        results: rows of `study.predictions.results`, with all its keys.
        quality: rows of `quality.assess.assess` with dataset and generator; a round has its name.
        variations: dataset, generator, variation, and a column for each score: the sets of
            ablations.
        backbone: the study's classifier.
        confidence: e.g. 0.95.

    Returns:
        Rows of `COLUMNS`. `note` says why there is no interval. `rho` is NaN with fewer than three
        sets, or if all scores or gains are equal.
    """
    found = _scores(quality, variations).merge(_gains(results, backbone), on=SET)
    groups = found.groupby(["metric", "setting"], sort=False)
    rows = [
        {"metric": metric, "setting": setting, **correlation(group, confidence)}
        for (metric, setting), group in groups
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _gains(results: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """Return rows of `SET`, setting, gain: means over seeds."""
    rows = results[
        (results["rhythm"] == MACRO)
        & (results["metric"] == "f1")
        & (results["backbone"] == backbone)
        & results["sweep"].isin(["", ABLATION])
        & results["setting"].isin([BASELINE, *SETTINGS])
        & ~results["augmented"].astype(bool)
        & (results["draw"] == 0)
    ].rename(columns={"point": "variation"})
    crossed = rows.groupby("dataset")["fold"].transform("max") > 0
    rows = rows[crossed == (rows["fold"] > 0)]
    means = rows.groupby([*SET, "setting"], sort=False)["value"].mean().reset_index()
    real = means[means["setting"] == BASELINE].set_index(CLUSTER)["value"].rename("real")
    used = means[means["setting"].isin(SETTINGS)].join(real, on=CLUSTER)
    return used.assign(gain=used["value"] - used["real"])[[*SET, "setting", "gain"]]


def _scores(quality: pd.DataFrame, variations: pd.DataFrame) -> pd.DataFrame:
    """Return rows of `SET`, metric, score: the scores over all rhythms, more being better."""
    overall = quality[quality["rhythm"] == ALL]
    place = ["dataset", "generator", "variation"]
    metrics = [name for name in overall["metric"].unique() if name in variations]
    varied = variations.melt(place, metrics, var_name="metric", value_name="value")
    columns = [*place, "metric", "value"]
    table = pd.concat([overall.assign(variation="")[columns], varied[columns]], ignore_index=True)
    # the baseline compares real records alone, so all sets of a dataset have the same one
    baselines = overall.groupby(["dataset", "metric"])["baseline"].first()
    table = table.astype({"value": float}).join(baselines, on=["dataset", "metric"])
    table["score"] = -table["value"]
    higher, two_sided = table["metric"].isin(HIGHER), table["metric"].isin(TWO_SIDED)
    table.loc[higher, "score"] = table["value"]
    table.loc[two_sided, "score"] = -(table["value"] - table["baseline"]).abs()
    parsed = [rounds.parse(name) for name in table["dataset"]]
    table["fold"] = [one.number if one else 0 for one in parsed]
    table["dataset"] = table["dataset"].map(rounds.base)
    return table.dropna(subset="score")[[*SET, "metric", "score"]]


def correlation(sets: pd.DataFrame, confidence: float) -> dict[str, float | int | str]:
    """Return `COLUMNS` but for metric and setting, from rows of dataset, fold, score, gain with an
    index without duplicates.
    """
    clusters = [part.index for _, part in sets.groupby(CLUSTER)]
    rho, count = _spearman(sets), len(sets)
    low = high = np.nan
    note = ""
    if count < FEWEST_SETS:
        note = "too few record sets"
    elif np.isnan(rho):
        note = "all equal"
    elif len(clusters) < FEWEST_CLUSTERS:
        note = "too few datasets or rounds"
    else:
        without = np.array([_fisher(_spearman(sets.drop(part)), count) for part in clusters])
        centre, half = _fisher(rho, count), _half(without, rho, count, confidence)
        # the scale ends just before -1 and 1
        low = np.minimum(rho, np.tanh(centre - half))
        high = np.maximum(rho, np.tanh(centre + half))
        note = "" if not np.isnan(half) else "one dataset or round decides"
    numbers = {"rho": rho, "low": low, "high": high, "sets": count, "clusters": len(clusters)}
    return {**numbers, "note": note}


def _spearman(sets: pd.DataFrame) -> float:
    """Return Spearman's correlation, ties with their mean rank; NaN for fewer than three sets, or
    if all scores or gains are equal.
    """
    if len(sets) < 3 or sets["score"].nunique() < 2 or sets["gain"].nunique() < 2:
        return np.nan
    return float(sets["score"].corr(sets["gain"], method="spearman"))


def _fisher(rho: float, count: int) -> float:
    """Return Fisher's z. The most extreme value is half a step inside -1 and 1."""
    most = 1 - 6 / (count * (count**2 - 1))
    return float(np.arctanh(np.clip(rho, -most, most)))


def _half(without: np.ndarray, rho: float, count: int, confidence: float) -> float:
    """Return half the width of the interval on Fisher's scale.

    Args:
        without: Fisher's z without each cluster.
        rho: the correlation of all sets.
        count: the number of all sets.
        confidence: e.g. 0.95.
    """
    clusters, tail = len(without), (1 + confidence) / 2
    error = np.sqrt((clusters - 1) * without.var())
    independent = np.sqrt((1 + rho**2 / 2) / (count - 3))
    found: float = np.maximum(
        student_t.ppf(tail, clusters - 1) * error, norm.ppf(tail) * independent
    )
    return found
