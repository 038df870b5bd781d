"""What lies between two trials of a worker, and what a worker takes of memory: `python
tests/benchmarks/between.py [--isa AVX2] [overrides]`.

From the end of a trial's MLflow run to the next one's first step: the result on its way, the next
job composed and sent, its run opened, the network made or found, its first step traced. The first
step is taken to begin one epoch, as long as the second one, before the end of the first, so what
the first scoring takes longer than the second counts too. Longest shapes go first, so a worker sees
each shape anew once and then again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import instruction_set
import mlflow
import psutil

SWEEP = [
    "-m",
    "data=synthetic",
    "model.filters=4,8,16",
    "optimizer.learning_rate=0.0005,0.001,0.002,0.004",
    "training.epochs=3",
]
SWEEP += [
    "data.train_size=2000",
    "model.kernel_size=3",
    "hydra.launcher.n_workers=1",
    "hydra.launcher.threads_per_worker=1",
]


def main() -> None:
    """Run the sweep, watch its processes, and read the rest from MLflow."""
    parser = argparse.ArgumentParser(description="What lies between two trials of a worker.")
    parser.add_argument("overrides", nargs="*")
    instruction_set.add_option(parser)
    given = parser.parse_args()
    print(instruction_set.use(given.isa))  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "cifar_hpo", *SWEEP, *given.overrides],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        most = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess, TypeError):
                most = max(
                    most,
                    *(
                        child.memory_info().rss
                        for child in psutil.Process(process.pid).children(recursive=True)
                    ),
                    0,
                )
            time.sleep(0.1)
        mlflow.set_tracking_uri(f"sqlite:///{Path(folder)}/mlflow.db")
        client = mlflow.MlflowClient()
        runs = mlflow.search_runs(
            search_all_experiments=True, filter_string="tags.kind = 'trial'", output_format="list"
        )
        runs.sort(key=lambda run: run.info.start_time)
        gaps: dict[bool, list[float]] = {True: [], False: []}
        seen = {runs[0].data.params["model.filters"]}
        for before, run in itertools.pairwise(runs):
            first, second = (
                point.timestamp
                for point in sorted(
                    client.get_metric_history(run.info.run_id, "loss"), key=lambda one: one.step
                )[:2]
            )
            shape = run.data.params["model.filters"]
            gaps[shape in seen].append((first - (second - first) - before.info.end_time) / 1000)
            seen.add(shape)
    for known, name in ((True, "a shape that the worker has seen"), (False, "a new shape")):
        values = gaps[known]
        print(  # noqa: T201
            f"{name}: median {statistics.median(values):.2f} s, most {max(values):.2f} s, of "
            f"{len(values)}"
        )
    print(f"resident memory of the largest process: {most / 2**30:.2f} GiB")  # noqa: T201


if __name__ == "__main__":
    main()
