"""Warnings about quality scores: scores beyond the baseline, and faults of a synthetic set."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

ALL = "all"  # in the column of rhythms: all records together
COPIED = 0.05  # excess of `copied_share` over its baseline
CHANCE, LEAKED = 0.5, 0.6  # AUC of membership inference
SEPARABLE = 0.95  # accuracy of a two-sample classifier
LOW_RECALL = 0.5  # recall relative to its baseline
# QRS constancy relative to its baseline. In sets of simulated patients (tests/test_known_sets.py),
# beats of several patients reach 0.76 at most, and rearranged beats of one patient 0.99 at least.
LOW_CONSTANCY = 0.8
MORE_IS_BETTER = ("precision", "recall", "coverage")
# both smaller and larger values are unlike real records
TWO_SIDED = ("density", "dcr_ratio", "qrs_constancy", "correlation_spread")
# Scores without a mark: `flags` handles memorisation, which noise does not have; the residual of
# recorders is 0; and the p-value marks MMD.
UNMARKED = ("copied_share", "authenticity", "membership_auc", "limb_residual", "mmd_p")
SURE = 0.05  # p-value


def beyond_baseline(scores: pd.DataFrame) -> pd.Series:
    """Return which scores are farther from their baseline than chance explains, bool.

    The baseline has as many records as the score, so it gets the same uncertainty: the half of the
    95 % interval on its side is multiplied by the square root of two. MMD uses its p-value. A score
    that is missing, but has a baseline, counts as well. For records of the same distribution, about
    2 % of the scores are marked; there is no correction for their number.

    Args:
        scores: rows of `assess` of one synthetic set.
    """
    metric, value, baseline = scores["metric"], scores["value"], scores["baseline"]
    above = value - baseline > 2**0.5 * (value - scores["low"])
    below = baseline - value > 2**0.5 * (scores["high"] - value)
    worse = above.where(~metric.isin(MORE_IS_BETTER), below).where(
        ~metric.isin(TWO_SIDED), above | below
    )
    lost = value.isna() & baseline.notna()
    p = value.where(metric == "mmd_p").groupby(scores["rhythm"]).transform("max")
    return (worse | lost).where(metric != "mmd2", p < SURE) & ~metric.isin(UNMARKED)


def judged(scores: pd.DataFrame) -> pd.Series:
    """Return which scores `beyond_baseline` can mark, bool."""
    return scores["baseline"].notna() & ~scores["metric"].isin(UNMARKED)


def flags(scores: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each fault that the scores over all rhythms show, also at the nearer
    limit of their 95 % intervals.

    Args:
        scores: rows of `assess` of one synthetic set.
    """
    overall = scores[scores["rhythm"] == "all"].set_index("metric")
    low, high = overall["low"], overall["high"]
    # With few records, the quantile of 1 % is inaccurate, and held-out records exceed it too.
    if low["copied_share"] - overall["baseline"]["copied_share"] > COPIED:
        near = (
            f"{overall['value']['copied_share'] * 100:.0f} % of the records are nearer to a "
            "training record than the nearest 1 % of held-out records"
        )
        # Copies are near only to training records; blurred records are near to all records.
        if low["membership_auc"] > CHANCE:
            yield f"Memorised: {near}; for copies, it is 100 %."
        else:
            yield (
                f"Crowded: {near}, but they do not reveal the training patients. The records are "
                "blurred, or some are copies."
            )
    if low["membership_auc"] > LEAKED:
        yield (
            "Memorised: the records reveal the training patients, with an AUC of "
            f"{overall['value']['membership_auc']:.2f}; 0.5 is chance."
        )
    if (
        low["c2st_accuracy"] > SEPARABLE
        and high["recall"] < LOW_RECALL * overall["baseline"]["recall"]
    ):
        yield (
            "Unlike real records: a classifier distinguishes them from real ones, and their recall "
            "is low."
        )
    real = overall["baseline"]["qrs_constancy"]
    if high["qrs_constancy"] < LOW_CONSTANCY * real:
        yield (
            "Inconstant: beats of one record differ as if from several patients. The QRS "
            f"constancy is {overall['value']['qrs_constancy']:.2f}; in real records, it is "
            f"{real:.2f}."
        )
