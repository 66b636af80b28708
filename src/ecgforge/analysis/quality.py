"""Quality scores over the rounds of cross-fitting."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import combine_pvalues
from scipy.stats import t as student_t

from ecgforge import rounds

KEYS = ["dataset", "generator", "rhythm", "metric"]
SIGNED = ("qrs_constancy", "mmd2")  # the other scores are not negative
AT_MOST_ONE = ("precision", "recall", "coverage", "c2st_accuracy", "authenticity", "membership_auc")


def over_rounds(found: list[pd.DataFrame], confidence: float) -> pd.DataFrame:
    """Return the mean of each quality score over rounds, with an interval over rounds.

    Each round has a generator and held-out records of its own, so a round is a cluster: the limits
    come from a t distribution with as many degrees of freedom as rounds, minus one. They are cut at
    the limits of the score's range. The rounds share training records, so the interval is rather
    too narrow. P-values are combined by Fisher's method.

    Args:
        found: the scores of each round; rows of `quality.assess.assess` with dataset and generator.
        confidence: e.g. 0.95.

    Returns:
        Rows like those of one round; a single one unchanged.
    """
    if len(found) == 1:
        return found[0]
    every = pd.concat(found, ignore_index=True)
    every["dataset"] = every["dataset"].map(rounds.base)
    groups = every.groupby(KEYS, sort=False)
    table = groups[["value", "low", "high", "baseline", "negative_control"]].mean()
    spread, count = groups["value"].std(), groups["value"].count()
    half = student_t.ppf((1 + confidence) / 2, (count - 1).clip(lower=1)) * spread / np.sqrt(count)
    limited = table["low"].notna() & (count > 1)
    metric = table.index.get_level_values("metric")
    least = np.where(metric.isin(SIGNED), -np.inf, 0.0)
    most = np.where(metric.isin(AT_MOST_ONE) | metric.str.endswith(("_ks", "_share")), 1.0, np.inf)
    table["low"] = (table["value"] - half).clip(lower=least).where(limited)
    table["high"] = (table["value"] + half).clip(upper=most).where(limited)
    p = every[every["metric"] == "mmd_p"].dropna(subset="value").groupby(KEYS, sort=False)["value"]
    for keys, values in p:
        table.loc[keys, "value"] = combine_pvalues(values).pvalue
    return table.reset_index()[list(found[0].columns)]
