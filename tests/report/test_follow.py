"""`--watch` in a terminal, and what it shows at one look."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from report.fake_runs import FakeRuns
from rich.console import Console
from support import clean, lay_out

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.report.follow import running_table, screen

DEADLINE = 60.0
"""Seconds within which a terminal shows what is waited for."""


def test_running_trials_are_shown_with_their_curves() -> None:
    table = running_table([("filters=4", [0.1, 0.3]), ("filters=8", [])], "val_accuracy")
    assert table.columns == ["running", "epochs", "val_accuracy", "so far"]
    assert table.rows == [["filters=4", "2", "0.3000", "▁█"], ["filters=8", "0", "…", ""]]


def test_a_look_shows_the_leaderboard_and_below_it_what_runs(tmp_path: Path) -> None:
    comparison = compare_study("laid", lay_out(tmp_path, [({"model.filters": "2"}, [0.5])]))
    with_run = replace(comparison, run_id="parent")
    assert "filters=4" in printed(with_run)
    assert "filters=4" not in printed(comparison), "MLflow has no run of it"


def printed(comparison: Comparison) -> str:
    file = io.StringIO()
    Console(file=file, width=150).print(screen(comparison, FakeRuns()))
    return file.getvalue()


def read_until(terminal: int, text: str, count: int) -> str:
    """What a terminal shows until it has shown a text so many times."""
    shown = ""
    deadline = time.monotonic() + DEADLINE
    while shown.count(text) < count:
        assert time.monotonic() < deadline, shown
        ready, _, _ = select.select([terminal], [], [], 1.0)
        if ready:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_watch_follows_until_interrupted(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, [0.6])], "followed")
    terminal, inner = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "cifar_hpo.report", "--watch"],
        cwd=tmp_path,
        env=clean() | {"COLUMNS": "150"},
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    title = "study followed: 2 trials done"
    shown = read_until(terminal, title, 2)
    assert "against the best" in shown
    watching.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # its end of the terminal is closed
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    assert watching.wait(20) == 0
