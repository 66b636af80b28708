"""The report's plots; equal tables give equal bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ecgforge.report.colours import COLOURS, MARKERS

STYLE = {
    "svg.hashsalt": "ecgforge",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def macro_f1(summary: pd.DataFrame, settings: Sequence[str], baselines: Mapping[str, str]) -> str:
    """Plot macro-F1 with its interval by setting, with a marker per generator, for one dataset.

    Args:
        summary: rows of one dataset and metric `f1`: generator, backbone, setting, mean, low, high.
        settings: the settings, in the order of the axis.
        baselines: names of the baselines by backbone; each is a horizontal line.

    Returns:
        An SVG image.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        _baselines(axes, summary[summary["backbone"].isin(list(baselines))], baselines)
        models = summary[~summary["backbone"].isin(list(baselines))]
        several = models["backbone"].nunique() > 1
        for shared in (True, False):
            pairs = list(
                models[(models["generator"] == "") == shared].groupby(
                    ["generator", "backbone"], sort=False
                )
            )
            for number, ((generator, backbone), rows) in enumerate(pairs):
                name = generator or "real records only"
                shift = (number - (len(pairs) - 1) / 2) * 0.6 / len(pairs)
                look = (
                    {"fmt": "*", "color": "#000000"}
                    if shared
                    else {"fmt": MARKERS[number % 7], "color": COLOURS[number % 7]}
                )
                _estimates(
                    axes,
                    rows,
                    settings,
                    shift,
                    label=f"{name}, {backbone}" if several else name,
                    **look,
                )
        axes.set(
            xticks=range(len(settings)),
            xticklabels=[name.replace(" augmented", "\n+ aug.") for name in settings],
            ylim=(0, 1),
            xlim=(-0.5, len(settings) - 0.5),
            ylabel="macro-F1",
        )
        axes.grid(axis="y", color="#ddd")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        return svg(figure)


def _baselines(axes: Axes, rows: pd.DataFrame, names: Mapping[str, str]) -> None:
    for style, (_, row) in zip(("--", ":", "-.", (0, (1, 3))), rows.iterrows(), strict=False):
        axes.axhline(
            row["mean"], color="#444", linewidth=1.2, linestyle=style, label=names[row["backbone"]]
        )


def _estimates(
    axes: Axes, rows: pd.DataFrame, settings: Sequence[str], shift: float, **look: Any
) -> None:
    """Plot one generator's points with intervals, moved by `shift` to avoid overlaps."""
    rows = rows[rows["setting"].isin(list(settings))]
    intervals = np.clip([rows["mean"] - rows["low"], rows["high"] - rows["mean"]], 0, None)
    positions = np.array([settings.index(setting) for setting in rows["setting"]]) + shift
    axes.errorbar(positions, rows["mean"], yerr=intervals, capsize=3, **look)


GAIN_WIDTH, GAIN_ROW = 3.4, 0.32  # inches; the width is that of a telephone


def gains(differences: pd.DataFrame, smallest_gain: float) -> str:
    """Plot the differences in macro-F1 from real records alone, a row for each condition.

    The text is as large on a telephone as on paper, so names stand above their intervals.

    Args:
        differences: rows of `analysis.answers.COLUMNS`, in the order of the rows.
        smallest_gain: a dashed line.

    Returns:
        An SVG image.
    """
    with matplotlib.rc_context(STYLE):
        height = GAIN_ROW * len(differences) + 1.1
        figure = Figure(figsize=(GAIN_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#444", linewidth=1.2, label="real records alone")
        small = f"smallest gain that counts: {smallest_gain:g}"
        axes.axvline(smallest_gain, color=COLOURS[1], linewidth=1.2, linestyle="--", label=small)
        for number, row in enumerate(differences.to_dict("records")):
            _gain(axes, number, row)
        axes.set(yticks=[], ylim=(len(differences) - 0.4, -0.7), xlabel="difference in macro-F1")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color="#ddd")
        figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8)
        return svg(figure)


def _gain(axes: Axes, number: int, row: dict[Any, Any]) -> None:
    """Plot an estimate with its interval as a thick line and its band as a thin one."""
    primary = row["role"] == "primary"
    colour = COLOURS[0] if primary else "#444444"
    axes.plot([row["band_low"], row["band_high"]], [number] * 2, color=colour, linewidth=1)
    axes.plot([row["low"], row["high"]], [number] * 2, color=colour, linewidth=3.5, alpha=0.5)
    marker = "D" if primary else "o"
    axes.plot([row["estimate"]], [number], marker=marker, color=colour, markersize=5)
    _above(axes, number - 0.2, row["name"], fontweight="bold" if primary else "normal")


def _above(axes: Axes, position: float, words: str, **look: Any) -> None:
    """Write the name of a row at its left end."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    place = axes.get_yaxis_transform()
    axes.text(0, position, words, transform=place, va="bottom", fontsize=8, bbox=box, **look)


NAME_LENGTH = 52  # characters; longer names do not fit the width of a telephone


def utility(table: pd.DataFrame, words: Mapping[str, str]) -> str:
    """Plot the rank correlation of each quality score with the gain of a set, a row for each score.

    Args:
        table: rows of `analysis.score_utility.COLUMNS` with intervals, in the order of the rows.
        words: names of the scores, for display; what follows a colon is left out.

    Returns:
        An SVG image.
    """
    names, settings = (list(dict.fromkeys(table[key])) for key in ("metric", "setting"))
    with matplotlib.rc_context(STYLE):
        height = GAIN_ROW * len(names) + 1.1
        figure = Figure(figsize=(GAIN_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#444", linewidth=1.2)
        for number, setting in enumerate(settings):
            rows = table[table["setting"] == setting]
            place = [names.index(name) for name in rows["metric"]]
            axes.errorbar(
                rows["rho"],
                np.array(place) + 0.2 * (number - (len(settings) - 1) / 2),
                xerr=[rows["rho"] - rows["low"], rows["high"] - rows["rho"]],
                fmt=MARKERS[number],
                color=COLOURS[number],
                markersize=3.5,
                linewidth=1,
                label=setting,
            )
        for number, name in enumerate(names):
            shown = words.get(name, name).partition(":")[0]
            _above(axes, number - 0.26, textwrap.shorten(shown, NAME_LENGTH, placeholder=" …"))
        axes.set(xlim=(-1.02, 1.02), ylim=(len(names) - 0.4, -0.9), xlabel="rank correlation")
        axes.set(yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#ddd")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        return svg(figure)


def embedding(views: pd.DataFrame) -> bytes:
    """Plot real and synthetic records in each view of the embedding, for one dataset and generator.

    Args:
        views: rows of one dataset and generator: view, kind (`real` or `synthetic`), x, y.

    Returns:
        A PNG image, since its size does not depend on the number of records.
    """
    names = list(dict.fromkeys(views["view"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * len(names), 2.5), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for kind, marker, colour in (("real", "o", "#0072b2"), ("synthetic", "x", "#d55e00")):
                points = views[(views["view"] == name) & (views["kind"] == kind)]
                axes.scatter(
                    points["x"],
                    points["y"],
                    s=14,
                    marker=marker,
                    color=colour,
                    alpha=0.55,
                    linewidths=1,
                    label=kind,
                )
            axes.set(
                title={"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}.get(name, name),
                xticks=[],
                yticks=[],
            )
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
        )
        return _png(figure)


def svg(figure: Figure) -> str:
    """Return a plot as SVG; equal plots give equal bytes."""
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue().decode()


def _png(figure: Figure) -> bytes:
    figure.set_dpi(160)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
