"""The command line: help, completion, and what the user typed wrong, each on one line before
anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Run

HEAVY = ("tensorflow", "keras", "mlflow", "optuna", "numpy")


@pytest.mark.parametrize(
    "module",
    ["__main__", "config.app", "objective", "sweep.plan", "study.space", "workers.pool", "report"],
)
def test_importing_the_command_line_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, cifar_hpo.{module}; print([n for n in {HEAVY} if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_help_lists_groups_keys_and_examples(run: Run) -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for expected in (
        "model: base, deep, enhanced, wide",
        "optimizer: adam, adamw, muon, nesterov, rmsprop, sgd",
        "kernel_size",
        "pixels",
        "-m model.filters=4,8,16",
    ):
        assert expected in shown.stdout


def test_completion_offers_groups_and_values(run: Run) -> None:
    assert "optimizer=sgd" in run("-sc", "query=bash", COMP_LINE="cifar-hpo optimizer=s").stdout
    assert "model.kernel_size=" in run("-sc", "query=bash", COMP_LINE="cifar-hpo model.kern").stdout


WRONG = {
    "model.filters=0": "model.filters",
    "model.filters=abc": "model.filters",
    "model.filters=2.5": "model.filters",
    "model.filters=[]": "model.filters",
    "model.filters=true": "model.filters",
    "model.filters=null": "model.filters",
    "model.filterz=4": "model.filterz",
    "+model.extra=4": "model.extra",
    "model=huge": "model/huge",
    "model.kernel_size=0": "model.kernel_size",
    "model.kernel_size=[3]": "model.kernel_size",
    "model.depth=9": "model",
    "model.dropout=1": "model.dropout",
    "model.batch_norm=3": "model.batch_norm",
    "optimizer=adagrad": "optimizer/adagrad",
    "optimizer.learning_rate=fast": "optimizer.learning_rate",
    "optimizer.learning_rate=inf": "optimizer.learning_rate",
    "optimizer.momentum=0.9": "optimizer.momentum",
    "+optimizer.momentum=0.9": "optimizer.momentum",
    "optimizer.name=lion": "optimizer.name",
    "training.batch_size=-1": "training.batch_size",
    "training=null": "group",
    "data.validation=1": "data.validation",
    "data.validation=null": "data.validation",
    "data.augment=[spin]": "data.augment",
    "mlflow.tracking_uri=http://me:secret@localhost/": "mlflow.tracking_uri",
    "~model": "model",
    "+model._target_=os.system": "model._target_",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_value_is_refused_on_one_line(
    override: str, run: Run, small: list[str], tmp_path: Path
) -> None:
    shown = run(*small, override)
    assert_refused(shown, WRONG[override])
    assert not (tmp_path / "mlflow.db").exists()


SWEPT_WRONG = {
    "model.filters=4,,8": "model.filters",
    "model.filters=4,0": "model.filters",
    "model.filters=4,abc": "model.filters",
    "model.filters=range(4,4)": "model.filters",
    "model.kernel_size=3,99": "model.kernel_size",
    "model.depth=3,7": "model",
    "optimizer=adam,adagrad": "optimizer/adagrad",
    "optimizer.learning_rate=interval(0.1,0.001)": "optimizer.learning_rate",
    "optimizer.learning_rate=tag(log,interval(0,1))": "optimizer.learning_rate",
    "optimizer.learning_rate=interval(0.001,0.1)": "hydra.sweeper.n_trials",
    "training.batch_size=100000,32": "training.batch_size",
    "hydra.sweeper.metric=val_acuracy": "hydra.sweeper.metric",
    "hydra.sweeper.metric=val_accuracy_std": "training.replicas=2",
    "hydra.sweeper.metric=[]": "hydra.sweeper.metric",
    "hydra/sweeper/pruner=median hydra.sweeper.metric=test_accuracy": "hydra.sweeper.pruner",
    "hydra.sweeper.study_name=../../x": "hydra.sweeper.study_name",
    "hydra.sweeper.n_trials=-1": "hydra.sweeper.n_trials",
    "hydra.sweeper.direction=up": "hydra.sweeper.direction",
    "hydra.sweeper.sampler.name=best": "hydra.sweeper.sampler.name",
    "hydra.launcher.n_workers=0": "hydra.launcher.n_workers",
    "hydra.sweeper.storage=postgresql://me:secret@localhost/x": "hydra.sweeper.storage",
    "hydra.sweeper._target_=os.system": "hydra.sweeper._target_",
    "+hydra.sweeper.params={model.filters:'4,0'}": "model.filters",
}


@pytest.mark.parametrize("override", SWEPT_WRONG)
def test_a_wrong_sweep_is_refused_before_a_worker_starts(
    override: str, run: Run, small: list[str], tmp_path: Path
) -> None:
    shown = run("-m", *small, *override.split())
    assert_refused(shown, SWEPT_WRONG[override])
    assert not list(tmp_path.rglob("worker_*.log"))


def test_a_sweep_without_m_says_so(run: Run) -> None:
    assert_refused(run("model.filters=4,8"), "--multirun")


def assert_refused(shown: subprocess.CompletedProcess[str], expected: str) -> None:
    """Exit code 2 and one line that names the place; no secret in it."""
    assert shown.returncode == 2, shown.stderr
    lines = shown.stderr.strip().splitlines()
    assert len(lines) == 1, shown.stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "secret" not in shown.stdout + shown.stderr
