"""Trials a second that several processes get from one study in PostgreSQL, and how long an ask and
a tell take them as the study grows.

    python tests/benchmarks/hosts.py [--trials 10000] [--processes 4] [--server URL]

Stub trials, which take no time: each process asks and tells as fast as it can, so most of both is
waiting for the turns of the others. A PostgreSQL of its own is started, on this
machine and with its usual promises to the disk, unless the URL of one without a database is given.
Run by hand; the README quotes it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from growth import METRICS_OF_A_TRIAL, print_row
from studies import options

sys.path.insert(0, str(Path(__file__).parents[1]))

from support_postgres import new_database, postgres_server

from cifar_hpo.study.space import Choices, Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FINISHED, TrialResult

STEPS = 10
"""Rows of the table."""


class Timed(NamedTuple):
    """A trial: its number, when it was told, and how long the ask and the tell took, in seconds."""

    number: int
    told: float
    ask: float
    tell: float


def work(database: str, side: int) -> list[Timed]:
    """What one process has of a grid of side × side cells."""
    choices = Choices({n: str(n) for n in range(side)})
    space = Space({"+a": choices, "+b": choices})
    draw = random.Random(os.getpid())
    timed: list[Timed] = []
    given = {**options("grid", side**2), "storage": database}
    with Study.open("growth", space, given, {}) as study:
        specs = study.specs()
        while True:
            asked = time.perf_counter()
            spec = next(specs, None)
            got = time.perf_counter()
            if spec is None:
                if len(study.finished_trials()) == side**2:
                    return timed
                continue
            metrics = {f"metric_{n}": draw.random() for n in range(METRICS_OF_A_TRIAL)}
            result = TrialResult(FINISHED, {"y": draw.random(), **metrics}, seconds=1.0)
            study.tell(spec, result)
            told = time.perf_counter()
            timed.append(Timed(spec.number, time.time(), got - asked, told - got))


def print_table(trials: Sequence[Timed], began: float) -> None:
    """A row for each tenth of the study."""
    ordered = sorted(trials, key=lambda trial: trial.told)
    step = len(ordered) // STEPS
    print_row("trials", "a second", "ask, ms", "99 %", "tell, ms", "99 %")
    for end in range(step, len(ordered) + 1, step):
        part = ordered[end - step : end]
        rate = step / (part[-1].told - began)
        began = part[-1].told
        cells = [f"{end:,}", f"{rate:.0f}"]
        for times in ([trial.ask for trial in part], [trial.tell for trial in part]):
            cells += [f"{np.median(times) * 1000:.1f}", f"{np.quantile(times, 0.99) * 1000:.1f}"]
        print_row(*cells)


def measure(server: str, trials: int, processes: int) -> None:
    side = round(trials**0.5)
    database = new_database(server)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        began = time.time()
        parts = pool.starmap(work, [(database, side)] * processes)
    everything = [trial for part in parts for trial in part]
    numbers = {trial.number for trial in everything}
    assert len(numbers) == len(everything) == side**2, "each configuration once"
    print_table(everything, began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--server", help="such as postgresql://me@host")
    given = parser.parse_args()
    if given.server:
        measure(given.server, given.trials, given.processes)
        return
    with postgres_server(is_safe=True) as server:
        measure(server.url, given.trials, given.processes)


if __name__ == "__main__":
    main()
