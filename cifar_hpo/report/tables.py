"""The report's table of configurations, for a terminal, a page and MLflow.

`configuration_table` builds the `Table`; `leaderboard` and `note` show its first rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from cifar_hpo.analysis.comparison import TEST_ACCURACY, Comparison, Configuration
from cifar_hpo.analysis.statistics import p_text
from cifar_hpo.analysis.verdict import verdict
from cifar_hpo.study.tables import (
    MISSING,
    has_parameter_columns,
    metric_text,
    parameter_columns,
    state_text,
)
from cifar_hpo.table import Table

if TYPE_CHECKING:
    import rich.table

MAX_ROWS = 10
"""Rows that a terminal and MLflow show; the page has them all."""


def configuration_table(comparison: Comparison) -> Table:
    """A row for each configuration: rank, what varied, value, interval, place beside the best, and
    what it took."""
    configurations = comparison.configurations
    trials = [configuration.trial for configuration in configurations]
    parameters = parameter_columns(trials, comparison.keys)
    has_numbers = not has_parameter_columns(comparison.keys)
    has_tests = TEST_ACCURACY not in comparison.metrics and any(
        configuration.test_accuracies for configuration in configurations
    )
    has_seeds = _has_seeds(configurations)
    columns = ["rank"]
    if has_numbers:
        columns.append("trial")
    columns += [*parameters.columns, *comparison.metrics]
    if has_seeds:
        columns.append("seeds")
    columns += ["95 %", "against the best"]
    has_new_images = any(configuration.new_images for configuration in configurations)
    if has_tests:
        columns += ["test accuracy", "on new images, 95 %"][: 1 + has_new_images]
    has_sizes = any("parameters" in trial.metrics for trial in trials)
    if has_sizes:
        columns.append("parameters")
    columns += ["seconds", "state"]
    rows = []
    for rank, (configuration, cells) in enumerate(
        zip(configurations, parameters.rows, strict=True), start=1
    ):
        trial = configuration.trial
        row = [str(rank)]
        if has_numbers:
            row.append(str(trial.number))
        row += cells
        row += _values(configuration, len(comparison.metrics))
        if has_seeds:
            row.append(_seeds(configuration))
        row.append(_interval(configuration, comparison.metrics[0]))
        row.append(_place(configuration, rank))
        if has_tests:
            row += _tests(configuration)[: 1 + has_new_images]
        if has_sizes:
            row.append(metric_text("parameters", trial.metrics))
        row.append(f"{configuration.seconds:.1f}")
        row.append(state_text(trial))
        rows.append(row)
    return Table(columns, rows)


def leaderboard(comparison: Comparison, limit: int = MAX_ROWS) -> rich.table.Table:
    """The best configurations, for a terminal."""
    table = configuration_table(comparison)
    drawn = _first_rows(table, limit).to_rich()
    if len(table.rows) > limit:
        drawn.caption = f"and {len(table.rows) - limit} more"
    return drawn


def note(comparison: Comparison) -> str:
    """The verdict and the best configurations as Markdown, for the study's run."""
    table = _first_rows(configuration_table(comparison), MAX_ROWS)
    return "\n\n".join([*verdict(comparison), table.to_markdown()])


def _first_rows(table: Table, limit: int) -> Table:
    return Table(table.columns, table.rows[:limit])


def _values(configuration: Configuration, metrics: int) -> list[str]:
    """The mean of the first metric over seeds, and its trial's values of the others."""
    first = _mean(configuration.values)
    if not configuration.trial.values:
        return [first] + [MISSING] * (metrics - 1)
    return [first] + [f"{value:.4f}" for value in configuration.trial.values[1:]]


def _mean(by_seed: Mapping[int, float]) -> str:
    return f"{fmean(by_seed.values()):.4f}" if by_seed else MISSING


def _tests(configuration: Configuration) -> list[str]:
    """The accuracy on the test images, and its limits on new ones."""
    limits = configuration.new_images
    on_new_images = f"{limits[0]:.4f} – {limits[1]:.4f}" if limits else MISSING
    return [_mean(configuration.test_accuracies), on_new_images]


def _has_seeds(configurations: Sequence[Configuration]) -> bool:
    """Whether means are over different numbers of seeds, or some did not finish."""
    counts = {len(configuration.values) for configuration in configurations if configuration.values}
    is_missing = any(
        configuration.missing and configuration.planned_seeds > 1
        for configuration in configurations
    )
    return len(counts) > 1 or is_missing


def _seeds(configuration: Configuration) -> str:
    finished = str(len(configuration.values))
    return f"{finished} of {configuration.planned_seeds}" if configuration.missing else finished


def _interval(configuration: Configuration, metric: str) -> str:
    if not configuration.values:
        return MISSING
    if not configuration.confidence_interval:
        return "one replica"
    low, high = configuration.confidence_interval
    if metric.endswith("accuracy"):  # two replicas may reach beyond what a share can be
        low, high = max(low, 0), min(high, 1)
    return f"{low:.4f} – {high:.4f}"


def _place(configuration: Configuration, rank: int) -> str:
    """How it stands beside the best."""
    if not configuration.values:
        return MISSING
    if not configuration.is_complete:
        return f"no verdict, {configuration.seeds_text}"
    if configuration.standing is None:  # behind those that are, or of several metrics
        return MISSING
    if rank == 1:
        return "best"
    if configuration.p_value is None:
        return "unknown"
    return "tied" if configuration.is_tied else f"worse, {p_text(configuration.p_value)}"
