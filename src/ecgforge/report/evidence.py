"""The report's verdicts on claims, and the curves and tables of the sweeps."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ecgforge.analysis.verdicts import RULES, Verdict
from ecgforge.report import figures

Line = tuple[str, str]  # sweep, setting
# sweeps with percentages as points, by the title of their plot; each with its name in words
CURVES: dict[str, dict[Line, str]] = {
    "More synthetic records": {
        ("mixture, proportion", "TrRSTeR"): "mixed as the real ones are",
        ("mixture, balance", "TrRSTeR"): "rare rhythms filled up",
        ("mixture, replace", "TrRSTeR"): "in place of real ones",
    },
    "Pre-training": {
        ("scratch", "TrRTeR"): "from scratch",
        ("fine-tuning, full", "TrSTeR"): "pre-trained, all fine-tuned",
        ("fine-tuning, linear_probe", "TrSTeR"): "pre-trained, head alone",
        ("fine-tuning, gradual_unfreezing", "TrSTeR"): "pre-trained, gradually unfrozen",
        ("early_layers_frozen", "TrSTeR"): "pre-trained, early layers frozen",
        ("self_supervised", "TrRTeR"): "pre-trained without labels on real records",
    },
    "Fewer real records, for generator and classifier": {
        ("size", "TrRTeR"): "real records alone (TrRTeR)",
        ("size", "TrRSTeR"): "real and synthetic (TrRSTeR)",
        ("size", "TrSTeR"): "synthetic alone (TrSTeR)",
    },
}
# sweeps with lines that end at the settings, which have all real records
TO_ALL_RECORDS = ("scratch", "size")
# sweeps on real records alone, which the curves of all generators show
ON_REAL = ("scratch", "self_supervised")


def verdicts(judged: list[Verdict]) -> list[dict[str, object]]:
    """Return a row per claim: its text and origin, the verdict and its rule, the primary
    comparisons, all points that they were chosen from, and what would decide it.
    """
    return [
        {
            "text": verdict.claim.text,
            "paper": verdict.claim.paper,
            "word": verdict.word,
            "rule": RULES[verdict.claim.rule],
            "primary": verdict.primary.to_dict("records"),
            "others": verdict.others.to_dict("records"),
            "points": verdict.points.to_dict("records"),
            "to_decide": verdict.to_decide,
        }
        for verdict in judged
    ]


def curves(points: pd.DataFrame, all_records: pd.DataFrame) -> dict[str, str]:
    """Plot each of `CURVES` that has points, for one dataset and generator.

    The upper panel has plain training records, and augmented real records as a reference. The lower
    panel has classically augmented records.

    Args:
        points: sweep, point (percent), setting, augmented, mean, low, high of macro-F1, also of
            `ON_REAL`.
        all_records: setting, augmented, mean, low, high of the settings, with all records.

    Returns:
        SVG images by title.
    """
    found = {}
    for title, lines in CURVES.items():
        shown = {
            (line, changed): _line(points, all_records, line, changed)
            for line in lines
            for changed in (False, True)
        }
        if any(len(rows) for (line, _), rows in shown.items() if line[0] not in ON_REAL):
            found[title] = _figure(title, lines, shown, all_records)
    return found


def _line(
    points: pd.DataFrame, all_records: pd.DataFrame, line: Line, changed: bool
) -> pd.DataFrame:
    """Return the points of a line, with the setting with all real records as the last point if it
    belongs to the line: percent, mean, low, high.
    """
    sweep, setting = line
    of_line = (points["sweep"] == sweep) & (points["setting"] == setting)
    rows = points[of_line & (points["augmented"] == changed)]
    rows = rows.assign(percent=rows["point"].astype(float))
    if sweep in TO_ALL_RECORDS and len(rows) and not (rows["percent"] == 100).any():
        rows = pd.concat(
            [rows, _at_all_records(all_records, setting, changed).assign(percent=100.0)],
            ignore_index=True,
        )
    return rows.sort_values("percent")[["percent", "mean", "low", "high"]]


def _at_all_records(all_records: pd.DataFrame, setting: str, changed: bool) -> pd.DataFrame:
    return all_records[(all_records["setting"] == setting) & (all_records["augmented"] == changed)]


def _figure(
    title: str,
    lines: dict[Line, str],
    shown: dict[tuple[Line, bool], pd.DataFrame],
    all_records: pd.DataFrame,
) -> str:
    two = any(
        len(rows) for (line, changed), rows in shown.items() if changed and line[1] != "TrRTeR"
    )
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.4, 6 if two else 3.8), layout="constrained")
        panels = figure.subplots(1 + two, 1, sharex=True, squeeze=False)[:, 0]
        for axes, changed in zip(panels, (False, True), strict=False):
            axes.set(xscale="log", ylim=(0, 1), ylabel="macro-F1")
            _levels(axes, title, all_records)
            for number, (line, name) in enumerate(lines.items()):
                look = {"color": figures.COLOURS[number], "marker": figures.MARKERS[number]}
                if len(shown[line, changed]):
                    _curve(axes, shown[line, changed], name, "--" if changed else "-", **look)
                if line[1] == "TrRTeR" and not changed:
                    axes.plot(
                        shown[line, True]["percent"],
                        shown[line, True]["mean"],
                        linestyle="--",
                        **look,
                    )
            axes.set_title(
                "training records classically augmented"
                if changed
                else "training records without augmentation",
                fontsize=9,
            )
            axes.grid(axis="y", color="#ddd")
            _ticks(
                axes, sorted({percent for rows in shown.values() for percent in rows["percent"]})
            )
        panels[-1].set_xlabel(
            "synthetic records, % of the real ones"
            if title == "More synthetic records"
            else "real records, % of all"
        )
        named = {
            name: handle
            for axes in panels
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if any(line.get_linestyle() == "--" for axes in panels for line in axes.get_lines()):
            named["dashed: classically augmented"] = Line2D([], [], color="#999", linestyle="--")
        figure.legend(
            named.values(),
            named.keys(),
            loc="outside lower center",
            ncols=1,
            frameon=False,
            fontsize=8,
        )
        return figures.svg(figure)


def _ticks(axes: Axes, percents: list[float]) -> None:
    """Set a tick at each point; leave out labels that would overlap."""
    after = [*percents[1:], np.inf]
    labels = [
        "" if further < 1.3 * percent else f"{percent:g}"
        for percent, further in zip(percents, after, strict=True)
    ]
    axes.set_xticks(percents, labels)
    axes.minorticks_off()


def _levels(axes: Axes, title: str, all_records: pd.DataFrame) -> None:
    """Plot horizontal lines for all real records, and for synthetic records alone if a curve starts
    from these.
    """
    levels = [("TrRTeR", False, "all real records (TrRTeR)", "-"), ("TrRTeR", True, None, "--")]
    if title == "Pre-training":
        levels.append(("TrSTeR", False, "synthetic records alone (TrSTeR)", ":"))
    for setting, changed, name, style in levels:
        for mean in _at_all_records(all_records, setting, changed)["mean"]:
            axes.axhline(mean, color="#444", linewidth=1.2, linestyle=style, label=name)


def _curve(axes: Axes, rows: pd.DataFrame, name: str, style: str, **look: Any) -> None:
    axes.plot(rows["percent"], rows["mean"], label=name, linestyle=style, **look)
    axes.fill_between(
        rows["percent"], rows["low"], rows["high"], alpha=0.15, linewidth=0, color=look["color"]
    )
    if len(rows) == 1:  # a band of one point is not visible
        axes.plot(
            [*rows["percent"]] * 2, [*rows["low"], *rows["high"]], color=look["color"], linewidth=1
        )


def label_efficiency(rows: pd.DataFrame) -> list[dict[str, float | str]]:
    """Return rows of `analysis.label_efficiency`; values beyond the ends of the curve are words."""
    limits = ["equal", "low", "high"]
    return [
        {**row, **{name: _percent(row[name], row["fewest"]) for name in limits}}
        for row in rows.to_dict("records")
    ]


def _percent(equal: float, fewest: float) -> str:
    if np.isnan(equal):
        return "–"
    if equal == np.inf:
        return "more than 100 %"
    return f"{equal:.3g} %" if equal else f"less than {fewest:g} %"
