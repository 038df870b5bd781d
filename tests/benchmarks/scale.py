"""What a trial leaves in each store, and how samplers and the report grow with their number:
the figures of cifar_hpo/SCALE.md.

    python tests/benchmarks/scale.py [--trials 1000] [--folder FOLDER]

Rows and bytes are those of a real sweep of small CNNs, and of stub trials in a PostgreSQL
of its own; times are wall times with nothing else running. Run by hand.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from growth import METRICS_OF_A_TRIAL, print_row
from studies import options

sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
from support import images, lay_out
from support_postgres import PostgresServer, new_database, postgres_server

from cifar_hpo.study.space import Choices, Interval, Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FINISHED, TrialResult

CNN_TRIALS = 6
EPOCHS = 10


def stub_result(draw: random.Random) -> TrialResult:
    metrics = {f"metric_{n}": draw.random() for n in range(METRICS_OF_A_TRIAL)}
    return TrialResult(FINISHED, {"y": draw.random(), **metrics}, seconds=1.0)


def optuna_in_postgres(server: PostgresServer, trials: int) -> None:
    """Statements, transactions and bytes of a stub trial in Optuna's storage."""
    database = new_database(server.url)
    draw = random.Random(0)
    space = Space({"+a": Choices({n: str(n) for n in range(trials)})})
    given = {**options("grid", trials), "storage": database}
    with Study.open("s", space, given, {}) as study:
        before = database_figures(database)
        for spec in study.specs():
            assert spec
            study.tell(spec, stub_result(draw))
    after = database_figures(database)
    print_row("PostgreSQL", "a trial")
    for name, figure in after.items():
        print_row(name, f"{(figure - before[name]) / trials:,.1f}")


def database_figures(url: str) -> dict[str, float]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        time.sleep(1)
        query = (
            "SELECT xact_commit, tup_inserted, tup_updated, pg_database_size(datname) "
            "FROM pg_stat_database WHERE datname = current_database()"
        )
        row = connection.execute(query).fetchone()
    assert row
    return dict(zip(("transactions", "rows in", "rows updated", "bytes"), row, strict=True))


def cnn_in_mlflow(folder: Path) -> None:
    """Rows and bytes that a CNN of EPOCHS epochs leaves in MLflow's database, and its artifacts."""
    (x_train, y_train), (x_test, y_test) = images(1000, 0), images(500, 1)
    np.savez(folder / "a.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    command = [sys.executable, "-m", "cifar_hpo", "-m", "data=npz", "data.path=a.npz"]
    command += [f"training.epochs={EPOCHS}", f"training.seed=range({CNN_TRIALS})"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    print_row("MLflow", "a trial")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        tables = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        counts = {}
        for table in tables:
            counts[table] = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in sorted(counts, key=lambda table: -counts[table]):
            if counts[table] >= CNN_TRIALS:
                print_row(table, f"{counts[table] / CNN_TRIALS:.1f}")
    print_row("rows", f"{sum(counts.values()) / CNN_TRIALS:.0f}")
    artifacts = sum(
        file.stat().st_size for file in (folder / "mlruns").rglob("*") if "artifacts" in file.parts
    )
    print_row("artifacts, KiB", f"{artifacts / CNN_TRIALS / 1024:.0f}")
    outputs = sum(
        file.stat().st_size for file in (folder / "mlruns" / "outputs").rglob("*") if file.is_file()
    )
    print_row("folder, KiB", f"{outputs / CNN_TRIALS / 1024:.0f}")


def steps(trials: int) -> Iterator[int]:
    """10, 32, 100, 316 … up to the number asked for."""
    exponent = 2
    while 10 ** (exponent / 2) <= trials:
        yield round(10 ** (exponent / 2))
        exponent += 1


def samplers(trials: int) -> None:
    """Milliseconds of one ask behind so many finished trials, four keys, in memory."""
    space = Space(
        {
            "+a": Interval(0.0, 1.0, log=False),
            "+b": Interval(1e-4, 1e-1, log=True),
            "+c": Choices({n: str(n) for n in range(8)}),
            "+d": Choices({n: str(n) for n in range(3)}),
        }
    )
    print_row("an ask, ms", "random", "tpe", "nsgaii", "cmaes")
    for count in steps(trials):
        cells = []
        for sampler in ("random", "tpe", "nsgaii", "cmaes"):
            name = f"{sampler}-{count}"
            draw = random.Random(0)
            with Study.open(
                name, space, {**options("random", count), "storage": None}, {}
            ) as study:
                for spec in study.specs():
                    assert spec
                    study.tell(spec, TrialResult(FINISHED, {"y": draw.random()}, seconds=1.0))
            given = {**options(sampler, count + 5), "storage": None}
            with Study.open(name, space, given, {}) as study:
                times = []
                specs = study.specs()
                for _ in range(5):
                    started = time.perf_counter()
                    spec = next(specs)
                    times.append(time.perf_counter() - started)
                    assert spec
                    study.tell(spec, TrialResult(FINISHED, {"y": 0.5}, seconds=1.0))
            cells.append(f"{np.median(times) * 1000:.0f}")
        print_row(f"{count:,}", *cells)


def report(folder: Path, trials: int) -> None:
    """Seconds and bytes of the report's page."""
    rng = np.random.default_rng(0)
    print_row("the report", "seconds", "page, KiB")
    for count in steps(trials):
        outcomes = []
        for place in range(count):
            params = {"a": str(place % 10), "b": str(place // 10)}
            outcomes.append((params, list(0.5 + place % 10 / 100 + rng.normal(0, 0.01, 3))))
        here = folder / f"report-{count}"
        here.mkdir()
        lay_out(here, outcomes)
        started = time.perf_counter()
        command = [sys.executable, "-m", "cifar_hpo.report"]
        subprocess.run(command, cwd=here, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        (page,) = here.rglob("*.html")
        print_row(f"{count:,}", f"{seconds:.1f}", f"{page.stat().st_size / 1024:,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        os.chdir(folder)
        cnn_in_mlflow(folder)
        with postgres_server(is_safe=True) as server:
            optuna_in_postgres(server, min(given.trials, 300))
        samplers(given.trials)
        report(folder, given.trials)


if __name__ == "__main__":
    main()
