"""Sweeps of a user's own models through the command line: killed and resumed, reported, asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import optuna
import psutil
import pytest
from PIL import Image
from support import call_in, clean, run_command, run_in, wait_for

from cifar_hpo.paths import CHECKPOINT, CHECKPOINT_BEFORE
from cifar_hpo.studies import main as studies
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.tracking import _mlflow

Folder = Callable[[str], Path]

MODELS = {
    "resnet": "_target_: my_models.resnet\ndepth: 1\nwidth: 2\n",
    "own_step": "_target_: my_models.OwnStep\n",
    "compiled": "_target_: my_models.compiled_scaled\nrate: 0.05\n",
    "mobile": "_target_: my_models.mobile\nalpha: 0.35\n",
    "undefined": "_target_: my_models.undefined\n",
}

ASK = """
import sys
import mlflow
import numpy as np

uri, images, outputs = sys.argv[1:]
served = mlflow.pyfunc.load_model(uri)
assert not {"my_models", "cifar_hpo"} & set(sys.modules)
np.save(outputs, served.predict(np.load(images)["x_test"]))
"""
"""What a server of MLflow's does, where nothing of the user's can be imported."""


@pytest.fixture
def folder(tmp_path: Path, migrated: Path) -> Folder:
    """Makes a folder where a user's models may be called, and stand in a config group."""

    def made(name: str) -> Path:
        here = tmp_path / name
        (here / "conf" / "model").mkdir(parents=True)
        shutil.copy(migrated, here)
        shutil.copy(Path(__file__).with_name("own_models.py"), here / "my_models.py")
        (here / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_models"]\n')
        for model, config in MODELS.items():
            (here / "conf" / "model" / f"{model}.yaml").write_text(config)
        return here

    return made


def sweep(npz: Path, *arguments: str) -> list[str]:
    data = ["data=npz", f"data.path={npz}", "data.train_size=100", "training.batch_size=50"]
    options = ["hydra.sweeper.study_name=s", "hydra.launcher.n_workers=1"]
    return ["-m", "-cd", "conf", *data, *options, *arguments]


def outcomes(here: Path) -> list[dict[str, float]]:
    """The metrics of each trial but for the time that it took."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{here}/mlruns/studies.db")
    metrics = [trial.user_attrs[OUTCOME]["metrics"] for trial in study.trials]
    return [{**values, "train_seconds": 0.0} for values in metrics]


@pytest.mark.long
def test_a_killed_sweep_of_a_user_s_model_ends_as_if_it_had_not_been_and_is_asked(
    folder: Folder, npz: Path
) -> None:
    killed, whole = folder("killed"), folder("whole")
    arguments = sweep(npz, "model=resnet", "model.width=3", "training.epochs=12")
    command = [sys.executable, "-m", "cifar_hpo", *arguments]
    trial = killed / "mlruns" / "outputs" / "s" / "0"
    before = trial / CHECKPOINT_BEFORE.format(checkpoint=CHECKPOINT.format(replica=0))
    with subprocess.Popen(command, cwd=killed, env=clean(), stderr=subprocess.DEVNULL) as started:
        wait_for(before.exists, seconds=120)
        family = [
            psutil.Process(started.pid),
            *psutil.Process(started.pid).children(recursive=True),
        ]
        for process in family:
            process.kill()
    resumed = run_in(killed, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert run_in(whole, *arguments).returncode == 0
    (values,) = outcomes(killed)
    assert values["epochs"] == 12
    assert outcomes(whole) == [values], "bit for bit"
    best = call_in(whole, studies, "best", "s")
    assert best.stdout.startswith("python -m cifar_hpo -cd conf data=npz "), best.stderr

    with np.load(npz) as arrays:
        Image.fromarray(arrays["x_test"][0]).resize((64, 64)).save(killed / "one.png")
    asked = run_in(killed, "one.png", module="cifar_hpo.predict")
    assert re.search(r"one\.png(?: +class \d 0\.\d{3}){3}", asked.stdout), asked.stderr


@pytest.mark.long
def test_trials_are_compared_by_a_metric_of_a_compiled_model_and_the_best_is_served(
    folder: Folder, npz: Path, tmp_path: Path
) -> None:
    here = folder("compiled")
    arguments = sweep(npz, "model=compiled", "model.rate=1e-6,0.1", "training.epochs=2")
    wrong = run_in(here, *arguments, "hydra.sweeper.metric=val_top3")
    (line,) = wrong.stderr.splitlines()
    told = "error: hydra.sweeper.metric: a trial has no val_top3; it has val_loss, val_loss_best, "
    assert line.startswith(f"{told}test_loss, val_top2, val_top2_best, test_top2, val_accuracy, ")
    assert wrong.returncode == 2

    swept = run_in(here, *arguments, "hydra.sweeper.metric=val_top2")
    assert swept.returncode == 0, swept.stderr
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{here}/mlruns/studies.db")
    assert study.direction.name == "MAXIMIZE"
    assert [trial.value for trial in study.trials] == [
        values["val_top2"] for values in outcomes(here)
    ]
    slow, fast = outcomes(here)
    assert slow["val_top2"] < fast["val_top2"]
    assert "val_top2" in swept.stdout

    (tmp_path / "ask.py").write_text(ASK)
    outputs = tmp_path / "outputs.npy"
    command = [sys.executable, "-I", "ask.py", "models:/cifar_hpo-small@champion", str(npz)]
    uri = f"sqlite:///{here}/mlflow.db"
    asked = run_command(tmp_path, [*command, str(outputs)], MLFLOW_TRACKING_URI=uri)
    assert asked.returncode == 0, asked.stderr
    with np.load(npz) as arrays:
        found = np.load(outputs).argmax(axis=1) == arrays["y_test"]
    assert found.mean() == pytest.approx(fast["test_accuracy"])


def test_a_metric_that_is_no_number_fails_its_trial_and_the_study_can_be_read(
    folder: Folder, npz: Path
) -> None:
    here = folder("undefined")
    options = ["hydra.sweeper.metric=val_share", "hydra.sweeper.direction=maximize"]
    arguments = sweep(npz, "model=undefined", "training.epochs=1", *options)
    for _ in range(2):
        swept = run_in(here, *arguments)
        assert swept.returncode == 1
        assert "1 of 1 trials failed; the first: val_share is nan" in swept.stderr
    assert outcomes(here) == [{"train_seconds": 0.0}]
    (run,) = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").search_runs(
        ["1"], "tags.trial = '0'"
    )
    assert run.info.status == "FAILED"


@pytest.mark.long
def test_a_network_of_keras_own_trains_on_larger_images(folder: Folder, tmp_path: Path) -> None:
    here = folder("mobile")
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (12, 96, 96, 3), np.uint8), np.arange(12) % 2
    x_test, y_test = pixels[:4], labels[:4]
    np.savez(tmp_path / "large.npz", x_train=pixels, y_train=labels, x_test=x_test, y_test=y_test)
    data = ["data=npz", f"data.path={tmp_path}/large.npz", "training.batch_size=8"]
    options = ["optimizer=sgd", "training.epochs=1"]  # of Adam the graph takes seconds longer
    trained = run_in(here, "-cd", "conf", "model=mobile", *data, *options)
    assert trained.returncode == 0, trained.stderr
    (run,) = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").search_runs(["1"])
    assert run.data.metrics["parameters"] == 412_770
    assert run.data.metrics["epochs"] == 1
    (model,) = (here / "mlruns" / "1" / "models").glob("*/artifacts")
    assert not _mlflow.needs_graph(model)
    assert not (model / _mlflow.GRAPH).exists()


@pytest.mark.long
def test_a_sweep_over_models_says_what_trains_in_another_way(folder: Folder, npz: Path) -> None:
    here = folder("models")
    swept = run_in(here, *sweep(npz, "model=own_step,resnet", "training.epochs=1"))
    assert swept.returncode == 0, swept.stderr
    said = "model: my_models.OwnStep trains in a way of its own, so Keras' fit trains it"
    assert (swept.stdout + swept.stderr).count(said) == 1
    assert len(outcomes(here)) == 2
    again = run_in(here, *sweep(npz, "model=own_step,resnet", "training.epochs=1"))
    assert again.returncode == 0, "it is the same study"

    wrong = run_in(here, *sweep(npz, "+model.dept=2", "model=resnet", "hydra.sweeper.study_name=t"))
    assert wrong.returncode == 2
    (line,) = [line for line in wrong.stderr.splitlines() if "error" in line]
    assert line.startswith("error: model.dept: my_models.resnet has no such argument; it has depth")
    assert not (here / "mlruns" / "outputs" / "t" / "0").exists(), "no worker was started"
