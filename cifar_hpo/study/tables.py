"""Tables as text: `Table` is columns and rows, drawn for a terminal or written as Markdown.

`trial_table` is the one ranking of trials, which the end of a sweep, MLflow and `studies show` all
print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifar_hpo.metrics import spread_name
from cifar_hpo.study.ranking import FinishedTrial, pareto_front
from cifar_hpo.study.space import Value

if TYPE_CHECKING:
    import rich.table

MAX_PARAMETER_COLUMNS = 6
"""Parameters that get a column each; more would not fit beside each other."""

ERROR_LENGTH = 100
"""Characters of a trial's error that a table shows; the run's traceback has all."""

MISSING = "–"
FOLDED = ("configuration", "state")
"""Columns whose text may be long and is folded on a terminal."""


@dataclass(frozen=True)
class Table:
    """Column names, and for each row a text for each column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """A Markdown table; `|` in a cell, which would end it, becomes `/`."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines
        )

    def to_rich(self) -> rich.table.Table:
        """For a terminal; only what is long is folded."""
        import rich.table
        from rich.text import Text

        drawn = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            drawn.add_column(column, no_wrap=column not in FOLDED)
        for row in self.rows:
            drawn.add_row(*map(Text, row))  # as it is: rich would take [flip,shift] for markup
        return drawn


def trial_table(
    ranking: Sequence[FinishedTrial],
    metrics: Sequence[str],
    directions: Sequence[str],
    keys: Iterable[str],
) -> Table:
    """The ranking of trials: rank, what varied, metrics, test accuracy, parameters, seconds, state.

    metrics: those of the study, in its order, with a direction each. keys: the parameters that
    vary. Test accuracy and parameters are shown where trials have them.
    """
    extra = []
    for name in ("test_accuracy", "parameters"):
        if name not in metrics and any(name in trial.metrics for trial in ranking):
            extra.append(name)
    best = pareto_front(ranking, directions) if len(metrics) > 1 else set()
    parameters = parameter_columns(ranking, keys)
    rows = []
    for rank, (trial, cells) in enumerate(zip(ranking, parameters.rows, strict=True), start=1):
        figures = [metric_text(name, trial.metrics) for name in (*metrics, *extra)]
        state = "FINISHED, Pareto front" if trial.number in best else state_text(trial)
        place = [str(rank), str(trial.number)]
        rows.append([*place, *cells, *figures, f"{trial.seconds:.1f}", state])
    columns = ["rank", "trial", *parameters.columns, *metrics, *extra, "seconds", "state"]
    return Table(columns, rows)


def parameter_columns(ranking: Sequence[FinishedTrial], keys: Iterable[str]) -> Table:
    """What was tried, a row for each trial.

    Up to MAX_PARAMETER_COLUMNS parameters have a column each. More share one, which names all of
    the first trial's parameters, and of each other's those that differ from it.
    """
    keys = list(keys)
    if has_parameter_columns(keys):
        rows = [[value_text(trial.params.get(key, "")) for key in keys] for trial in ranking]
        return Table(keys, rows)
    rows = []
    for trial in ranking:
        first = ranking[0].params
        if trial is ranking[0]:
            rows.append([_short(trial.params, keys)])
            continue
        differing = [key for key in keys if trial.params.get(key) != first.get(key)]
        rows.append(["… " + _short(trial.params, differing)])
    return Table(["configuration"], rows)


def has_parameter_columns(keys: Sequence[str]) -> bool:
    """Whether each parameter has a column; else configurations go by their trial's number."""
    return len(keys) <= MAX_PARAMETER_COLUMNS


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """A metric with its spread over replicas, where there is one."""
    if name not in metrics:
        return MISSING
    if name == "parameters":
        return f"{metrics[name]:,.0f}"
    spread = metrics.get(spread_name(name))
    return f"{metrics[name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def state_text(trial: FinishedTrial) -> str:
    """How a trial ended, and why if it failed."""
    return f"{trial.state} {trial.error[:ERROR_LENGTH]}".strip()


def value_text(value: Value) -> str:
    """A parameter's value as a cell has it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace(" ", "")


def _short(params: Mapping[str, Value], keys: Iterable[str]) -> str:
    """Parameters by the last part of their keys."""
    there = [key for key in keys if key in params]
    return " ".join(f"{key.rsplit('.', 1)[-1]}={value_text(params[key])}" for key in there)
