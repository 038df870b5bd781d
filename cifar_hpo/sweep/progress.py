"""What a person sees: a live table on a terminal, plain lines elsewhere, and at the end the ranking
and the way on."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cifar_hpo.config.app import SYNTHETIC_NOTICE
from cifar_hpo.console import PLAIN, Heartbeat, clock, terminal
from cifar_hpo.study.ranking import FinishedTrial, parameter_columns, pareto_front
from cifar_hpo.study.study import Study
from cifar_hpo.sweep.estimate import Timed, sweep_seconds_left
from cifar_hpo.trial import FINISHED, PRUNED, TrialResult, TrialSpec
from cifar_hpo.workers.pool import Pool, Worker

SHOWN = 10
"""Rows of the ranking; MLflow has them all."""

BARS = "▁▂▃▄▅▆▇█"


class Screen:
    """Follows a sweep from what the pool knows.

    On a terminal a table is drawn anew twice a second. Elsewhere there is a line for each trial
    that ends, and one for all that run: as soon as the first epoch is timed, and then whenever
    nothing was printed for a while.
    """

    def __init__(self, study: Study, pool: Pool | None, console: Console) -> None:
        self.study, self.pool, self.console = study, pool, console
        self.started, self.before = time.monotonic(), len(study.told())
        self.timed: list[Timed] = []
        self.is_live = console.is_terminal and pool is not None
        self.heartbeat = Heartbeat(self.print_status, soon=self._has_estimate)

    def ended(self, spec: TrialSpec, result: TrialResult, counted: bool) -> None:
        """A trial ended; without a terminal a line tells."""
        if counted and spec.attempt == 0 and result.state in (FINISHED, PRUNED):
            self.timed.append((result.seconds, self.study.cost(spec.params)))
        if self.is_live:
            return
        name = self.study.metrics[0]
        value = result.metrics.get(name)
        what = (
            f"{name} {value:.4f}" if value is not None else f"{result.state} {result.error}".strip()
        )
        again = "" if counted else ", will be tried again"
        line = f"{self._count()} trial {spec.number}: {_params(spec.params)}: {what}"
        self.console.print(f"{line} in {result.seconds:.1f} s{again}", **PLAIN)
        self.heartbeat.heard()

    def print_status(self) -> None:
        """One line: how far the sweep is, and each worker's trial, epoch, value and time left."""
        spent = clock(time.monotonic() - self.started)
        parts = [f"{self._count()} after {spent}{self._time_left()}"]
        if self.pool is None:
            numbers = ", ".join(str(number) for number in list(self.study.running))
            parts.append(f"with the launcher: {numbers or 'nothing yet'}")
        for worker, spec in self._running():
            epoch, value, left = _progress(worker)
            parts.append(f"trial {spec.number}: epoch {epoch}, {value}, {left} left")
        self.console.print(" | ".join(parts), **PLAIN)

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False)
        metric = self.study.metrics[0]
        for column in ("worker", "trial", "configuration", "epoch", metric, "so far", "time left"):
            table.add_column(column)
        for worker, spec in self._running():
            epoch, value, left = _progress(worker)
            curve = sparkline(worker.values)
            cells = (worker.slot, spec.number, _params(spec.params), epoch, value, curve, left)
            table.add_row(*(Text(str(cell)) for cell in cells))
        best = next(iter(self.study.ranking()), None)
        line = ""
        if best and best.value is not None:
            line = f"best so far: trial {best.number}, {_params(best.params)}: {best.value:.4f}"
        return Group(Text(self._title(), style="bold"), table, Text(line))

    def _title(self) -> str:
        planned, done = self.study.planned(), len(self.study.told())
        spent = clock(time.monotonic() - self.started)
        said = f"study {self.study.name}: {done} of {planned or '?'} trials done after {spent}"
        return said + self._time_left()

    def _count(self) -> str:
        """Counted trials of all planned ones."""
        return f"[{len(self.study.told())}/{self.study.planned() or '?'}]"

    def _running(self) -> list[tuple[Worker, TrialSpec]]:
        """Busy workers and what each tries, as of now: the sweep goes on in another thread."""
        workers = list(self.pool.workers) if self.pool else []
        return [(worker, job.spec) for worker in workers if (job := worker.job)]

    def _has_estimate(self) -> bool:
        return any(worker.seconds_left is not None for worker, _ in self._running())

    def _time_left(self) -> str:
        if not self.pool:
            return ""
        slots = self.pool.n_workers
        left = sweep_seconds_left(self.study, self._running(), slots, self.timed)
        return "" if left is None else f", about {clock(left)} left"


def _progress(worker: Worker) -> tuple[str, str, str]:
    """Epoch of epochs, the value so far and the time left of a worker's trial."""
    progress, left, values = worker.progress, worker.seconds_left, worker.values
    epoch = f"{progress.epoch}/{progress.epochs}" if progress.epochs else "starting"
    value = f"{values[-1]:.4f}" if values else "…"
    return epoch, value, "…" if left is None else clock(left)


@contextlib.contextmanager
def screen(study: Study, pool: Pool | None) -> Iterator[Screen]:
    """The screen while the sweep runs."""
    console = terminal()
    shown = Screen(study, pool, console)
    planned = study.planned()
    resumed = f", {shown.before} done before" if shown.before else ""
    console.print(f"study {study.name}: {planned or 'any number of'} trials{resumed}", **PLAIN)
    if shown.is_live:
        with Live(shown, console=console, refresh_per_second=2, transient=True):
            yield shown
    else:
        with shown.heartbeat:
            yield shown


def note(study: Study) -> str:
    """The ranking as Markdown, for the study's run."""
    ranking = study.ranking()[:SHOWN]
    columns, rows = ranking_rows(study, ranking)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines
    )


def summary(study: Study, plan: Any, run: Any, pool: Any) -> None:
    """The ranking, where everything is, and what to type next."""
    console = terminal()
    ranking = study.ranking()
    if not ranking:
        return
    console.print(ranking_table(study, ranking[:SHOWN]))
    if len(ranking) > SHOWN:
        console.print(f"… and {len(ranking) - SHOWN} more", **PLAIN)
    if (
        any("synthetic" in told for told in plan.meaning["data"])
        and plan.base.data.source == "auto"
    ):
        console.print(SYNTHETIC_NOTICE, style="bold red", **PLAIN)
    if run:
        default = run.uri.startswith("sqlite:///") and run.uri.endswith("/mlflow.db")
        command = "mlflow ui" if default else f"mlflow ui --backend-store-uri {run.uri}"
        console.print(
            f"runs:   experiment {run.experiment_name} in {run.uri.removeprefix('sqlite:///')}",
            **PLAIN,
        )
        console.print(f"browse: {command}", **PLAIN)
        console.print(f"report: python -m cifar_hpo.report {study.name}", **PLAIN)
    if ranking[0].state == FINISHED and run:
        threads = [f"training.threads={pool.threads}"] if pool else []
        console.print(
            f"again:  python -m cifar_hpo {shlex.join([*plan.rerun_arguments(ranking[0].params), *threads])}",
            **PLAIN,
        )


def ranking_rows(study: Study, ranking: list[FinishedTrial]) -> tuple[list[str], list[list[str]]]:
    """Column names, and a row for each trial: rank, what varied, value, test accuracy, parameters,
    seconds and state."""
    shown = [
        name
        for name in ("test_accuracy", "parameters")
        if name not in study.metrics and any(name in told.metrics for told in ranking)
    ]
    best = pareto_front(ranking, study.directions) if len(study.metrics) > 1 else set()
    keys, cells = parameter_columns(ranking, study.space.dimensions)
    rows = []
    for rank, (told, cell) in enumerate(zip(ranking, cells, strict=True), start=1):
        metrics = [_figure(name, told.metrics) for name in (*study.metrics, *shown)]
        state = (
            "FINISHED, Pareto front"
            if told.number in best
            else f"{told.state} {told.error[:100]}".strip()
        )
        rows.append([str(rank), str(told.number), *cell, *metrics, f"{told.seconds:.1f}", state])
    return ["rank", "trial", *keys, *study.metrics, *shown, "seconds", "state"], rows


def ranking_table(study: Study, ranking: list[FinishedTrial]) -> Table:
    """The ranking for a terminal."""
    return table(*ranking_rows(study, ranking))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Only what is long is folded: configurations, and why a trial ended."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, no_wrap=column not in ("configuration", "state"))
    for row in rows:
        drawn.add_row(*map(Text, row))  # as it is: rich would take [flip,shift] for markup
    return drawn


def _figure(name: str, metrics: Mapping[str, float]) -> str:
    """A metric with its spread over replicas, where there is one."""
    if name not in metrics:
        return "–"
    if name == "parameters":
        return f"{metrics[name]:,.0f}"
    spread = metrics.get(f"{name}_std")
    return f"{metrics[name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def sparkline(values: Sequence[float]) -> str:
    """A learning curve in one line, from its lowest value to its highest; the latest twenty."""
    values = values[-20:]
    low, high = min(values, default=0), max(values, default=0)
    return "".join(
        BARS[int((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in values
    )


def _params(params: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items()) or "base"
