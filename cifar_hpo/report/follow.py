"""`--watch`: the leaderboard and the running trials, drawn anew until Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from optuna.storages import BaseStorage
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.console import sparkline
from cifar_hpo.errors import StudyError
from cifar_hpo.report.runs import StoredRuns
from cifar_hpo.report.tables import leaderboard
from cifar_hpo.table import Table

INTERVAL = 2.0
"""Seconds between two looks at the storage."""


def follow(study: str, storage: BaseStorage, runs: StoredRuns | None, console: Console) -> None:
    """Show how a study goes on a terminal, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(screen(compare_study(study, storage), runs), refresh=True)
            time.sleep(INTERVAL)


def screen(comparison: Comparison, runs: StoredRuns | None) -> Group:
    """What is shown at one look: the leaderboard, and below it the trials that are running."""
    title = f"study {comparison.name}: {len(comparison.trials)} trials done"
    parts: list[RenderableType] = [Text(title, style="bold"), leaderboard(comparison)]
    if runs and comparison.run_id:
        metric = comparison.metrics[0]
        try:
            running = runs.running(comparison.run_id, metric)
        except StudyError as error:  # a server may be back at the next look
            return Group(*parts, Text(f"without running trials: {error}", style="yellow"))
        if running:
            parts += [Text(""), running_table(running, metric).to_rich()]
    return Group(*parts)


def running_table(running: Sequence[tuple[str, Sequence[float]]], metric: str) -> Table:
    """A row for each running trial, of which there are a name and its values so far."""
    rows = []
    for name, values in running:
        latest = f"{values[-1]:.4f}" if values else "…"
        rows.append([name, str(len(values)), latest, sparkline(values)])
    return Table(["running", "epochs", metric, "so far"], rows)
