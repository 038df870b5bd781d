"""What lies between two trials of a worker, and what a worker takes of memory.

    python tests/benchmarks/between.py [--isa AVX2] [overrides]

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
        command = [sys.executable, "-m", "cifar_hpo", *SWEEP, *given.overrides]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        largest = 0
        while process.poll() is None:
            largest = max(largest, memory_of_largest_child(process.pid))
            time.sleep(0.1)
        known, new = gaps(Path(folder))
    for name, seconds in (("a shape that the worker has seen", known), ("a new shape", new)):
        median, most = statistics.median(seconds), max(seconds)
        print(f"{name}: median {median:.2f} s, most {most:.2f} s, of {len(seconds)}")  # noqa: T201
    print(f"resident memory of the largest process: {largest / 2**30:.2f} GiB")  # noqa: T201


def memory_of_largest_child(pid: int) -> int:
    """Resident bytes of the largest process below this one; 0 where there is none by now."""
    largest = 0
    with contextlib.suppress(psutil.NoSuchProcess, TypeError):
        for child in psutil.Process(pid).children(recursive=True):
            largest = max(largest, child.memory_info().rss)
    return largest


def gaps(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds between a trial's end and the next one's first step: to known shapes, to new ones."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    runs = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.kind = 'trial'", output_format="list"
    )
    runs.sort(key=lambda run: run.info.start_time)
    known: list[float] = []
    new: list[float] = []
    seen = {runs[0].data.params["model.filters"]}
    for before, run in itertools.pairwise(runs):
        points = client.get_metric_history(run.info.run_id, "loss")
        first, second = sorted(points, key=lambda point: point.step)[:2]
        began = first.timestamp - (second.timestamp - first.timestamp)
        shape = run.data.params["model.filters"]
        seconds = known if shape in seen else new
        seconds.append((began - before.info.end_time) / 1000)
        seen.add(shape)
    return known, new


if __name__ == "__main__":
    main()
