"""What a reader of quality scores must not miss."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

# share nearer to a training record than 1 % of strangers are, beyond that of real records
COPIED = 0.05
CHANCE, LEAKED = 0.5, 0.6  # AUC of telling who was trained on
TOLD = 0.95  # accuracy of a two-sample classifier
# real records that lie among the synthetic ones, of those that lie among other real ones
RECALLED = 0.5
MORE_IS_BETTER = ("precision", "recall", "coverage")
AS_REAL = ("density", "dcr_ratio")  # too little and too much are both unlike real records
# Noise remembers nobody, and `flags` judges who does; recorders have no residual at all; and p is
# what MMD is judged by.
UNMARKED = ("copied_share", "authenticity", "membership_auc", "limb_residual", "mmd_p")
SURE = 0.05  # p-value


def beyond_baseline(scores: pd.DataFrame) -> pd.Series:
    """Say which scores show that records are unlike real ones, bool: those further from their
    baseline than chance explains.

    The baseline is a score of as many records, so it is taken to be as uncertain as the score: the
    near half of the 95 % interval counts by the square root of two. MMD has a p-value instead. Of a
    score that real records have and these have not, nothing could be measured, which tells them
    apart, too. Of records of the same law some 2 % are marked: there is no correction for their
    number.

    Args:
        scores: rows of `assess` of one synthetic set, of all rhythms or some.
    """
    metric, value, baseline = scores["metric"], scores["value"], scores["baseline"]
    above = value - baseline > 2**0.5 * (value - scores["low"])
    below = baseline - value > 2**0.5 * (scores["high"] - value)
    worse = above.where(~metric.isin(MORE_IS_BETTER), below).where(
        ~metric.isin(AS_REAL), above | below
    )
    lost = value.isna() & baseline.notna()
    p = value.where(metric == "mmd_p").groupby(scores["rhythm"]).transform("max")
    return (worse | lost).where(metric != "mmd2", p < SURE) & ~metric.isin(UNMARKED)


def judged(scores: pd.DataFrame) -> pd.Series:
    """Say which scores `beyond_baseline` can mark, bool."""
    return scores["baseline"].notna() & ~scores["metric"].isin(UNMARKED)


def flags(scores: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each fault that scores over all rhythms show beyond doubt: by the near
    end of their 95 % intervals.

    Args:
        scores: rows of `assess` of one synthetic set.
    """
    overall = scores[scores["rhythm"] == "all"].set_index("metric")
    low, high = overall["low"], overall["high"]
    # Of a handful of records 1 % is none, and strangers have a share well above it, too.
    if low["copied_share"] - overall["baseline"]["copied_share"] > COPIED:
        near = (
            f"{overall['value']['copied_share']:.0%} of them are nearer to a training record than "
            "1 % of strangers are"
        )
        # Copies are near to those who were trained on and to nobody else; blurred records are near
        # to everybody.
        if low["membership_auc"] > CHANCE:
            yield f"Memorised: {near}; of copies it would be all."
        else:
            yield (
                f"Crowded: {near}, and do not tell who was trained on. Blurred records lie so, and "
                "a set with some copies among others."
            )
    if low["membership_auc"] > LEAKED:
        yield (
            "Memorised: they tell who was trained on, with an AUC of "
            f"{overall['value']['membership_auc']:.2f}, where 0.5 tells nothing."
        )
    if low["c2st_accuracy"] > TOLD and high["recall"] < RECALLED * overall["baseline"]["recall"]:
        yield (
            "Unlike real records: a classifier tells them apart, and real records seldom lie among "
            "them."
        )
