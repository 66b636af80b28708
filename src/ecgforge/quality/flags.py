"""What a reader of quality scores must not miss."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

COPIED = 0.05  # share nearer to a training record than 1 % of strangers are, beyond that of real records
LEAKED = 0.6  # AUC of telling who was trained on
TOLD = 0.95  # accuracy of a two-sample classifier
RECALLED = 0.1  # share of real records that lie among the synthetic ones


def flags(scores: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each fault that scores over all rhythms show beyond doubt: by the near end of their 95 % intervals.

    Args:
        scores: rows of `assess` of one synthetic set.
    """
    overall = scores[scores["rhythm"] == "all"].set_index("metric")
    low, high = overall["low"], overall["high"]
    # Of a handful of records 1 % is none, and strangers have a share well above it, too.
    if low["copied_share"] - overall["floor"]["copied_share"] > COPIED:
        share = overall["value"]["copied_share"]
        yield f"Memorised: {share:.0%} of them are nearer to a training record than 1 % of strangers are; of copies it would be all."
    if low["membership_auc"] > LEAKED:
        yield f"Memorised: they tell who was trained on, with an AUC of {overall['value']['membership_auc']:.2f}, where 0.5 tells nothing."
    if low["c2st_accuracy"] > TOLD and high["recall"] < RECALLED:
        yield "Unlike real records: a classifier tells them apart, and hardly a real record lies among them."
