"""A trial that fills the disk: no outcome of it, nothing is left running, and the same command goes
on when there is room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
from support import clean

APP = """
import os, resource, sys
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from cifar_hpo.errors import SweepFailed, UserError, exit_with

os.environ["HYDRA_FULL_ERROR"] = "1"

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    if config.x == 2 and os.environ["ROOM"] == "no":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
        Path(HydraConfig.get().runtime.output_dir, "result").write_bytes(bytes(10**6))
    return config.x

if __name__ == "__main__":
    try:
        app()
    except (OSError, SweepFailed, UserError) as error:
        exit_with(error)
"""


def sweep(folder: Path, room: str) -> subprocess.CompletedProcess[str]:
    options = ["hydra/sweeper=study", "hydra/launcher=workers", "hydra.launcher.n_workers=1"]
    options += ["hydra.sweeper.study_name=s", "hydra.sweeper.sampler.name=grid"]
    return subprocess.run(
        [sys.executable, str(folder / "app.py"), "-m", *options, "+x=1,2,3"],
        cwd=folder,
        env=clean() | {"ROOM": room},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_trial_that_finds_no_room_ends_the_sweep_and_goes_on_with_room(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    full = sweep(tmp_path, room="no")
    assert full.returncode == 2
    hint = "make room, then the same command goes on"
    assert full.stderr == f"error: trial 1: no space left; {hint}\n"
    storage = f"sqlite:///{tmp_path}/mlruns/studies.db"
    states = {
        trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials
    }
    assert states <= {"COMPLETE", "WAITING"}
    again = sweep(tmp_path, room="yes")
    assert again.returncode == 0, again.stderr
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert {trial.value for trial in trials} == {1, 2, 3}
