"""Sweeps that are ended at random moments again and again, in real processes: after each round the
checker reads what is left, and in the end every configuration is counted once.

The seed of the moments is logged; `SOAK_SEED` gives it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from invariants import check, wait_for_orphans
from support import clean, images, wait_for

from cifar_hpo.paths import STUDIES_DB

log = logging.getLogger(__name__)

APP = """
import time

import hydra

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    time.sleep(0.2)
    return float(config.x)

if __name__ == "__main__":
    app()
"""

LONGEST_FACTOR = 2.5
"""Of the uninterrupted time, which twenty kills may cost."""

SECONDS_TO_IMPORT = 60.0
"""In which the server of a killed parent is gone, which notices that when it has imported what
trials need: 3 s of one core, more where the machine is busy."""


@dataclass(frozen=True)
class Sweep:
    """A command, and the folder in which it is run."""

    folder: Path
    command: list[str]

    def start(self) -> subprocess.Popen[str]:
        """What it prints goes to a file beside its folder, to which each start adds."""
        with self.folder.with_suffix(".log").open("a", encoding="utf-8") as file:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=clean(), stdout=file, stderr=file, text=True
            )

    def run(self) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            self.command,
            cwd=self.folder,
            env=clean(),
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )


@pytest.fixture
def moments(caplog: pytest.LogCaptureFixture) -> random.Random:
    """Random numbers whose seed is logged."""
    caplog.set_level(logging.INFO, __name__)
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 2**32))
    log.info("SOAK_SEED=%d", seed)
    return random.Random(seed)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of a sweep: they are children of its fork server."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if child.ppid() != process.pid]
    return []


def has_begun(process: subprocess.Popen[str]) -> bool:
    """Whether a sweep has workers, or is over already."""
    return process.poll() is not None or bool(workers(process))


def goes_on(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether a sweep still runs after so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is None


@pytest.mark.timeout(120)
def test_a_stub_sweep_that_is_ended_at_random_counts_everything_once(
    tmp_path: Path, moments: random.Random
) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    options = ["hydra/sweeper=study", "hydra/launcher=workers", "hydra.launcher.n_workers=2"]
    options += ["hydra.sweeper.metric=y", "hydra.sweeper.direction=maximize"]
    options += ["hydra.sweeper.study_name=s", "hydra.sweeper.retries=9"]
    sweep = Sweep(folder, [sys.executable, "app.py", "-m", *options, "+x=range(12)"])
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = sweep.start()
        wait_for(functools.partial(has_begun, process))
        if number == signal.SIGINT and goes_on(process, moments.uniform(0, 0.5)):
            moments.choice(workers(process)).kill()
        if goes_on(process, moments.uniform(0, 1)):
            process.send_signal(number)
        process.wait(60)
        wait_for_orphans(folder, SECONDS_TO_IMPORT)
        log.info("%s: exit code %d", signal.Signals(number).name, process.returncode)
        check(folder, planned=12, budget=12, returncode=process.returncode)
    shown = sweep.run()
    check(folder, planned=12, budget=12, returncode=shown.returncode, again=sweep.run)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_kills_cost_no_finished_work_and_little_time(
    tmp_path: Path, moments: random.Random
) -> None:
    data = tmp_path / "images.npz"
    (x_train, y_train), (x_test, y_test) = images(2000, 0), images(200, 1)
    np.savez(data, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    command = [sys.executable, "-m", "cifar_hpo", "-m", "data=npz", f"data.path={data}"]
    command += ["training.epochs=60", "training.batch_size=50", "model.filters=2,3,4,5,6,8"]
    command += ["training.seed=0,1", "hydra.sweeper.study_name=s", "hydra.sweeper.retries=20"]
    command += ["hydra.launcher.n_workers=2", "model.dense_units=16", "model.kernel_size=3"]
    calm, troubled = Sweep(tmp_path / "calm", command), Sweep(tmp_path / "troubled", command)
    calm.folder.mkdir()
    troubled.folder.mkdir()
    started = time.monotonic()
    shown = calm.run()
    uninterrupted = time.monotonic() - started
    log.info("uninterrupted: %.0f s", uninterrupted)
    check(calm.folder, planned=12, returncode=shown.returncode)
    seconds, returncode = _with_kills(troubled, moments, kills=20, apart=uninterrupted / 14)
    log.info("with 20 kills: %.0f s, %.2f times as long", seconds, seconds / uninterrupted)
    check(troubled.folder, planned=12, returncode=returncode, again=troubled.run)
    assert _values(troubled.folder) == _values(calm.folder)
    assert seconds <= LONGEST_FACTOR * uninterrupted


def _with_kills(
    sweep: Sweep, moments: random.Random, kills: int, apart: float
) -> tuple[float, int]:
    """Run a sweep to its end and kill its parent or a worker so many times; returns the seconds
    that it ran, and its exit code.

    apart: seconds between two kills, on average. Work that was finished once stays as it is.
    """
    seconds = 0.0
    finished: dict[str, float] = {}
    process = sweep.start()
    for kill in range(1, kills + 1):
        started = time.monotonic()
        is_running = goes_on(process, moments.uniform(0, 2 * apart))
        seconds += time.monotonic() - started
        assert is_running, f"it ended before kill {kill}: exit code {process.returncode}"
        busy = workers(process)
        if busy and moments.random() < 0.5:
            victim = moments.choice(busy)
            log.info("%.0f s: kill %d, a worker", seconds, kill)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
            continue
        log.info("%.0f s: kill %d, the parent", seconds, kill)
        process.kill()
        process.wait()
        wait_for_orphans(sweep.folder, SECONDS_TO_IMPORT)
        check(sweep.folder, planned=12, returncode=process.returncode)
        values = _values(sweep.folder) if (sweep.folder / STUDIES_DB).exists() else {}
        assert finished.items() <= values.items(), "finished work was done again"
        finished = values
        process = sweep.start()
    started = time.monotonic()
    returncode = process.wait()
    return seconds + time.monotonic() - started, returncode


def _values(folder: Path) -> dict[str, float]:
    """The value of each finished configuration."""
    import optuna

    storage = f"sqlite:///{folder / STUDIES_DB}"
    if "s" not in optuna.get_all_study_names(storage):
        return {}
    values = {}
    for trial in optuna.load_study(study_name="s", storage=storage).trials:
        if trial.value is not None:
            values[str(sorted(trial.params.items()))] = trial.value
    return values
