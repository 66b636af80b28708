"""The gates: conditions on metrics and scores that a version must pass to become champion.

This module does not load anything; callers pass the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.console import counted
from ecgforge.params import ClassifierGates, GeneratorGates
from ecgforge.registry import training_data
from ecgforge.study import metrics

BINS = 15
UNKNOWN = "unknown"
TINY = 1e-9  # rounding error of a difference of two shares


@dataclass(frozen=True)
class Gate:
    """One gate: its name, value, bound, whether it passed, and details for the reader."""

    name: str
    value: str
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
        references: the same for the champion, or for each baseline if there is no champion.
        champion: whether the reference is a champion.
        note: details about its metrics.
    """

    truth: np.ndarray
    patients: np.ndarray
    rhythms: Sequence[str]
    challenger: np.ndarray
    references: Mapping[str, np.ndarray]
    champion: bool
    note: str = ""


def classifier_gates(
    test: Test, bounds: ClassifierGates, confidence: float, resamples: int
) -> list[Gate]:
    """Return the gates on a classifier's answers for the test records.

    Macro-F1 is compared by a paired bootstrap over test patients, see
    `study.statistics.difference`. Without a champion, each baseline is a reference, and the
    recall of each rhythm must be above 1 / number of rhythms, the recall of random guesses.
    """
    margin = bounds.margin if test.champion else bounds.baseline_margin
    found = [_macro_f1(test, name, margin, confidence, resamples) for name in test.references]
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


def _macro_f1(test: Test, name: str, margin: float, confidence: float, resamples: int) -> Gate:
    table = statistics.difference(
        test.truth,
        test.references[name][None],
        test.challenger[None],
        test.patients,
        test.rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
    )
    row = table[(table["rhythm"] == metrics.MACRO) & (table["metric"] == "f1")].iloc[0]
    low, high = np.clip([row["low"], row["high"]], -1, 1)  # no difference is larger than 1
    value = f"{row['estimate']:+.3f} ({low:+.3f} to {high:+.3f})"
    gate = "macro_f1" if test.champion else f"macro_f1.{name}"
    detail = f"macro-F1 difference to {name}, {confidence:.0%} interval over test patients"
    return Gate(
        gate,
        value,
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
            "lowest recall of a rhythm; the bound is that of random guesses",
        )
    (reference,) = test.references.values()
    change = own - recalls(test.truth, reference, test.rhythms)
    worst = change.idxmin()
    return Gate(
        "recall",
        f"{worst} {change[worst]:+.3f}",
        f"at least {-margin:+g}",
        bool(change[worst] >= -margin - TINY),
        _joined("largest drop of a rhythm's recall", test.note),
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def recalls(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> pd.Series:
    """Return the recall of each rhythm in the test records."""
    table = metrics.metrics(truth, probabilities, rhythms)
    rows = table[(table["metric"] == "recall") & (table["rhythm"] != metrics.MACRO)]
    return rows.set_index("rhythm")["value"]


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error of the most probable rhythm.

    This is |accuracy - confidence| in bins of equal width of its probability, averaged with the
    number of records as weight (Guo et al., ICML 2017, eq. 3). It is biased upwards for few
    records.
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
    """Return the gate that no test record, patient or signal was in training or validation data.

    Args:
        test: rows of records.csv, of the test split.
        trained_on: the whole records.csv of each real set that trained the version, directly or
            through a generator; None if it is no longer available.
        same: `[test records]`, whether the signals of a test record are in training or validation
            data under any name; None if signals could not be compared.
    """
    lost = [name for name, table in trained_on.items() if table is None]
    tables = [table[table["split"] != "test"] for table in trained_on.values() if table is not None]
    seen = pd.concat(tables) if tables else test.iloc[:0]
    records, patients = (
        len(training_data.keys(test, column) & training_data.keys(seen, column))
        for column in ("id", "patient")
    )
    renamed = (
        0
        if same is None
        else len(training_data.keys(test[same], "id") - training_data.keys(seen, "id"))
    )
    found = f"{counted(records, 'record')}, {counted(patients, 'patient')}" + (
        f", {renamed} recordings under other names" if renamed else ""
    )
    value = found if not lost else UNKNOWN
    detail = (
        f"no longer available: {', '.join(lost)}"
        if lost
        else f"of {len(test)}, seen in training or validation"
    )
    if not trained_on:
        detail = "the lineage has no training data"
    known = bool(trained_on) and not lost
    if known and same is None:
        detail += "; signals were not compared"
    return Gate(
        "leakage",
        value if trained_on else UNKNOWN,
        "0",
        known and not (records or patients or renamed),
        detail,
    )


def at_most(name: str, value: float, bound: float, detail: str = "", unit: str = "") -> Gate:
    """Return a gate that a value passes up to its bound; the unit starts with a space."""
    passed = bool(value <= bound)
    return Gate(name, f"{value:.3g}{unit}", f"at most {bound:g}{unit}", passed, detail)


def generator_gates(scores: Mapping[str, float], bounds: GeneratorGates) -> list[Gate]:
    """Return the gates on a generator's quality scores.

    A score may be worse than its real-vs-real baseline by at most the bound, and there may be no
    copies of training records.

    Args:
        scores: values by metric, baselines by metric with the suffix `_baseline`, and optionally
            the ends of the 95 % interval, `_low` and `_high`. A missing score fails its gate.
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
            "accuracy of the two-sample test",
        ),
        over(
            "coverage",
            "coverage",
            bounds.coverage,
            "share of real records that are close to a synthetic one",
            sign=-1,
        ),
        over("heart_rate", "heart_rate_w1", bounds.heart_rate, "Wasserstein distance, bpm"),
        over("rr_cv", "rr_cv_w1", bounds.rr_cv, "Wasserstein distance, points"),
        over(
            "copied",
            "copied_share",
            bounds.copied_share,
            "memorisation: share of copied records",
        ),
        Gate(
            "nearest",
            f"{nearest:.3g}",
            f"at least {bounds.dcr_ratio:g}",
            bool(nearest >= bounds.dcr_ratio),
            _joined(
                "memorisation: 1 for holdout records, 0 for copies", _interval(scores, "dcr_ratio")
            ),
        ),
        at_most(
            "membership",
            scores.get("membership_auc", np.nan),
            bounds.membership_auc,
            _joined(
                "memorisation: AUC of the membership test",
                _interval(scores, "membership_auc"),
            ),
        ),
    ]


def _interval(scores: Mapping[str, float], metric: str) -> str:
    low, high = (scores.get(f"{metric}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"95 % interval {low:.3g} to {high:.3g}"
