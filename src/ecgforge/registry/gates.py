"""What a version must pass to become champion: figures in, verdicts out.

Nothing here knows where the figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.params import ClassifierGates, GeneratorGates
from ecgforge.study import metrics

BINS = 15
UNKNOWN = "unknown"
TINY = 1e-9  # what a difference of two shares may be off by


@dataclass(frozen=True)
class Gate:
    """One thing that was asked: its name, what was found, what is allowed, whether it passed, and
    what a reader should know beside.
    """

    name: str
    figure: str
    bound: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Test:
    """Probabilities of several classifiers on the same test records.

    Attributes:
        truth: `[records]`, class indices into `rhythms`.
        patients: `[records]`.
        rhythms: in class order.
        challenger: `[records, rhythms]`.
        rivals: the same of the champion alone, or of each baseline where there is no champion.
        champion: whether the rival is one.
        note: what a reader should know of its figures.
    """

    truth: np.ndarray
    patients: np.ndarray
    rhythms: Sequence[str]
    challenger: np.ndarray
    rivals: Mapping[str, np.ndarray]
    champion: bool
    note: str = ""


def classifier_gates(
    test: Test, bounds: ClassifierGates, confidence: float, resamples: int
) -> list[Gate]:
    """Return the gates on what a classifier says of the test records.

    Macro-F1 is compared by a paired bootstrap over test patients, see
    `study.statistics.difference`. Where there is no champion, each baseline takes its place there,
    and each rhythm's recall must be above that of a guess at random.
    """
    margin = bounds.margin if test.champion else bounds.baseline_margin
    found = [_macro_f1(test, name, margin, confidence, resamples) for name in test.rivals]
    found.append(_recall(test, bounds.recall_margin))
    error = calibration_error(test.truth, test.challenger)
    return [
        *found,
        at_most(
            "calibration",
            error,
            bounds.calibration_error,
            f"expected calibration error, {BINS} bins",
        ),
    ]


def _macro_f1(test: Test, rival: str, margin: float, confidence: float, resamples: int) -> Gate:
    table = statistics.difference(
        test.truth,
        test.rivals[rival][None],
        test.challenger[None],
        test.patients,
        test.rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
    )
    row = table[(table["rhythm"] == metrics.MACRO) & (table["metric"] == "f1")].iloc[0]
    figure = f"{row['estimate']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    name = "macro_f1" if test.champion else f"macro_f1.{rival}"
    detail = f"macro-F1 less that of {rival}, {confidence:.0%} interval over test patients"
    return Gate(
        name,
        figure,
        f"interval above {margin:+g}",
        bool(row["low"] > margin),
        _joined(detail, test.note),
    )


def _recall(test: Test, margin: float) -> Gate:
    own = recalls(test.truth, test.challenger, test.rhythms)
    if not test.champion:
        worst = own.idxmin()
        bound = 1 / len(test.rhythms)
        return Gate(
            "recall",
            f"{worst} {own[worst]:.3f}",
            f"above {bound:.3f}",
            bool(own[worst] > bound),
            "the least of any rhythm; by guessing",
        )
    (theirs,) = (recalls(test.truth, rival, test.rhythms) for rival in test.rivals.values())
    change = own - theirs
    worst = change.idxmin()
    return Gate(
        "recall",
        f"{worst} {change[worst]:+.3f}",
        f"at least {-margin:+g}",
        bool(change[worst] >= -margin - TINY),
        _joined("the most that a rhythm loses", test.note),
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def recalls(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> pd.Series:
    """Return the recall of each rhythm that the test records have."""
    table = metrics.metrics(truth, probabilities, rhythms)
    rows = table[(table["metric"] == "recall") & (table["rhythm"] != metrics.MACRO)]
    return rows.set_index("rhythm")["value"]


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error: |accuracy - confidence| in bins of equal width of the
    likeliest rhythm's probability, weighted by records (Guo et al., ICML 2017, eq. 3). Few records
    make it larger than it is.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    found, labels = torch.from_numpy(np.asarray(probabilities)), torch.from_numpy(np.asarray(truth))
    return float(
        multiclass_calibration_error(found, labels, found.shape[1], n_bins=BINS, norm="l1")
    )


def leakage(
    test: pd.DataFrame,
    trained_on: Mapping[str, pd.DataFrame | None],
    same: np.ndarray | None = None,
) -> Gate:
    """Ask that no test record, no test patient, and no test recording under another name, was
    trained or validated on.

    Args:
        test: rows of records.csv, of the test split.
        trained_on: the whole records.csv of each real set that the version learned from, itself or
            through a generator; None where it is no longer available.
        same: `[test records]`, whether the signals of each are among those trained or validated on,
            under whatever name; None where signals could not be compared.
    """
    lost = [name for name, table in trained_on.items() if table is None]
    tables = [table[table["split"] != "test"] for table in trained_on.values() if table is not None]
    seen = pd.concat(tables) if tables else test.iloc[:0]
    records, patients = (
        len(_keys(test, column) & _keys(seen, column)) for column in ("id", "patient")
    )
    renamed = 0 if same is None else len(_keys(test[same], "id") - _keys(seen, "id"))
    found = f"{records} records, {patients} patients" + (
        f", {renamed} recordings under other names" if renamed else ""
    )
    figure = found if not lost else UNKNOWN
    detail = (
        f"no longer available: {', '.join(lost)}"
        if lost
        else f"of {len(test)}, seen in training or validation"
    )
    if not trained_on:
        detail = "what it learned from is in no lineage"
    known = bool(trained_on) and not lost
    if known and same is None:
        detail += "; signals were not compared"
    return Gate(
        "leakage",
        figure if trained_on else UNKNOWN,
        "0",
        known and not (records or patients or renamed),
        detail,
    )


def _keys(table: pd.DataFrame, column: str) -> set[str]:
    """Ids or patients as a merged set has them, `<dataset>-<id>`, so that sets compare."""
    return {
        f"{dataset}-{name.removeprefix(f'{dataset}-')}"
        for dataset, name in zip(table["dataset"], table[column], strict=True)
        if name
    }


def at_most(name: str, value: float, bound: float, detail: str = "") -> Gate:
    return Gate(name, f"{value:.3g}", f"at most {bound:g}", bool(value <= bound), detail)


def generator_gates(scores: Mapping[str, float], bounds: GeneratorGates) -> list[Gate]:
    """Return the gates on a generator's quality scores: no further from real records than their
    baseline, what other real records get, by more than is allowed; and no copies.

    Args:
        scores: values by metric, baselines by metric with `_baseline` behind it, and, for a reader,
            the ends of its 95 % interval, `_low` and `_high`; a figure that is not there fails its
            gate.
    """

    def over(name: str, metric: str, allowed: float, detail: str, sign: int = 1) -> Gate:
        value, baseline = scores.get(metric, np.nan), scores.get(f"{metric}_baseline", np.nan)
        bound = baseline + sign * allowed
        return Gate(
            name,
            f"{value:.3g}",
            f"at {'most' if sign > 0 else 'least'} {bound:.3g}",
            bool(sign * value <= sign * bound),
            _joined(detail, f"baseline {baseline:.3g}", _interval(scores, metric)),
        )

    nearest = scores.get("dcr_ratio", np.nan)
    return [
        over(
            "two_sample",
            "c2st_accuracy",
            bounds.two_sample,
            "accuracy of telling its records from real ones",
        ),
        over(
            "coverage",
            "coverage",
            bounds.coverage,
            "share of real records with one of its own near",
            sign=-1,
        ),
        over("heart_rate", "heart_rate_w1", bounds.heart_rate, "Wasserstein distance, bpm"),
        over("rr_cv", "rr_cv_w1", bounds.rr_cv, "Wasserstein distance, points"),
        over(
            "copied",
            "copied_share",
            bounds.copied_share,
            "memorisation: share nearer to training records than strangers are",
        ),
        Gate(
            "nearest",
            f"{nearest:.3g}",
            f"at least {bounds.dcr_ratio:g}",
            bool(nearest >= bounds.dcr_ratio),
            _joined("memorisation: 1 for strangers, 0 for copies", _interval(scores, "dcr_ratio")),
        ),
        at_most(
            "membership",
            scores.get("membership_auc", np.nan),
            bounds.membership_auc,
            _joined(
                "memorisation: AUC of telling who was trained on",
                _interval(scores, "membership_auc"),
            ),
        ),
    ]


def _interval(scores: Mapping[str, float], metric: str) -> str:
    low, high = (scores.get(f"{metric}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"95 % interval {low:.3g} to {high:.3g}"
