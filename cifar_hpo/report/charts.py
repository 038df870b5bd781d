"""The report's charts: each function draws one `Figure` from what a study found. Ink is one colour,
so that a page can change it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import optuna
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from optuna.visualization import matplotlib as optuna_charts
from sklearn.metrics import ConfusionMatrixDisplay

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.statistics import confidence_interval
from cifar_hpo.study.ranking import FinishedTrial, pareto_front

INK = "#010203"
"""Nearly black on a picture; a page puts its own text colour in its place."""

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d")
STATES = {"FINISHED": COLOURS[0], "PRUNED": COLOURS[1], "FAILED": COLOURS[3], "KILLED": COLOURS[5]}
STYLE: Any = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
STYLE |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "cifar_hpo",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
STYLE |= {
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.axisbelow": True,
}

Curves = Mapping[int, Sequence[tuple[int, float]]]
"""Epoch and value, for each replica."""


def learning_curves(curves: Mapping[str, Curves], metric: str) -> Figure:
    """The mean over replicas of each configuration, in the band of its 95 % intervals."""
    figure, axes = _axes()
    for name, replicas in curves.items():
        by_epoch: dict[int, list[float]] = {}
        for points in replicas.values():
            for epoch, value in points:
                by_epoch.setdefault(epoch, []).append(value)
        epochs = sorted(by_epoch)
        means = [float(np.mean(by_epoch[epoch])) for epoch in epochs]
        (line,) = axes.plot(epochs, means, label=name, marker=".")
        bands = [
            confidence_interval(by_epoch[epoch]) or (mean, mean)
            for epoch, mean in zip(epochs, means, strict=True)
        ]
        axes.fill_between(
            epochs,
            [low for low, _ in bands],
            [high for _, high in bands],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _bounded(axes, metric)
    axes.legend(fontsize=8)
    return figure


def effect(findings: Comparison, key: str) -> Figure:
    """The metric against one parameter: every configuration, and for each choice the mean with its
    95 % interval.

    Over replicas where a choice stands for one configuration, else over the configurations that
    have it.
    """
    figure, axes = _axes(4.2, 3.2)
    groups: dict[Any, list[Configuration]] = {}
    for one in findings.finished:
        if key in one.params:
            groups.setdefault(one.params[key], []).append(one)
    are_numbers = all(
        isinstance(choice, int | float) and not isinstance(choice, bool) for choice in groups
    )
    choices = sorted(groups, key=None if are_numbers else str)
    is_continuous = are_numbers and len(choices) > 12
    if is_continuous:
        places = [float(choice) for choice in choices]
        if min(places) > 0 and max(places) / min(places) > 50:
            axes.set_xscale("log")
    else:
        places = list(range(len(choices)))
        axes.set_xticks(
            places,
            [str(choice) for choice in choices],
            rotation=30 if max(len(str(one)) for one in choices) > 6 else 0,
        )
        axes.set_xlim(-0.5, len(choices) - 0.5)
    for place, choice in zip(places, choices, strict=True):
        several = len(groups[choice]) > 1
        values = (
            [one.value or 0.0 for one in groups[choice]]
            if several
            else list(groups[choice][0].values.values())
        )
        axes.plot([place] * len(values), values, ".", color=COLOURS[0], alpha=0.4)
        if not is_continuous and (limits := confidence_interval(values)):
            middle = sum(limits) / 2
            axes.errorbar(
                place,
                middle,
                yerr=limits[1] - middle,
                fmt="o",
                color=COLOURS[1],
                capsize=5,
                zorder=3,
            )
    axes.set(xlabel=key, ylabel=findings.metrics[0])
    _bounded(axes, findings.metrics[0])
    return figure


def parallel_coordinates(findings: Comparison, keys: Sequence[str]) -> Figure:
    figure = _of_optuna(optuna_charts.plot_parallel_coordinate, findings, params=list(keys))
    figure.set_size_inches(max(7, 1.2 * len(keys)), 3.6)
    return figure


def importances(findings: Comparison, keys: Sequence[str]) -> Figure:
    """How much of the metric's variation each parameter explains, by Optuna's default evaluator."""
    return _of_optuna(optuna_charts.plot_param_importances, findings, params=list(keys))


def history(findings: Comparison) -> Figure:
    figure = _of_optuna(optuna_charts.plot_optimization_history, findings)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def pruning(findings: Comparison) -> Figure:
    """Each trial's value after each epoch that a pruner judged; a line that ends early was pruned
    there."""
    figure, axes = _axes()
    for trial in findings.study.get_trials(deepcopy=False):
        if trial.intermediate_values:
            epochs, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
            was_pruned = trial.state is optuna.trial.TrialState.PRUNED
            axes.plot(
                epochs,
                values,
                color=STATES["PRUNED" if was_pruned else "FINISHED"],
                alpha=0.6,
                linewidth=1,
            )
            axes.plot(
                epochs[-1:],
                values[-1:],
                "x" if was_pruned else "o",
                color=STATES["PRUNED" if was_pruned else "FINISHED"],
                markersize=4,
            )
    axes.set(
        xlabel="epoch",
        ylabel=findings.metrics[0],
        title="blue: trained to the end; orange: pruned at the cross",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def trade_off(findings: Comparison) -> Figure:
    """The metric against parameters and against training time, with the configurations that none
    beats in both."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    costs = (("parameters", left), ("train_seconds", right))
    for name, axes in costs:
        _style(axes)
        known = [one for one in findings.finished if name in one.told.metrics]
        points = {one.told.number: (one.value, one.told.metrics[name]) for one in known}
        best = pareto_front(
            [_scored(one, name) for one in known], [findings.directions[0], "minimize"]
        )
        for numbers, colour, label in (
            (points.keys() - best, COLOURS[0], None),
            (best, COLOURS[1], "Pareto front"),
        ):
            chosen = sorted((points[number] for number in numbers), key=lambda point: point[1])
            axes.plot(
                [cost for _, cost in chosen],
                [value for value, _ in chosen],
                "o-" if label else "o",
                color=colour,
                label=label,
                markersize=5,
            )
        axes.set(xlabel={"parameters": "parameters", "train_seconds": "training, seconds"}[name])
    left.set(ylabel=findings.metrics[0])
    left.legend()
    return figure


def _scored(one: Configuration, name: str) -> Any:
    return dataclasses.replace(one.told, values=[one.value or 0.0, one.told.metrics[name]])


def timeline(findings: Comparison) -> Figure:
    """Who trained what when; white is a gap. Times in which no worker had anything, as between two
    commands, are cut out."""
    figure, axes = _axes(8, 2.6)
    rows = sorted({_row(one) for one in findings.told if one.ended})
    axes.barh(rows, 0)  # in this order
    bars = sorted(
        ((one.ended - one.seconds, one) for one in findings.told if one.ended),
        key=lambda bar: bar[0],
    )
    cut, busy_until, origin = 0.0, bars[0][0], bars[0][0]
    for started, one in bars:
        if started - busy_until > 60:
            cut += started - busy_until
            axes.axvline((started - cut - origin) / 60, color=INK, linestyle=":")
        busy_until = max(busy_until, one.ended)
        row = _row(one)
        axes.barh(
            row,
            one.seconds / 60,
            left=(started - cut - origin) / 60,
            color=STATES.get(one.state, INK),
            edgecolor="white",
            linewidth=0.5,
        )
        if len(bars) <= 40:
            axes.text(
                (started - cut - origin + one.seconds / 2) / 60,
                row,
                str(one.number),
                ha="center",
                va="center",
                color="white",
                fontsize=7,
            )
    axes.set(
        xlabel="minutes",
        title=", ".join(
            f"{colour}: {state}"
            for state, colour in (("FINISHED", "blue"), ("PRUNED", "orange"), ("FAILED", "red"))
        ),
    )
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    return figure


def _row(one: FinishedTrial) -> str:
    return "others" if one.worker is None else f"worker {one.worker}"


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Test images by true and predicted class."""
    figure, axes = _axes(5.4, 4.8)
    shown = ConfusionMatrixDisplay(matrix, display_labels=list(classes))
    shown.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        xticks_rotation=45,
        values_format="d",
        include_values=len(classes) <= 20,
    )
    axes.grid(visible=False)
    return figure


def per_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """The share of each class's test images that was recognised."""
    figure, axes = _axes(4.2, 4.8)
    shares = np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)
    bars = axes.barh(list(classes), shares, color=COLOURS[0])
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on test images", xlim=(0, 1.1))
    return figure


def misclassified(images: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Images (n, 32, 32, 3) with what they are and what they were taken for."""
    columns = 8
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(9, 1.35 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=7)
    return figure


def _axes(width: float = 7, height: float = 3.6) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(width, height))
    _style(axes)
    return figure, axes


def _style(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.grid(visible=True, color=INK, alpha=0.12)


def _bounded(axes: Any, metric: str) -> None:
    """Few replicas have intervals that reach beyond what a share can be."""
    if metric.endswith("accuracy"):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1))


def _of_optuna(draw: Any, findings: Comparison, **options: Any) -> Figure:
    """One of Optuna's charts in our colours."""
    options["target_name"] = findings.metrics[0]
    if len(findings.metrics) > 1:
        options["target"] = lambda trial: trial.values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its charts experimental
        drawn = draw(findings.study, **options)
    figure: Figure = (drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn).figure
    figure.set_size_inches(7, 3.6)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=INK)
        for text in (
            axes.xaxis.label,
            axes.yaxis.label,
            axes.title,
            *axes.get_xticklabels(),
            *axes.get_yticklabels(),
        ):
            text.set_color(INK)
        for place in ("left", "center"):
            axes.set_title("", loc=place)
    figure.set_facecolor("none")
    return figure
