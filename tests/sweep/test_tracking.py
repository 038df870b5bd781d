"""A sweep whose MLflow server is away: nothing waits for it, and the same command logs the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import mlflow
from support import STUB_SWEEP, Run, clean, wait_for
from support_tracking import Server

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.study.storage import open_storage

APP = """
import time
from pathlib import Path

import hydra

import cifar_hpo
from cifar_hpo.tracking import attempts, runs

attempts.PATIENCE = attempts.GRACE = 1
runs.PATIENCE = 3

def wait(file):
    while not Path(file).exists():
        time.sleep(0.02)

def task(config):
    Path("begun").touch()
    wait("go")
    if config.x == 2:
        wait("never")
    for epoch in range(3):
        value = {1: 0.9, 2: 0.1, 3: 0.1}[config.x]
        cifar_hpo.report(epoch + 1, 3, value)
    return {"y": 0.9}

if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path=None)(task)()
"""

EXPERIMENT = "away"
"""Of these tests alone, on a server that others have, too."""

SWEEP = (*STUB_SWEEP, f"+mlflow={{tracking_uri:null,experiment:{EXPERIMENT}}}")


def start(folder: Path, server: Server, *options: str) -> subprocess.Popen[str]:
    (folder / "app.py").write_text(APP)
    return subprocess.Popen(
        [sys.executable, *SWEEP, *options],
        cwd=folder,
        env=clean() | {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def runs(server: Server) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def wait_until_none_is_added(server: Server) -> None:
    """Requests that nobody waits for any more come through when a server hangs no longer."""
    while True:
        found = len(runs(server))
        time.sleep(2)
        if len(runs(server)) == found:
            return


def test_limits_and_pruning_act_while_the_server_hangs_and_the_same_command_logs_all(
    server: Server, tmp_path: Path
) -> None:
    options = (
        "+x=1,2,3",
        "hydra.launcher.trial_timeout=4",
        "hydra/sweeper/pruner=asha",
        "hydra.sweeper.pruner.min_resource=1",
        "hydra.sweeper.pruner.reduction_factor=2",
    )
    process = start(tmp_path, server, *options)
    wait_for((tmp_path / "begun").exists)
    server.become("hanging")
    passed = server.passed
    (tmp_path / "go").touch()
    shown, _ = process.communicate(timeout=120)
    assert server.passed == passed, "what follows happened without an answer"
    assert process.returncode == 1, shown
    assert "timed out after 4 s" in shown
    assert "PRUNED" in shown
    assert "trials 0, 2: not logged yet (" in shown
    assert "not logged: the study's run (" in shown

    server.become("open")
    wait_until_none_is_added(server)
    again = start(tmp_path, server, *options)
    shown, _ = again.communicate(timeout=120)
    assert again.returncode == 1, shown
    assert "not logged" not in shown
    logged = runs(server)
    by_trial = {run.data.tags.get("trial"): run for run in logged}
    assert by_trial["0"].data.metrics == {"y": 0.9}
    assert by_trial["2"].data.tags["pruned"].startswith("after epoch 1 of 3")
    assert "RUNNING" not in {run.info.status for run in logged}
    assert {by_trial[number].info.status for number in ("0", "2")} == {"FINISHED"}
    (study,) = [run for run in logged if run.data.tags.get("kind") == "study"]
    assert study.data.metrics == {"best_value": 0.9}
    comparison = compare_study("s", open_storage(f"sqlite:///{tmp_path}/mlruns/studies.db"))
    run_ids = {trial.number: trial.run_id for trial in comparison.trials}
    assert run_ids[0] == by_trial["0"].info.run_id
    assert run_ids[2] == by_trial["2"].info.run_id
    assert not list(tmp_path.rglob("undelivered-*"))


def test_an_mlflow_server_has_runs_model_and_champion(
    run: Run, small: list[str], server: Server
) -> None:
    name = "served"
    arguments = ["-m", *small, "training.epochs=1", "model.filters=2,3"]
    shown = run(*arguments, f"mlflow.experiment={name}", MLFLOW_TRACKING_URI=server.uri)
    assert shown.returncode == 0, shown.stderr
    assert f"browse: {server.uri}\n" in shown.stdout
    assert "not logged" not in shown.stdout
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    assert [one.info.status for one in runs] == ["FINISHED"] * 3
    champion = client.get_model_version_by_alias("cifar_hpo-small", "champion")
    assert champion.run_id in {one.info.run_id for one in runs}
