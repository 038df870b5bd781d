"""Figures of a study: each function draws one `Figure` from a `Comparison`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.effects import Importance, choice_mean
from cifar_hpo.analysis.statistics import confidence_interval
from cifar_hpo.report.runs import Curves
from cifar_hpo.report.style import (
    BLUE,
    INK,
    ORANGE,
    STATE_COLOURS,
    as_text,
    limit_to_share,
    new_axes,
    style,
)
from cifar_hpo.study.ranking import FinishedTrial, pareto_front
from cifar_hpo.study.space import Value

ENDS = {
    TrialState.COMPLETE: (STATE_COLOURS["FINISHED"], "o"),
    TrialState.PRUNED: (STATE_COLOURS["PRUNED"], "x"),
}
"""The colour of a trial that has ended so, and the mark at its end."""

MAX_CHOICES = 12
"""Numbers of which each has a place of its own on an axis; more are drawn on a scale."""

LOG_RATIO = 50
"""Between the largest number and the smallest, from which on the scale is logarithmic."""

LONG_LABEL = 6
"""Characters from which on the labels of choices are turned."""

COST_LABELS = {"parameters": "parameters", "train_seconds": "training, seconds"}

PAUSE = 60.0
"""Seconds without any trial that a timeline leaves out."""

MAX_NUMBERED_BARS = 40


def learning_curves(curves: Mapping[str, Curves], metric: str) -> Figure:
    """The mean over replicas of each configuration, by name, in the band of its 95 % intervals."""
    figure, axes = new_axes()
    for name, replicas in curves.items():
        _learning_curve(axes, name, replicas)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    limit_to_share(axes, metric)
    axes.legend(fontsize=8)
    return figure


def _learning_curve(axes: Axes, name: str, replicas: Curves) -> None:
    by_epoch: dict[int, list[float]] = {}
    for points in replicas.values():
        for epoch, value in points:
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    means, lows, highs = [], [], []
    for epoch in epochs:
        values = by_epoch[epoch]
        mean = float(np.mean(values))
        low, high = confidence_interval(values) or (mean, mean)
        means.append(mean)
        lows.append(low)
        highs.append(high)
    (line,) = axes.plot(epochs, means, label=as_text(name), marker=".")
    axes.fill_between(epochs, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)


def effect(comparison: Comparison, key: str) -> Figure:
    """The metric against one parameter: every configuration, and the mean of each choice.

    The mean has its 95 % interval, as `choice_mean` has it.
    """
    figure, axes = new_axes(4.2, 3.2)
    by_choice = _by_choice(comparison, key)
    are_numbers = all(_is_number(choice) for choice in by_choice)
    choices = sorted(by_choice, key=None if are_numbers else str)
    is_scale = are_numbers and len(choices) > MAX_CHOICES
    positions = _scale(axes, choices) if is_scale else _categories(axes, choices)
    for position, choice in zip(positions, choices, strict=True):
        values = _values(by_choice[choice])
        axes.plot([position] * len(values), values, ".", color=BLUE, alpha=0.4)
        _mark_incomplete(axes, [(position, configuration) for configuration in by_choice[choice]])
        if not is_scale:
            _error_bar(axes, position, by_choice[choice])
    axes.set(xlabel=key, ylabel=comparison.metrics[0])
    limit_to_share(axes, comparison.metrics[0])
    return figure


def _by_choice(comparison: Comparison, key: str) -> dict[Value, list[Configuration]]:
    """The finished configurations by their value of a parameter."""
    groups: dict[Value, list[Configuration]] = {}
    for configuration in comparison.finished:
        if key in configuration.params:
            groups.setdefault(configuration.params[key], []).append(configuration)
    return groups


def _is_number(choice: Value) -> bool:
    return isinstance(choice, int | float) and not isinstance(choice, bool)


def _scale(axes: Axes, choices: Sequence[Value]) -> list[float]:
    """Let the axis be a scale, and return the numbers' places on it."""
    numbers = [float(choice) for choice in choices]
    if min(numbers) > 0 and max(numbers) / min(numbers) > LOG_RATIO:
        axes.set_xscale("log")
    return numbers


def _categories(axes: Axes, choices: Sequence[Value]) -> list[float]:
    """Give each choice a place with its name, and return the places."""
    labels = [as_text(str(choice)) for choice in choices]
    positions = [float(position) for position in range(len(choices))]
    is_long = max(len(label) for label in labels) > LONG_LABEL
    axes.set_xticks(positions, labels, rotation=30 if is_long else 0)
    axes.set_xlim(-0.5, len(choices) - 0.5)
    return positions


def _values(configurations: Sequence[Configuration]) -> list[float]:
    """The replicas' values of one configuration, the means of several."""
    if len(configurations) == 1:
        return list(configurations[0].values.values())
    return [configuration.value or 0.0 for configuration in configurations]


def _mark_incomplete(axes: Axes, configurations: Sequence[tuple[float, Configuration]]) -> None:
    """A cross and a text at those of which some seeds did not finish, by their place on the axis:
    their mean is over the others alone."""
    for position, configuration in configurations:
        if configuration.is_complete or configuration.value is None:
            continue
        point = position, configuration.value
        axes.plot(*point, "x", color=INK, zorder=4)
        axes.annotate(
            configuration.seeds_text, point, (4, 4), textcoords="offset points", fontsize=7
        )


def _error_bar(axes: Axes, position: float, configurations: Sequence[Configuration]) -> None:
    mean, limits = choice_mean(configurations)
    if limits is None:
        return
    axes.errorbar(position, mean, yerr=limits[1] - mean, fmt="o", color=ORANGE, capsize=5, zorder=3)


def importances(explained: Sequence[Importance]) -> Figure:
    """The shares of the variation, the largest at the top, with their 95 % intervals."""
    figure, axes = new_axes(7, 0.8 + 0.4 * len(explained))
    names = [as_text(importance.name) for importance in explained]
    axes.barh(names, [importance.share for importance in explained], color=BLUE)
    for name, importance in zip(names, explained, strict=True):
        if importance.interval:
            low, high = importance.interval
            axes.plot([low, high], [name, name], "|-", color=ORANGE)
    axes.set(xlabel="share of the variation", xlim=(0, 1))
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    return figure


def pruning(comparison: Comparison) -> Figure:
    """Each trial's value after each epoch that a pruner judged.

    A line that ends in a cross was pruned there; a grey one belongs to a trial that failed or has
    not ended.
    """
    figure, axes = new_axes()
    title = "blue: trained to the end; orange: pruned at the cross"
    for trial in comparison.study.get_trials(deepcopy=False):
        if trial.intermediate_values:
            _intermediate_values(axes, trial)
            if trial.state not in ENDS:
                title = "blue: trained to the end; orange: pruned; grey: failed or still open"
    axes.set(xlabel="epoch", ylabel=comparison.metrics[0], title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _intermediate_values(axes: Axes, trial: FrozenTrial) -> None:
    epochs = sorted(trial.intermediate_values)
    values = [trial.intermediate_values[epoch] for epoch in epochs]
    colour, marker = ENDS.get(trial.state, (INK, "."))
    axes.plot(epochs, values, color=colour, alpha=0.6, linewidth=1)
    axes.plot(epochs[-1:], values[-1:], marker, color=colour, markersize=4)


def trade_off(comparison: Comparison) -> Figure:
    """The metric against parameters and against training time, with the Pareto front of each."""
    figure, panels = plt.subplots(1, len(COST_LABELS), figsize=(8, 3.4), sharey=True)
    for axes, (cost, label) in zip(panels, COST_LABELS.items(), strict=True):
        style(axes)
        _trade_off(axes, comparison, cost)
        axes.set(xlabel=label)
    panels[0].set(ylabel=comparison.metrics[0])
    panels[0].legend()
    return figure


def _trade_off(axes: Axes, comparison: Comparison, cost: str) -> None:
    """All configurations that have this cost, and of the complete ones those that none beats in
    value and cost."""
    points = {}
    places = []
    trials = []
    for configuration in comparison.finished:
        trial = configuration.trial
        if cost in trial.metrics:
            point = (trial.metrics[cost], configuration.value or 0.0)
            points[trial.number] = point
            trials.append(dataclasses.replace(trial, values=[point[1], point[0]]))
            places.append((point[0], configuration))
    whole = {configuration.trial.number for configuration in comparison.complete}
    candidates = [trial for trial in trials if trial.number in whole]
    front = pareto_front(candidates, [comparison.directions[0], "minimize"])
    on_front = sorted(points[number] for number in points.keys() & front)
    behind = sorted(points[number] for number in points.keys() - front)
    _mark_incomplete(axes, places)
    _points(axes, behind, "o", BLUE)
    _points(axes, on_front, "o-", ORANGE, "Pareto front")


def _points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    form: str,
    colour: str,
    label: str | None = None,
) -> None:
    costs = [cost for cost, _ in points]
    values = [value for _, value in points]
    axes.plot(costs, values, form, color=colour, label=label, markersize=5)


@dataclass(frozen=True)
class Bar:
    """A trial on a timeline; start, in minutes since the first trial began, without pauses."""

    trial: FinishedTrial
    row: str
    start: float

    @property
    def minutes(self) -> float:
        return self.trial.seconds / 60


def timeline(comparison: Comparison) -> Figure:
    """Who trained what when; white is a gap. What lies between two commands is cut out."""
    figure, axes = new_axes(8, 2.6)
    bars, cuts = timeline_bars(comparison.trials)
    axes.barh(sorted({bar.row for bar in bars}), 0)  # in this order
    for cut in cuts:
        axes.axvline(cut, color=INK, linestyle=":")
    for bar in bars:
        colour = STATE_COLOURS.get(bar.trial.state, INK)
        axes.barh(
            bar.row, bar.minutes, left=bar.start, color=colour, edgecolor="white", linewidth=0.5
        )
        if len(bars) <= MAX_NUMBERED_BARS:
            _number(axes, bar)
    axes.set(xlabel="minutes", title="blue: FINISHED, orange: PRUNED, red: FAILED")
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    return figure


def timeline_bars(trials: Sequence[FinishedTrial]) -> tuple[list[Bar], list[float]]:
    """The trials whose end is known, in the order in which they began, and the minutes at which a
    pause was cut out.

    A pause is more than PAUSE seconds in which no trial ran, as between two commands.
    """
    timed = [trial for trial in trials if trial.ended]
    timed.sort(key=lambda trial: trial.ended - trial.seconds)
    if not timed:
        return [], []
    origin = busy_until = timed[0].ended - timed[0].seconds
    bars = []
    cuts = []
    for trial in timed:
        started = trial.ended - trial.seconds
        pause = started - busy_until
        if pause > PAUSE:
            origin += pause
            cuts.append((started - origin) / 60)
        busy_until = max(busy_until, trial.ended)
        row = "others" if trial.worker is None else f"worker {trial.worker}"
        bars.append(Bar(trial, row, (started - origin) / 60))
    return bars, cuts


def _number(axes: Axes, bar: Bar) -> None:
    """Write a trial's number on its bar."""
    axes.text(
        bar.start + bar.minutes / 2,
        bar.row,  # type: ignore[arg-type]  # the axis has names
        str(bar.trial.number),
        ha="center",
        va="center",
        color="white",
        fontsize=7,
    )
