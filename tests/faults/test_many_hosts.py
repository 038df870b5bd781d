"""One study in PostgreSQL that commands on several hosts work on, some of which die: each
configuration is counted once, and what its trial did last is what counts.

A host is a command in a namespace of its own for processes: to the others nothing tells whether it
lives but its leases.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlflow
import psutil
import pytest
from support import clean, wait_for
from support_tracking import Server

from cifar_hpo.study import _optuna
from cifar_hpo.study.ranking import finished_trials
from cifar_hpo.study.storage import load_study, open_storage

APP = """
import json
import os
import time

import hydra
from omegaconf import DictConfig

import cifar_hpo
from cifar_hpo.study import sharing, storage

if "LEASE" in os.environ:
    sharing.RENEWAL, storage.LEASE, sharing.SECOND_LOOK = json.loads(os.environ["LEASE"])

def app(config):
    with open("tried", "a") as file:
        file.write(f"{config.x}\\n")
    for epoch in range(3):
        time.sleep(60 if os.path.exists("slow") else config.seconds / 3)
        cifar_hpo.report(epoch + 1, 3, float(config.x))
    return float(config.x)

if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path=None)(app)()
"""

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_unshare() -> bool:
    if shutil.which(UNSHARE[0]) is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class Host:
    """A command that works on the study, and what it has printed.

    is_apart: whether it is a host of its own to the others.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], *, is_apart: bool) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(APP)
        self.folder = folder
        self.log = folder / f"shown-{time.monotonic_ns()}"
        command = [*(UNSHARE if is_apart else ()), sys.executable, "app.py", *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=clean() | environment(), stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Its processes are gone at once, without a word."""
        for process in [psutil.Process(self.process.pid), *self._below()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)

    def _below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def tried(self) -> list[int]:
        """The cells whose trials have begun here."""
        file = self.folder / "tried"
        return [int(cell) for cell in file.read_text().split()] if file.exists() else []

    def shown(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)


def environment() -> dict[str, str]:
    """That of the test, in which the URL of the database is, and how long leases last."""
    return {name: os.environ[name] for name in ("STUDY_URL", "LEASE") if name in os.environ}


def sweep(cells: int, seconds: float, *options: str) -> list[str]:
    return [
        "-m",
        f"+x=range({cells})",
        f"+seconds={seconds}",
        "hydra/sweeper=study",
        "hydra/launcher=workers",
        "hydra.launcher.n_workers=2",
        "hydra.sweeper.study_name=s",
        "hydra.sweeper.metric=y",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.storage=${oc.env:STUDY_URL}",
        *options,
    ]


@pytest.fixture
def started(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Host]]:
    """Hosts to be ended with the test."""
    monkeypatch.setenv("STUDY_URL", database)
    hosts: list[Host] = []
    yield hosts
    for host in hosts:
        if host.process.poll() is None:
            host.kill()


def counted(database: str) -> collections.Counter[int]:
    """How often each cell was counted; every trial of Optuna's must have ended."""
    storage = open_storage(database)
    study = load_study(storage, "s")
    trials = study.get_trials(deepcopy=False)
    _optuna.disconnect(storage)
    assert all(trial.state.is_finished() for trial in trials)
    assert len(finished_trials(trials, {})) == len(trials), "no configuration has two outcomes"
    return collections.Counter(trial.params["+x"] for trial in trials)


def test_four_commands_share_a_grid_and_all_show_all(
    database: str, started: list[Host], tmp_path: Path
) -> None:
    arguments = sweep(12, 0.5)
    started += [Host(tmp_path / str(n), arguments, is_apart=False) for n in range(4)]
    for host in started:
        assert host.wait(120) == 0, host.shown()
    assert counted(database) == dict.fromkeys(range(12), 1)
    shares = [len(host.tried()) for host in started]
    assert sum(shares) == 12
    assert max(shares) <= 8
    for host in started:
        lines = re.findall(r"^\[\d+/12\] trial (\d+): ", host.shown(), re.MULTILINE)
        done_before = re.search(r"12 trials, (\d+) done before", host.shown())
        before = int(done_before[1]) if done_before else 0
        assert len(set(lines)) + before == 12, host.shown()
        assert re.search(r"^1 +\d+ +11 +11\.0000 ", host.shown(), re.MULTILINE), host.shown()
    again = Host(tmp_path / "0", arguments, is_apart=False)
    started.append(again)
    assert again.wait(60) == 0
    assert "12 done before" in again.shown()
    assert counted(database) == dict.fromkeys(range(12), 1)


@pytest.mark.long
def test_a_command_that_is_killed_and_one_that_is_interrupted_leave_their_trials_to_the_others(
    database: str, started: list[Host], tmp_path: Path
) -> None:
    arguments = sweep(12, 1.5)
    started += [Host(tmp_path / str(n), arguments, is_apart=False) for n in range(3)]
    killed, interrupted, other = started
    wait_for(lambda: all(host.tried() for host in started))
    time.sleep(0.5)
    killed.kill()
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.wait(20) == 130, interrupted.shown()
    assert "others go on with study s" not in interrupted.shown()
    assert other.wait(120) == 0, other.shown()
    assert counted(database) == dict.fromkeys(range(12), 1)


@pytest.mark.skipif(not can_unshare(), reason="namespaces of processes need more rights")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("lease", "seconds", "expiry"),
    [
        pytest.param("[0.5, 5, 2]", 2, 3, id="short leases"),
        pytest.param(None, 20, 20, id="real leases", marks=pytest.mark.long),
    ],
)
def test_a_host_that_dies_gives_its_trials_back_within_a_minute(
    database: str,
    server: Server,
    started: list[Host],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lease: str | None,
    seconds: float,
    expiry: float,
) -> None:
    """lease: RENEWAL, LEASE and SECOND_LOOK. expiry: seconds in which it can't have expired."""
    if lease:
        monkeypatch.setenv("LEASE", lease)
    name = tmp_path.name  # another for each of these tests, on one server
    tracked = (f"+mlflow.tracking_uri={server.uri}", f"+mlflow.experiment={name}")
    arguments = sweep(2, seconds, *tracked, "hydra.launcher.n_workers=1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "slow").touch()
    started.append(Host(tmp_path / "a", arguments, is_apart=True))
    wait_for(started[0].tried)
    (lost,) = started[0].tried()
    started.append(Host(tmp_path / "b", arguments, is_apart=True))
    wait_for(started[1].tried)
    died = time.monotonic()
    started[0].kill()
    wait_for(lambda: lost in started[1].tried(), 60)
    assert expiry < time.monotonic() - died < 60, "its lease was renewed until then"
    assert started[1].wait(60) == 0, started[1].shown()
    assert counted(database) == {0: 1, 1: 1}
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    status = {
        (run.data.tags["trial"], run.data.tags["attempt"]): run.info.status
        for run in runs
        if run.data.tags["kind"] == "trial"
    }
    assert status == {("0", "0"): "KILLED", ("0", "1"): "FINISHED", ("1", "0"): "FINISHED"}
    (study,) = [run for run in runs if run.data.tags["kind"] == "study"]
    assert study.info.status == "FINISHED"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_two_of_four_hosts_die_at_random_and_each_of_200_trials_counts_once(
    seed: int, database: str, started: list[Host], tmp_path: Path
) -> None:
    moments = random.Random(seed)
    arguments = sweep(200, 0.2)
    is_apart = can_unshare()
    started += [Host(tmp_path / str(n), arguments, is_apart=is_apart) for n in range(4)]
    for host in moments.sample(started, 2):
        wait_for(host.tried)
        time.sleep(moments.uniform(0, 4))
        host.kill()
    for host in started:
        assert host.wait(300) in (0, -signal.SIGKILL), host.shown()
    assert counted(database) == dict.fromkeys(range(200), 1)


@pytest.mark.long
def test_a_cnn_swept_on_two_hosts_comes_to_what_it_does_on_one(
    database: str, server: Server, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with models in a real MLflow server, and one champion."""
    monkeypatch.setenv("STUDY_URL", database)
    common = ["-m", *small, "model.filters=2,4,6", "hydra.launcher.n_workers=1"]
    common += ["hydra.launcher.threads_per_worker=1", "hydra.sweeper.study_name=cnn"]
    shared = [
        "hydra.sweeper.storage=${oc.env:STUDY_URL}",
        f"mlflow.tracking_uri={server.uri}",
    ]
    folders = [tmp_path / name for name in ("one", "a", "b")]
    processes = []
    for folder, arguments in zip(folders, ([], shared, shared), strict=True):
        folder.mkdir()
        command = [sys.executable, "-m", "cifar_hpo", *common, *arguments]
        processes.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=clean() | environment(),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    for process in processes:
        shown, _ = process.communicate(timeout=240)
        assert process.returncode == 0, shown
        assert len(re.findall(r"^\[\d/3\] trial ", shown, re.MULTILINE)) >= 2, shown
    alone = values(f"sqlite:///{tmp_path}/one/mlruns/studies.db")
    assert len(alone) == 3
    assert values(database) == alone
    client = mlflow.MlflowClient(server.uri)
    (model,) = client.search_model_versions("name = 'cifar_hpo-small'")
    best = max(alone, key=lambda filters: alone[filters]["val_accuracy"])
    assert client.get_run(model.run_id).data.params["model.filters"] == str(best)


def values(url: str) -> dict[object, dict[str, float]]:
    """Metrics by width of the study `cnn`, without its times."""
    storage = open_storage(url)
    trials = finished_trials(load_study(storage, "cnn").trials, {})
    _optuna.disconnect(storage)
    return {
        trial.params["model.filters"]: {
            name: value for name, value in trial.metrics.items() if "seconds" not in name
        }
        for trial in trials
    }
