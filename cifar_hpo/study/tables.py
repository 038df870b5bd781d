"""Rankings as tables: `trial_table` is what the end of a sweep, MLflow and `studies show` print.

`parameter_columns` say what was tried, in this and in the report's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cifar_hpo.metrics import spread_name
from cifar_hpo.study.ranking import FinishedTrial, pareto_front
from cifar_hpo.study.space import Value
from cifar_hpo.table import Table

MAX_PARAMETER_COLUMNS = 6
"""Parameters that get a column each; more would not fit beside each other."""

ERROR_LENGTH = 100
"""Characters of a trial's error that a table shows; the run's traceback has all."""

MISSING = "–"


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
    rows = []
    if has_parameter_columns(keys):
        for trial in ranking:
            rows.append([value_text(trial.params.get(key, "")) for key in keys])
        return Table([key.lstrip("+") for key in keys], rows)
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
    parts = []
    for key in keys:
        if key in params:
            name = key.rsplit(".", 1)[-1].lstrip("+")
            parts.append(f"{name}={value_text(params[key])}")
    return " ".join(parts)
