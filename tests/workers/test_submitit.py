"""Trials as jobs of hydra-submitit-launcher, by its executor for this machine: real jobs, real
signals. A failure says that workers/_submitit.py is to be mended."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import optuna
import psutil
import pytest
from omegaconf import OmegaConf
from support import STUB_SWEEP, Run, clean, run_command, wait_for

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.recovery import ATTEMPT
from cifar_hpo.study.storage import load_study, open_storage
from cifar_hpo.workers._submitit import LAUNCHERS, OF_SLURM, jobs_apart, refuse_without_slurm

pytest.importorskip(
    "hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed"
)

APP = """
import os, signal, time
from pathlib import Path
import cifar_hpo
import hydra

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    with Path("seen.txt").open("a") as seen:
        seen.write(f"{config.x} {os.getpid()}\\n")
    done = Path(cifar_hpo.folder(), "done")
    BODY
    return float(config.x)

if __name__ == "__main__":
    task()
"""

LOCAL = "hydra/launcher=submitit_local"


def command_of(folder: Path, body: str, *arguments: str, launcher: str = LOCAL) -> list[str]:
    """A sweep over `x` whose trials are jobs, its study kept in the folder."""
    (folder / "app.py").write_text(APP.replace("BODY", body.replace("\n", "\n    ")))
    without = ("hydra/launcher=workers", "hydra.launcher.n_workers=1")
    sweep = [argument for argument in STUB_SWEEP if argument not in without]
    return [sys.executable, *sweep, launcher, "hydra.sweep.dir=out", *arguments]


def seen(folder: Path) -> list[str]:
    """The value of each attempt, as it began."""
    path = folder / "seen.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines]


def has_begun(folder: Path, attempts: int) -> bool:
    return len(seen(folder)) >= attempts


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return load_study(open_storage(f"sqlite:///{folder}/mlruns/studies.db"), "s").get_trials()


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials(folder)]


TROUBLED = """
if config.x == 1 and not done.exists():
    done.touch()
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
if config.x == 2:
    epochs = int(done.read_text()) if done.exists() else 0
    for epoch in range(epochs + 1, 4):
        done.write_text(str(epoch))
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
if config.x == 3:
    time.sleep(3)
for epoch in (1, 2):
    cifar_hpo.report(epoch, 2, float(config.x))
"""


def test_a_killed_job_costs_itself_one_attempt_a_preempted_one_none_and_pruners_are_asked(
    tmp_path: Path,
) -> None:
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=3")
    given = ("hydra.sweeper.order=given", "hydra.sweeper.max_batch_size=3")
    command = command_of(tmp_path, TROUBLED, "+x=1,2,3,0", *pruner, *given)
    shown = run_command(tmp_path, command)
    assert shown.returncode == 0, shown.stderr
    assert states(tmp_path) == ["COMPLETE"] * 3 + ["PRUNED"]
    assert sorted(seen(tmp_path)) == ["0", "1", "1", "2", "2", "3"]
    attempts = {trial.number: trial.user_attrs.get(ATTEMPT, 0) for trial in trials(tmp_path)}
    assert attempts == {0: 1, 1: 0, 2: 0, 3: 0}
    assert shown.stdout.count("ended without a result; its last words are in out") == 1
    assert "after epoch 1 of 2 by median" in shown.stdout


@pytest.mark.long
def test_a_sweep_that_is_ended_leaves_no_job_beside_the_next_ones(tmp_path: Path) -> None:
    """It is killed, then terminated; both signals are for it alone, while Ctrl-C reaches the jobs,
    too."""
    body = "while not Path('go').exists(): time.sleep(0.1)"
    command = command_of(tmp_path, body, "+x=0,1", "hydra.sweeper.max_batch_size=2")
    jobs: list[psutil.Process] = []
    for attempt, sent in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
        with (tmp_path / "shown.txt").open("w") as shown_by_sweep:  # jobs would hold a pipe
            out = subprocess.STDOUT
            sweep = subprocess.Popen(
                command, cwd=tmp_path, env=clean(), stdout=shown_by_sweep, stderr=out
            )
        wait_for(functools.partial(has_begun, tmp_path, 2 * attempt))
        assert not psutil.wait_procs(jobs, timeout=0)[1], "those of the killed one are cancelled"
        jobs += psutil.Process(sweep.pid).children(recursive=True)
        assert len(jobs) >= 4 * attempt, "a controller and a task each"
        sweep.send_signal(sent)
        sweep.wait(20)
    last = (tmp_path / "shown.txt").read_text().splitlines()[-1]
    assert last == "interrupted; the same command goes on from here"
    assert sweep.returncode == 130
    assert states(tmp_path) == ["WAITING"] * 2
    assert not psutil.wait_procs(jobs, timeout=5)[1]
    (tmp_path / "go").touch()
    shown = run_command(tmp_path, command)
    assert shown.returncode == 0, shown.stderr
    assert states(tmp_path) == ["COMPLETE"] * 2
    assert sorted(seen(tmp_path)) == ["0"] * 3 + ["1"] * 3


def test_where_slurm_is_not_one_line_says_so(tmp_path: Path) -> None:
    command = command_of(tmp_path, "", "+x=0,1", launcher="hydra/launcher=submitit_slurm")
    shown = run_command(tmp_path, command, PATH="")
    assert shown.returncode == 2
    line = shown.stderr.splitlines()[-1]
    assert line.startswith("error: hydra/launcher: submitit_slurm needs sbatch and srun, which")
    assert not (tmp_path / "mlruns" / "studies.db").exists()


SBATCH = """#!/bin/sh
echo "sbatch: error: invalid partition specified: nowhere" >&2
exit 1
"""


def test_a_job_that_slurm_does_not_take_ends_the_sweep_on_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun"):
        (folder / name).write_text(SBATCH)
        (folder / name).chmod(0o755)
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=nowhere")
    command = command_of(tmp_path, "", "+x=0,1", launcher[1], launcher=launcher[0])
    shown = run_command(tmp_path, command, PATH=f"{folder}:{os.environ['PATH']}")
    assert shown.returncode == 2, shown.stderr
    line = shown.stderr.splitlines()[-1]
    assert line.startswith("error: hydra.launcher: no job was submitted: sbatch: error: invalid")
    assert states(tmp_path) == ["WAITING"] * 2, "for the same command with another partition"
    assert seen(tmp_path) == []


@pytest.mark.parametrize(("target", "is_refused"), [("LocalLauncher", False), (OF_SLURM, True)])
def test_a_launcher_for_slurm_alone_is_refused_without_it(
    target: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Launcher:
        config = OmegaConf.create(
            {"hydra": {"launcher": {"_target_": f"{LAUNCHERS}submitit_launcher.{target}"}}}
        )

    launcher: Any = Launcher()
    monkeypatch.setenv("PATH", "")
    if is_refused:
        with pytest.raises(ConfigError, match="sbatch and srun"):
            refuse_without_slurm(launcher)
    else:
        refuse_without_slurm(launcher)


def test_jobs_lie_in_the_folder_of_a_study_that_was_named_after_its_launcher_was_made() -> None:
    class Launcher:
        params: ClassVar = {"submitit_folder": "out/None/.submitit/%j"}
        config = OmegaConf.create(
            {
                "hydra": {
                    "sweep": {"dir": "out/s"},
                    "launcher": {
                        "_target_": f"{LAUNCHERS}submitit_launcher.LocalLauncher",
                        "submitit_folder": "${hydra.sweep.dir}/.submitit/%j",
                    },
                }
            }
        )

    launcher: Any = Launcher()
    with jobs_apart(launcher):
        assert launcher.params == {"submitit_folder": "out/s/.submitit/%j"}


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_networks_are_the_same_as_with_workers(tmp_path: Path, small: list[str], run: Run) -> None:
    import mlflow

    sweep = ("-m", *small, "model.filters=4,8", "training.epochs=1", "training.threads=1")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    losses = []
    for launcher in ("submitit_local", "workers"):
        name = f"hydra.sweeper.study_name={launcher}"
        shown = run(*sweep, f"hydra/launcher={launcher}", name)
        assert shown.returncode == 0, shown.stderr
        runs = mlflow.search_runs(experiment_names=[launcher], output_format="list")
        (study,) = [one for one in runs if one.data.tags["kind"] == "study"]
        attempts = [one for one in runs if one.data.tags["kind"] == "trial"]
        assert {one.info.status for one in runs} == {"FINISHED"}
        assert {one.data.tags["mlflow.parentRunId"] for one in attempts} == {study.info.run_id}
        loss = {one.data.tags["trial"]: one.data.metrics["val_loss"] for one in attempts}
        losses.append(loss)
    assert losses[0].keys() == {"0", "1"}
    assert losses[0] == losses[1]
