"""Optuna's plots of a study."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import optuna.visualization.matplotlib as draw
from matplotlib.figure import Figure

from ecgforge.tuning.search import Task, opened


def figures(task: Task, names: list[str]) -> dict[str, Figure]:
    """Return plots of a study by file name.

    They are the history and the parameter importances of each objective, and the Pareto front of
    two objectives.

    Args:
        names: of the objectives.
    """
    study, found = opened(task), {}
    warnings.filterwarnings("ignore", module="optuna")
    for part, name in enumerate(names):
        shown = {"target": lambda trial, part=part: trial.values[part], "target_name": name}
        found[f"history-{name}"] = partial(draw.plot_optimization_history, study, **shown)
        found[f"importances-{name}"] = partial(draw.plot_param_importances, study, **shown)
    if len(names) > 1:
        found["front"] = partial(draw.plot_pareto_front, study, target_names=names)
    plotted = {f"{name}.png": _figure(plot) for name, plot in found.items()}
    return {name: figure for name, figure in plotted.items() if figure}


def _figure(plot: Callable[[], Any]) -> Figure | None:
    with plt.rc_context():  # Optuna sets the style "ggplot" for the whole process
        try:
            figure = plot().figure
        except (RuntimeError, ValueError):  # importances need at least two different trials
            return None
        plt.close(figure)
    return figure
