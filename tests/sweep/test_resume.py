"""Pruning and resuming through the command line: every launcher, real kills, results equal to an
uninterrupted study's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import optuna
import psutil
import pytest
from support import call_in, run_in, wait_for

from cifar_hpo.studies import main as studies


@pytest.mark.usefixtures("store")
@pytest.mark.long
@pytest.mark.parametrize("launcher", ["workers", "joblib"])
def test_a_pruner_stops_trials_under_every_launcher(
    launcher: str, tmp_path: Path, small: list[str]
) -> None:
    pruner = [
        "hydra/sweeper/pruner=asha",
        "hydra.sweeper.pruner.min_resource=1",
        "hydra.sweeper.pruner.reduction_factor=2",
    ]
    rates = "optimizer.learning_rate=0.01,1e-8,1e-9"
    one_by_one = {"workers": ["hydra.launcher.n_workers=1"], "joblib": ["hydra.launcher.n_jobs=1"]}[
        launcher
    ]
    shown = run_in(
        tmp_path,
        "-m",
        *small,
        "training.epochs=3",
        rates,
        *pruner,
        f"hydra/launcher={launcher}",
        *one_by_one,
    )
    assert shown.returncode == 0, shown.stderr
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    runs = [
        run
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
        if run.data.tags.get("kind") == "trial"
    ]
    pruned = [run for run in runs if "pruned" in run.data.tags]
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert 1 <= len(pruned) <= 2
    for run in pruned:
        assert run.data.tags["pruned"].startswith("after epoch ")
        epochs = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_accuracy")
        assert 1 <= len(epochs) < 3, "its learning curve stays"
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/mlruns/studies.db")
    study = optuna.load_study(
        study_name=summary.study_name, storage=f"sqlite:///{tmp_path}/mlruns/studies.db"
    )
    assert [trial.state.name for trial in study.trials].count("PRUNED") == len(pruned)
    assert study.trials[0].state.name == "COMPLETE"
    assert not list(tmp_path.rglob("*.checkpoint*"))


NUMBERED = """
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    return config.x * 100 + HydraConfig.get().job.num

if __name__ == "__main__":
    app()
"""


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_trials_have_their_own_numbers_under_any_launcher(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(NUMBERED)
    command = [
        sys.executable,
        "app.py",
        "-m",
        "hydra/sweeper=study",
        f"hydra/launcher={launcher}",
        "hydra.sweeper.metric=y",
    ]
    command += [
        "hydra.sweeper.study_name=s",
        "hydra.sweeper.constraints=['x <= 5']",
        "+x=1,9,2,3,8,4",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/mlruns/studies.db")
    assert [trial.value for trial in study.trials] == [100, 201, 302, 403]


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_what_a_sampler_may_not_combine_is_left_out(tmp_path: Path, small: list[str]) -> None:
    space = [
        "model.residual=false,true",
        "model.convolutions=1,2",
        "optimizer.learning_rate=interval(0.001,0.01)",
    ]
    sampler = [
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.study_name=s",
        "hydra.sweeper.sampler.seed=0",
    ]
    done = run_in(tmp_path, "-m", *small, "training.epochs=1", *space, *sampler)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("left out: model") + done.stdout.count("left out: model") == 1
    tried = [json.loads(params) for params in outcomes(tmp_path)]
    assert len(tried) == 5
    assert not any(one["model.residual"] and one["model.convolutions"] == 1 for one in tried)
    nothing = run_in(
        tmp_path,
        "-m",
        *small,
        *space,
        *sampler[:2],
        "hydra.sweeper.constraints=['parameters <= 20']",
        "hydra.sweeper.storage=memory",
    )
    assert nothing.returncode == 2
    assert re.fullmatch(
        r"error: 500 configurations in a row were left out; of the last one .*\n",
        nothing.stderr.splitlines(keepends=True)[-1],
    )
    mistyped = run_in(
        tmp_path,
        "-m",
        *small,
        *space,
        *sampler[:2],
        "hydra.sweeper.constraints=['paramters <= 20']",
        "hydra.sweeper.study_name=u",
    )
    assert mistyped.returncode == 2
    assert (
        "'paramters <= 20': paramters is no number of this configuration"
        in mistyped.stderr.splitlines()[-1]
    )


def outcomes(folder: Path) -> dict[str, Any]:
    """What each configuration came to, by its parameters."""
    shown = call_in(folder, studies, "export", "s", "--format", "json")
    return {json.dumps(one["params"], sort_keys=True): one for one in json.loads(shown.stdout)}


def test_a_killed_sweep_repeated_equals_an_uninterrupted_one(
    tmp_path: Path, small: list[str], migrated: Path
) -> None:
    """The parent is killed while trials run, then a worker; the figures are those of a study that
    nothing happened to."""
    sweep = [
        "-m",
        *small,
        "model.filters=4",
        "model.dropout=0.2",
        "training.epochs=10",
        "hydra.sweeper.study_name=s",
    ]
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    for folder in (calm, troubled):
        folder.mkdir()
        shutil.copy(migrated, folder)
    assert run_in(calm, *sweep).returncode == 0
    environment = {
        name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"
    }
    for victim in ("parent", "worker"):
        process = subprocess.Popen(
            [sys.executable, "-m", "cifar_hpo", *sweep],
            cwd=troubled,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        checkpoints = {file: file.stat().st_mtime for file in troubled.rglob("*.checkpoint")}

        def is_under_way(before: Mapping[Path, float] = checkpoints) -> bool:
            files = troubled.rglob("*.checkpoint")
            return any(file.stat().st_mtime != before.get(file) for file in files)

        wait_for(is_under_way, seconds=120)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.ppid() != process.pid
        ]
        (process if victim == "parent" else workers[0]).send_signal(signal.SIGKILL)
        assert process.wait(120) == (-signal.SIGKILL if victim == "parent" else 0)
        psutil.wait_procs(workers, timeout=5)
        assert not [
            worker
            for worker in workers
            if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
        ]
    wanted, found = outcomes(calm), outcomes(troubled)
    assert wanted.keys() == found.keys()
    assert len(found) == 1
    for params, one in wanted.items():
        for name in ("loss", "val_loss", "test_loss", "val_accuracy"):
            assert found[params]["metrics"][name] == one["metrics"][name]
    mlflow.set_tracking_uri(f"sqlite:///{troubled}/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert "RUNNING" not in {run.info.status for run in runs}
    trials = [run for run in runs if run.data.tags.get("kind") == "trial"]
    assert [run.data.tags["trial"] for run in trials if run.info.status == "FINISHED"] == ["0"]
    assert {run.info.status for run in trials if run.data.tags["attempt"] == "0"} >= {"KILLED"}
    assert not list(troubled.rglob("*.checkpoint*")), "nothing is left to go on from"


def test_an_end_that_a_destructor_swallows_comes_again_after_the_epoch(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import os, signal
from cifar_hpo import trial
from cifar_hpo.__main__ import terminated

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000): pass

signal.signal(signal.SIGTERM, terminated)
Destroyed()
print("goes on", flush=True)
trial.report(trial.Progress(1, 500))
print("not ended")
""")
    shown = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "SystemExit" in shown.stderr, "the destructor took the first"
    assert shown.stdout == "goes on\n"
    assert shown.returncode == 143


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "mode",
    [
        "single",
        pytest.param("terminated", marks=pytest.mark.long),
        pytest.param("sweep", marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_ended_is_killed_and_says_so(
    mode: str, tmp_path: Path, small: list[str]
) -> None:
    sweep = ["-m", "model.filters=4,8"] if mode == "sweep" else []
    environment = {
        name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"
    }
    command = [sys.executable, "-m", "cifar_hpo", *sweep, *small, "training.epochs=500"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    wait_for(lambda: list(tmp_path.rglob("*.checkpoint")))
    process.send_signal(signal.SIGTERM if mode == "terminated" else signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (143 if mode == "terminated" else 130)
    assert ("interrupted" in err) == (mode != "terminated")
    assert ("interrupted; the same command goes on from here" in err) == (mode == "sweep")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.info.status for run in runs} == {"KILLED"}
