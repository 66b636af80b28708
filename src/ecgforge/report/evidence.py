"""The part of the report that answers: verdicts on claims, and the curves and tables of the sweeps behind them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgforge.report import figures
from ecgforge.study.settings import AUGMENTATION
from ecgforge.study.verdicts import Verdict

CURVES = {  # sweeps whose points are percentages, by the figure that shows them; each with its name in words
    "More synthetic records": {"mixture, proportion": "mixed as the real ones are", "mixture, balance": "rare rhythms filled up"},
    "Pre-training": {
        "scratch": "from scratch",
        "scratch, augmented": "from scratch, classically augmented",
        "fine-tuning, all": "pre-trained, all fine-tuned",
        "fine-tuning, head": "pre-trained, head alone",
        "fine-tuning, gradual": "pre-trained, gradually unfrozen",
    },
    "Fewer real records, for generator and classifier": {
        "size TrRTeR": "real records alone (TrRTeR)",
        "size, augmented TrRTeR": "the same, classically augmented",
        "size TrRSTeR": "real and synthetic (TrRSTeR)",
        "size, augmented TrRSTeR": "the same, classically augmented",
        "size TrSTeR": "synthetic alone (TrSTeR)",
    },
}
WHOLE = {  # lines whose end at all real records is a setting of the study, plain or of the sweep of augmentation
    "scratch": ("TrRTeR", ""),
    "scratch, augmented": ("TrRTeR", AUGMENTATION),
    "size TrRTeR": ("TrRTeR", ""),
    "size, augmented TrRTeR": ("TrRTeR", AUGMENTATION),
    "size TrRSTeR": ("TrRSTeR", ""),
    "size, augmented TrRSTeR": ("TrRSTeR", AUGMENTATION),
    "size TrSTeR": ("TrSTeR", ""),
}


def verdicts(judged: list[Verdict]) -> list[dict[str, object]]:
    """A row a claim: its words, whose it is, the verdict, the largest and smallest effect with their intervals, and how many there are."""
    rows: list[dict[str, object]] = []
    for verdict in judged:
        ranked = verdict.comparisons.sort_values("estimate", ascending=False, kind="stable").to_dict("records")
        rows.append(
            {
                "text": verdict.claim.text,
                "paper": verdict.claim.paper,
                "word": verdict.word,
                "best": ranked[0] if ranked else None,
                "worst": ranked[-1] if len(ranked) > 1 else None,
                "comparisons": ranked,
            }
        )
    return rows


def curves(points: pd.DataFrame, whole: pd.DataFrame) -> dict[str, str]:
    """Plot each of `CURVES` that has points, for one dataset and generator.

    Args:
        points: sweep, point (percent), setting, mean, low, high of macro-F1; those of `scratch` too.
        whole: setting, sweep, mean, low, high of the study's settings, with all records, and of augmentation.

    Returns:
        SVG images by title.
    """
    named = points.assign(line=np.where(points["sweep"].str.startswith("size"), points["sweep"] + " " + points["setting"], points["sweep"]))
    found = {}
    for title, lines in CURVES.items():
        shown = named[named["line"].isin(list(lines))]
        if len(shown[~shown["line"].str.startswith("scratch")]):
            found[title] = _figure(title, lines, _joined(shown, whole), whole)
    return found


def _joined(shown: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """Lead lines of fewer real records on to all of them, where the study's own settings are."""
    ends = [
        whole[(whole["setting"] == setting) & (whole["sweep"] == sweep)].assign(line=line, point="100")
        for line, (setting, sweep) in WHOLE.items()
        if (shown["line"] == line).any() and not (shown.loc[shown["line"] == line, "point"].astype(float) == 100).any()
    ]
    return pd.concat([shown, *ends], ignore_index=True)


def _figure(title: str, lines: dict[str, str], shown: pd.DataFrame, whole: pd.DataFrame) -> str:
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        _level(axes, whole, "TrRTeR", "", "all real records (TrRTeR)", "-")
        _level(axes, whole, "TrRTeR", AUGMENTATION, "the same, classically augmented", "--")
        if title == "Pre-training":
            _level(axes, whole, "TrSTeR", "", "synthetic records alone (TrSTeR)", ":")
        for number, (line, name) in enumerate(lines.items()):
            rows = shown[shown["line"] == line]
            rows = rows.assign(percent=rows["point"].astype(float)).sort_values("percent")
            colour = figures.COLOURS[number]
            axes.plot(rows["percent"], rows["mean"], label=name, color=colour, marker=figures.MARKERS[number])
            axes.fill_between(rows["percent"], rows["low"], rows["high"], alpha=0.15, linewidth=0, color=colour)
        percents = sorted(shown["point"].astype(float).unique())
        percent = "synthetic records, % of the real ones" if title == "More synthetic records" else "real records, % of all"
        axes.set(xscale="log", ylim=(0, 1), xlabel=percent, ylabel="macro-F1")
        axes.set_xticks(percents, [f"{percent:g}" for percent in percents])
        axes.minorticks_off()
        axes.grid(axis="y", color="#ddd")
        figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8)
        return figures.svg(figure)


def _level(axes: Axes, whole: pd.DataFrame, setting: str, sweep: str, name: str, style: str) -> None:
    rows = whole[(whole["setting"] == setting) & (whole["sweep"] == sweep)]
    for _, row in rows.iterrows():
        axes.axhline(row["mean"], color="#444", linewidth=1.2, linestyle=style, label=name)


def worth(points: pd.DataFrame, whole: float) -> list[dict[str, float | str]]:
    """How many real records pre-training is worth: for each share of them, the share that a classifier from scratch needs for the same.

    The curve from scratch is taken as rising between its points, and as reaching `whole` at 100 %; limits are what it needs for those of
    the pre-trained classifier's interval.

    Returns:
        Rows of percent, scratch, tuned (macro-F1 both), and equal, low, high: percent from scratch, in words beyond the curve's ends.
    """
    scratch = points[points["sweep"] == "scratch"]
    tuned = points[points["sweep"] == "fine-tuning, all"]
    if scratch.empty or tuned.empty:
        return []
    known = pd.Series([*scratch["mean"], whole], index=[*scratch["point"].astype(float), 100.0]).sort_index()
    known = known[~known.index.duplicated()]
    rows = tuned.assign(percent=tuned["point"].astype(float)).sort_values("percent")
    return [
        {
            "percent": row["percent"],
            "scratch": float(known.get(row["percent"], np.nan)),
            "tuned": row["mean"],
            **{name: _equal(known, row[limit]) for name, limit in (("equal", "mean"), ("low", "low"), ("high", "high"))},
        }
        for row in rows.to_dict("records")
    ]


def _equal(known: pd.Series, mean: float) -> str:
    rising = known.cummax()
    rising = rising[~rising.duplicated()]  # of a level, the least that reaches it
    if mean > rising.iloc[-1]:
        return "more than 100 %"
    if mean < rising.iloc[0]:
        return f"less than {rising.index[0]:g} %"
    return f"{np.interp(mean, rising.to_numpy(), rising.index.to_numpy(float)):.3g} %"
