"""The examples of other people's Hydra apps, each as a user starts it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlflow
import pytest
from support import call_in, run_in

from cifar_hpo.report.__main__ import main as report_command


def run_example(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    shown = run_in(folder, *arguments, module=f"cifar_hpo.examples.{name}")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    return shown


def test_the_plain_one_runs_alone_and_as_a_study_whose_seeds_are_replicas(tmp_path: Path) -> None:
    quick = ("epochs=2", "steps=20", "cities=8")
    assert "length" in run_example(tmp_path, "tour", *quick).stdout
    grid = ("move=swap,reverse", "seed=0,1,2", "hydra.sweeper.study_name=tour")
    shown = run_example(tmp_path, "tour", "-m", *quick, *grid)
    assert "[6/6]" in shown.stdout
    again = "again:  python -m cifar_hpo.examples.tour epochs=2 steps=20 cities=8 move="
    assert again in shown.stdout
    report = call_in(tmp_path, report_command, "tour")
    rows = [line for line in report.stdout.splitlines() if "FINISHED" in line]
    assert len(rows) == 2, "a row for each move"
    assert "one replica" not in report.stdout


@pytest.mark.usefixtures("store")
def test_the_one_with_scikit_learn_is_pruned_and_tracked(tmp_path: Path) -> None:
    shown = run_example(
        tmp_path,
        "digits",
        "-m",
        "epochs=3",
        "hidden=4,16",
        "learning_rate=interval(0.001,0.1)",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.track=true",
        "hydra/sweeper/pruner=median",
    )
    assert "[3/3]" in shown.stdout
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    trials = [run for run in found if run.data.tags.get("kind") == "trial"]
    assert len(trials) == 3
    assert all({"value", "loss", "f1"} <= run.data.metrics.keys() for run in trials)


def test_the_one_with_pytorch_returns_its_metrics_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shown = run_example(tmp_path, "torch_digits", "-m", "epochs=2", "hidden=8,32")
    assert "accuracy" in shown.stdout.partition("rank")[2]
    assert len(list(tmp_path.glob("multirun/*/*/*/checkpoint.pt"))) == 2
