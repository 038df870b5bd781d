"""Optuna's own figures of a study, in the report's colours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.visualization import matplotlib as optuna_charts

from cifar_hpo.analysis.comparison import Comparison
from cifar_hpo.report.style import INK


def parallel_coordinates(comparison: Comparison, keys: Sequence[str]) -> Figure:
    """A line for each trial, through its value of each parameter."""
    figure = _drawn(optuna_charts.plot_parallel_coordinate, comparison, params=list(keys))
    figure.set_size_inches(max(7, 1.2 * len(keys)), 3.6)
    return figure


def importances(comparison: Comparison, keys: Sequence[str]) -> Figure:
    """How much each parameter tells the best trials from the others: PED-ANOVA (Watanabe and
    others, IJCAI 2023)."""
    evaluator = PedAnovaImportanceEvaluator()
    return _drawn(
        optuna_charts.plot_param_importances, comparison, params=list(keys), evaluator=evaluator
    )


def history(comparison: Comparison) -> Figure:
    """Each trial's value and the best so far."""
    figure = _drawn(optuna_charts.plot_optimization_history, comparison)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _drawn(draw: Callable[..., Any], comparison: Comparison, **options: Any) -> Figure:
    """One of Optuna's charts of the first metric, in the report's colours."""
    options["target_name"] = comparison.metrics[0]
    if len(comparison.metrics) > 1:
        options["target"] = lambda trial: trial.values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its charts experimental
        figure = figure_of(draw(comparison.study, **options))
    figure.set_size_inches(7, 3.6)
    figure.set_facecolor("none")
    for axes in figure.axes:
        _recolour(axes)
    return figure


def figure_of(drawn: Any) -> Figure:
    """The figure of what a function of `optuna.visualization.matplotlib` returns.

    That is axes, of some functions an array of them, and these functions draw on a figure of their
    own; Optuna documents neither.
    """
    axes = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure: Figure = axes.figure
    return figure


def _recolour(axes: Axes) -> None:
    """Write in ink, on no background and without a title."""
    axes.set_facecolor("none")
    axes.tick_params(colors=INK)
    texts = [axes.xaxis.label, axes.yaxis.label, axes.title]
    for text in [*texts, *axes.get_xticklabels(), *axes.get_yticklabels()]:
        text.set_color(INK)
    axes.set_title("", loc="left")
    axes.set_title("", loc="center")
