"""What grows with the number of trials: memory of the parent, and the time of an ask, of a tell and
of a redraw of the screen.

    python tests/benchmarks/growth.py [--trials 10000] [--folder FOLDER]

First a study alone, a grid in SQLite; then a whole sweep of stub trials through study and workers.
Times are the parent's processor time, so that a busy disk or machine changes them little. Run by
hand; the README quotes it. --folder: for what is written; a temporary one unless said.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from studies import APP, SWEEP, options

from cifar_hpo.study.space import Choices, Space
from cifar_hpo.study.study import Study
from cifar_hpo.sweep.progress import Screen
from cifar_hpo.trial import FINISHED, TrialResult

STEPS = 10
"""Rows of each table."""

METRICS_OF_A_TRIAL = 20
"""Numbers that a trial comes to, about as many as those of a training."""


def mebibytes(process: psutil.Process) -> int:
    return int(process.memory_info().rss / 2**20)


def print_row(*cells: object) -> None:
    Console().print("".join(f"{cell!s:>15}" for cell in cells), highlight=False)


def study_alone(trials: int) -> None:
    """Ask, tell and redraw at each step, milliseconds of processor time."""
    side = round(trials**0.5)
    choices = Choices({n: str(n) for n in range(side)})
    space = Space({"+a": choices, "+b": choices})
    draw = random.Random(0)
    names = [f"metric_{n}" for n in range(METRICS_OF_A_TRIAL)]
    spent = {"ask": 0.0, "tell": 0.0, "redraw": 0.0}
    step = side**2 // STEPS
    print_row("a study alone", *(f"{name}, ms" for name in spent), "MiB")

    def timed(name: str, action: Callable[[], Any]) -> Any:
        started = time.process_time()
        done = action()
        spent[name] += time.process_time() - started
        return done

    with Study.open("growth", space, options("grid", side**2), {}) as study:
        screen = Screen(study, None, Console(quiet=True, width=200))
        specs = study.specs()
        while spec := timed("ask", lambda: next(specs, None)):
            metrics = {"y": draw.random()} | {name: draw.random() for name in names}
            result = TrialResult(FINISHED, metrics, seconds=1.0)
            told = spec
            timed("tell", lambda: study.tell(told, result))  # noqa: B023  called at once
            timed("redraw", lambda: screen.console.print(screen))
            done = len(study.finished_trials())
            if done % step == 0:
                times = [f"{seconds / step * 1000:.1f}" for seconds in spent.values()]
                print_row(f"{done:,}", *times, str(mebibytes(psutil.Process())))
                spent = dict.fromkeys(spent, 0.0)


def whole_sweep(trials: int) -> None:
    """Milliseconds of processor time and of wall time that a trial takes the parent at each step,
    from the command line to its end."""
    side = round(trials**0.5)
    Path("app.py").write_text(APP)
    command = [*SWEEP, f"+x=range(0,{side})", f"+y=range(0,{side})"]
    print_row("a whole sweep", "processor, ms", "wall, ms", "MiB")
    step = side**2 // STEPS
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        parent = psutil.Process(process.pid)
        wall = processor = 0.0
        for line in process.stdout:
            if not line.startswith("["):
                continue
            done = line[1:].partition("/")[0]
            if not done.isdigit() or int(done) % step:
                continue
            now, used = time.monotonic(), sum(parent.cpu_times()[:2])
            if wall:
                each = [(used - processor) / step, (now - wall) / step]
                times = [f"{seconds * 1000:.1f}" for seconds in each]
                print_row(f"{int(done):,}", *times, str(mebibytes(parent)))
            wall, processor = now, used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        os.chdir(folder)
        study_alone(given.trials)
        whole_sweep(given.trials)


if __name__ == "__main__":
    main()
