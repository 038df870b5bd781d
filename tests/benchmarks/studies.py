"""What a study costs: ask and tell at many finished trials, opening it again, and whole sweeps of
stub trials.

    python tests/benchmarks/studies.py [--trials 1000]

Run by hand, with nothing else running; the README quotes it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from cifar_hpo.config import sweep as schema
from cifar_hpo.study.space import Choices, Interval, Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FINISHED, TrialResult

APP = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def stub(config):
    return config.x

if __name__ == "__main__":
    stub()
"""

SWEEP = [
    sys.executable,
    "app.py",
    "-m",
    "hydra/sweeper=study",
    "hydra/launcher=workers",
    "hydra.sweep.dir=out",
    "hydra.launcher.trials_per_worker=null",
]
"""The command of a sweep of APP, without its space."""


def options(sampler: str, trials: int) -> dict[str, Any]:
    given = {
        name: field.default
        for name, field in schema.Sweeper.__dataclass_fields__.items()
        if name not in ("params", "defaults")
    }
    chosen = vars(schema.SAMPLER_SCHEMAS.get(sampler, schema.Sampler)(name=sampler)) | {"seed": 0}
    empty = {
        "enqueue": [],
        "constraints": [],
        "conditions": {},
        "sampler": chosen,
        "pruner": {"name": "none"},
    }
    return given | empty | {"metric": "y", "direction": "maximize", "n_trials": trials}


def measure(sampler: str, trials: int) -> tuple[float, float]:
    """Median seconds of one ask and tell behind `trials` finished ones, and seconds to open the
    study again."""
    if sampler == "grid":
        space = Space({key: Choices({n: str(n) for n in range(11)}) for key in ("+a", "+b", "+c")})
    else:
        space = Space(
            {
                "+a": Interval(0.0, 1.0, log=False),
                "+b": Interval(1e-4, 1e-1, log=True),
                "+c": Choices({n: str(n) for n in range(8)}),
            }
        )
    draw = random.Random(0)

    def work(name: str, total: int) -> list[float]:
        seconds = []
        with Study.open(name, space, options(sampler, total), {}) as study:
            started = time.perf_counter()
            for spec in study.specs():
                assert spec
                study.tell(spec, TrialResult(FINISHED, {"y": draw.random()}, seconds=1.0))
                seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
        return seconds

    fill = "random" if sampler == "tpe" else sampler
    with Study.open(sampler, space, options(fill, trials), {}) as study:
        for spec in study.specs():
            assert spec
            study.tell(spec, TrialResult(FINISHED, {"y": draw.random()}, seconds=1.0))
    started = time.perf_counter()
    with Study.open(sampler, space, options(sampler, trials), {}):
        opened = time.perf_counter() - started
    return median(work(sampler, trials + 20)), opened


def machinery(trials: int = 200) -> float:
    """Stub trials a second through sweeper and workers, from the first to the last."""
    Path("app.py").write_text(APP)
    seconds = []
    for count in (1, trials + 1):
        started = time.perf_counter()
        subprocess.run([*SWEEP, f"+x=range(0,{count})"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return trials / (seconds[1] - seconds[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    given = parser.parse_args()
    table = Table("sampler", f"ask + tell behind {given.trials} trials", "open again", box=None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for sampler in ("grid", "random", "tpe"):
            each, opened = measure(sampler, given.trials)
            table.add_row(sampler, f"{each * 1000:.0f} ms", f"{opened:.2f} s")
        console = Console()
        console.print(table)
        console.print(f"stub trials through study and workers: {machinery():.1f} a second")


if __name__ == "__main__":
    main()
