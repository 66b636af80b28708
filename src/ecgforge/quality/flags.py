"""What a reader of quality scores must not miss."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

COPIED = 0.05  # share nearer to a training record than 1 % of strangers are, beyond that of real records
CHANCE, LEAKED = 0.5, 0.6  # AUC of telling who was trained on
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
        near = f"{overall['value']['copied_share']:.0%} of them are nearer to a training record than 1 % of strangers are"
        # Copies are near to those who were trained on and to nobody else; blurred records are near to everybody.
        if low["membership_auc"] > CHANCE:
            yield f"Memorised: {near}; of copies it would be all."
        else:
            yield f"Crowded: {near}, and do not tell who was trained on. Blurred records lie so, and a set with some copies among others."
    if low["membership_auc"] > LEAKED:
        yield f"Memorised: they tell who was trained on, with an AUC of {overall['value']['membership_auc']:.2f}, where 0.5 tells nothing."
    if low["c2st_accuracy"] > TOLD and high["recall"] < RECALLED:
        yield "Unlike real records: a classifier tells them apart, and hardly a real record lies among them."
