"""What is written to MLflow of a study, and that a run's status never lies."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support import wait_for
from support_tracking import GONE, Server, fetch, record, text

from cifar_hpo.errors import StudyError
from cifar_hpo.owner import owner
from cifar_hpo.tracking import _mlflow, runs
from cifar_hpo.tracking.attempts import attempt_run
from cifar_hpo.tracking.delivery import Undelivered
from cifar_hpo.tracking.ownership import ATTEMPT, OWNER
from cifar_hpo.tracking.reader import RunReader
from cifar_hpo.tracking.runs import BEST_VALUE, CHAMPION, StudyRun
from cifar_hpo.tracking.store import connect

AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


def test_the_store_is_the_one_given_else_of_the_environment_else_here(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert connect(None) == f"sqlite:///{tmp_path}/other.db", "from any folder"
    assert connect(uri) == uri


def test_a_study_has_one_run_and_goes_on_in_it(uri: str) -> None:
    first = StudyRun(uri, "e", "s")
    first.close("FINISHED", "# note", {"overrides": ["x=1"]})
    run = fetch(first.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "study s")
    assert run.data.tags[_mlflow.NOTE] == text(first.run_id, "report.md") == "# note"
    assert json.loads(text(first.run_id, "best.json")) == {"overrides": ["x=1"]}

    again = StudyRun(uri, "e", "s")
    assert again.run_id == first.run_id
    assert again.uri == uri
    assert fetch(again.run_id).info.status == "RUNNING"
    assert StudyRun(uri, "e", "another").run_id != first.run_id


def test_a_study_s_run_has_the_user_s_tags_note_and_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("SERVICE_TOKEN", "only-for-me-123")
    tags = {"team": "vision", "year": 2026, "key": "only-for-me-123", "mlflow.user": "we"}
    study = StudyRun(uri, "e", "s", tags=tags, note="**Why** it is asked", folder=tmp_path)
    assert study.wait()
    logged = fetch(study.run_id).data.tags
    assert (logged["team"], logged["year"], logged["key"]) == ("vision", "2026", "***")
    assert logged["mlflow.user"] == "we", "the user's own"
    assert logged["mlflow.source.name"]
    assert logged[_mlflow.NOTE] == "**Why** it is asked"
    study.close("FINISHED", "# ranking", None)
    assert fetch(study.run_id).data.tags[_mlflow.NOTE] == "**Why** it is asked\n\n# ranking"

    again = StudyRun(uri, "e", "s")
    again.close("FINISHED", "# another", None)
    assert fetch(again.run_id).data.tags[_mlflow.NOTE] == "**Why** it is asked\n\n# another"
    page = tmp_path / "page"
    page.mkdir()
    RunReader(uri).attach(again.run_id, page, "# report")
    assert fetch(again.run_id).data.tags[_mlflow.NOTE] == "**Why** it is asked\n\n# report"


def test_a_study_s_run_has_what_is_not_committed(uri: str, tmp_path: Path) -> None:
    for command in (["init", "-q"], ["add", "code.py"], [*AUTHOR, "commit", "-q", "-m", "first"]):
        (tmp_path / "code.py").write_text("size = 1\n")
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    study = StudyRun(uri, "e", "s", folder=tmp_path)
    assert study.wait()
    assert fetch(study.run_id).data.tags[_mlflow.GIT_DIRTY] == "false", "with a store beside it"
    (tmp_path / "new.py").touch()
    study = StudyRun(uri, "e", "s", folder=tmp_path)
    assert study.wait()
    tags = fetch(study.run_id).data.tags
    assert tags[_mlflow.GIT_DIRTY] == "true"
    diff = f"source/{tags[_mlflow.GIT_COMMIT]}.diff"
    assert text(study.run_id, diff) == "untracked: new.py\n"
    (tmp_path / "code.py").write_text("size = 2\n")
    study = StudyRun(uri, "e", "s", folder=tmp_path)
    assert study.wait()
    assert "+size = 2" in text(study.run_id, diff)


def test_the_best_value_is_a_chart_over_finished_trials(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    study.log_best(0, None)
    study.log_best(1, 0.5)
    study.log_best(3, 0.75)
    assert study.wait()
    points = study.client.get_metric_history(study.run_id, "best_value")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (3, 0.75)]


def test_a_view_of_the_runs_shows_metrics_and_params(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    study.set_ui_columns(["val_loss"], "minimize", ["experiment", "model.filters"])
    assert study.wait()
    experiment = study.client.get_experiment(study.experiment_id)
    state = json.loads(experiment.tags[_mlflow.VIEW_TAG])
    assert state["orderByAsc"] is True
    assert "metrics.`val_loss`" in state["selectedColumns"]
    assert state["selectedColumns"][-2:] == ["params.`experiment`", "params.`model.filters`"]
    assert experiment.tags[_mlflow.EXPERIMENT_KIND] == _mlflow.TRAINING


def children_of(study: StudyRun, owners: Mapping[str, str]) -> dict[str, str]:
    """Running child runs of these owners; their ids by the same names."""
    children = {}
    for name, process in owners.items():
        tags = {_mlflow.PARENT_RUN: study.run_id, OWNER: process}
        children[name] = study.client.create_run(study.experiment_id, tags=tags).info.run_id
    return children


def statuses(children: Mapping[str, str]) -> dict[str, str]:
    return {name: fetch(run_id).info.status for name, run_id in children.items()}


OWNERS = {"gone": GONE, "ours": owner(), "elsewhere": f"elsewhere{GONE}"}


def test_what_a_killed_process_left_running_is_closed_as_killed(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    children = children_of(study, OWNERS)
    study.close_abandoned()
    expected = {"gone": "KILLED", "ours": "RUNNING", "elsewhere": "RUNNING"}
    assert statuses(children) == expected
    study.end_attempt(children["ours"], "KILLED")
    assert study.wait()
    assert fetch(children["ours"]).info.status == "KILLED"


def test_a_killed_worker_s_run_is_ended_though_nobody_knows_its_id(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    children = children_of(study, OWNERS)
    study.end_attempt("", "KILLED")
    assert study.wait()
    assert statuses(children) == {"gone": "KILLED", "ours": "RUNNING", "elsewhere": "RUNNING"}


def test_of_a_study_that_nobody_else_can_hold_no_run_is_left_running(uri: str) -> None:
    """The same files under another host name, for one."""
    study = StudyRun(uri, "e", "s")
    children = children_of(study, OWNERS)
    again = StudyRun(uri, "e", "s", is_exclusive=True)
    assert set(statuses(children).values()) == {"KILLED"}
    later = children_of(again, OWNERS)
    again.close_abandoned()
    assert set(statuses(later).values()) == {"KILLED"}


def test_the_points_that_a_store_which_was_away_lacks_are_logged_by_the_next_command(
    uri: str,
) -> None:
    study = StudyRun(uri, "e", "s")
    study.log_best(2, 0.5)
    study.restore_best({1: 0.25, 2: 0.5, 3: 0.75})
    assert study.wait()
    points = study.client.get_metric_history(study.run_id, BEST_VALUE)
    assert sorted((point.step, point.value) for point in points) == [(1, 0.25), (2, 0.5), (3, 0.75)]


@pytest.mark.usefixtures("uri")
def test_a_store_that_hangs_holds_up_nothing_of_a_sweep_and_its_end_for_a_bounded_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(runs, "PATIENCE", 2)
    study = StudyRun(server.uri, "hangs", "s")
    server.become("hanging")
    passed = server.passed
    study.set_ui_columns(["val_loss"], "minimize", ["x"])
    study.end_attempt("", "KILLED")
    for finished in range(1, 20):
        study.log_best(finished, 1 / finished)
    assert server.passed == passed, "none of these waits for an answer"
    begun = time.monotonic()
    for step in (
        study.close_abandoned,
        lambda: study.register_champion("gone", "val_loss", 0.5, "minimize"),
        lambda: study.close("FINISHED", "# note", None),
    ):
        with pytest.raises(Undelivered):
            step()
    assert time.monotonic() - begun < 10, "two seconds are waited for, once"
    assert study.deliver_kept(tmp_path) == {}
    server.become("open")
    wait_for(lambda: fetch(study.run_id).info.status == "FINISHED")


@pytest.mark.usefixtures("uri")
def test_a_request_that_mlflow_repeats_because_its_answer_is_lost_makes_one_run_of_a_study(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = mlflow.MlflowClient.create_run

    def create_run_unheard(*arguments: Any, **options: Any) -> Any:
        server.lost_answers = 1
        return create_run(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create_run_unheard)
    study = StudyRun(server.uri, "repeated, a study", "s", study_id="1")
    assert server.lost_answers == 0
    (run,) = study.client.search_runs([study.experiment_id])
    assert run.info.run_id == study.run_id


def test_a_run_that_a_late_request_makes_of_an_attempt_that_has_one_is_deleted(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    tags = {_mlflow.PARENT_RUN: study.run_id, OWNER: GONE, ATTEMPT: "7"}
    create = study.client.create_run
    logged = create(study.experiment_id, tags=tags).info.run_id
    study.client.log_metric(logged, "y", 0.9)
    study.client.set_terminated(logged)
    for _ in range(2):
        create(study.experiment_id, tags=tags)
    killed = create(study.experiment_id, tags=tags | {ATTEMPT: "8"}).info.run_id
    half = create(study.experiment_id, tags=tags | {ATTEMPT: "9"}).info.run_id
    create(study.experiment_id, tags=tags | {ATTEMPT: "9"})
    study.client.log_metric(half, "y", 0.5)
    StudyRun(uri, "e", "s")
    children = study.client.search_runs(
        [study.experiment_id], f"tags.`{_mlflow.PARENT_RUN}` = '{study.run_id}'"
    )
    status = {run.info.run_id: run.info.status for run in children}
    assert status == {logged: "FINISHED", killed: "KILLED", half: "KILLED"}


class WithModel(StudyRun):
    """A study whose runs have models, without the seconds of making any."""

    def add(self, study: str = "s", digest: str = "1", **split: str) -> str:
        tags = {"data": "four", "study": study}
        run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        for key, value in {"validation": "0.1", **split}.items():
            self.client.log_param(run_id, f"data.{key}", value)
        dataset = mlflow.entities.Dataset("four", digest, "local", "nowhere")
        self.client.log_inputs(run_id, [mlflow.entities.DatasetInput(dataset)])
        model = mlflow.initialize_logged_model(source_run_id=run_id)
        output = mlflow.entities.LoggedModelOutput(model.model_id, step=0)
        self.client.log_outputs(run_id, [output])
        return run_id

    def champion(self) -> str:
        """The run whose model is champion."""
        version = self.client.get_model_version_by_alias("cifar_hpo-four", CHAMPION)
        return str(version.run_id)


def test_a_better_model_becomes_the_champion_of_its_dataset(uri: str) -> None:
    study = WithModel(uri, "e", "s")
    first, worse, better = study.add(), study.add(), study.add()
    study.register_champion(first, "val_accuracy", 0.5, "maximize")
    study.register_champion(worse, "val_accuracy", 0.5, "maximize")
    champion = study.client.get_model_version_by_alias("cifar_hpo-four", CHAMPION)
    assert champion.run_id == first, "the present one is as good"
    study.register_champion(better, "val_accuracy", 0.75, "maximize")
    champion = study.client.get_model_version_by_alias("cifar_hpo-four", CHAMPION)
    assert champion.run_id == better
    assert champion.tags == {"metric": "val_accuracy", "value": "0.75", "study": "s"}


@pytest.mark.parametrize(
    ("given", "metric", "difference"),
    [
        ({}, "val_loss", "by val_accuracy"),
        ({"digest": "2"}, "val_accuracy", "on other images"),
        ({"validation": "test"}, "val_accuracy", "with data.validation=0.1"),
        ({"split_seed": "1", "folds": "None"}, "val_accuracy", "with data.split_seed=null"),
        ({"split_seed": "None", "folds": "5"}, "val_accuracy", "with data.folds=null"),
    ],
)
def test_a_champion_that_was_measured_otherwise_stays_and_that_is_said(
    uri: str, given: dict[str, str], metric: str, difference: str
) -> None:
    study = WithModel(uri, "e", "s")
    first, other = study.add(), study.add(**given)
    assert study.register_champion(first, "val_accuracy", 0.5, "maximize") == ""
    kept = study.register_champion(other, metric, 0.9, "maximize")
    assert kept == f"cifar_hpo-four keeps its champion, which was measured {difference}"
    assert study.champion() == first


def test_less_of_a_loss_makes_a_champion(uri: str) -> None:
    study = WithModel(uri, "e", "s")
    first, larger = study.add(), study.add(folds="None")
    smaller = study.add(validation="0.10", split_seed="None")
    study.register_champion(first, "val_loss", 2.0, "minimize")
    study.register_champion(larger, "val_loss", 2.5, "minimize")
    assert study.champion() == first
    study.register_champion(smaller, "val_loss", 1.5, "minimize")
    assert study.champion() == smaller


def test_a_champion_whose_run_is_gone_is_compared_by_its_metric(uri: str) -> None:
    study = WithModel(uri, "e", "s")
    first, better = study.add(), study.add(digest="2")
    study.register_champion(first, "val_accuracy", 0.5, "maximize")
    version = study.client.get_model_version_by_alias("cifar_hpo-four", CHAMPION)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(version), "run_id", "gone")
        assert study.register_champion(better, "val_accuracy", 0.9, "maximize") == ""
    assert study.champion() == better


def test_a_run_without_a_model_is_no_champion(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    with attempt_run(record(uri, study)) as run:
        pass
    study.register_champion(run.run_id, "val_accuracy", 0.5, "maximize")
    assert study.client.search_registered_models() == []


def test_a_champion_that_is_of_no_run_stays_and_is_told(uri: str) -> None:
    study = WithModel(uri, "e", "s")
    run_id = study.add()
    study.client.create_registered_model("cifar_hpo-four")
    version = study.client.create_model_version("cifar_hpo-four", "somewhere")
    study.client.set_registered_model_alias("cifar_hpo-four", CHAMPION, version.version)
    kept = study.register_champion(run_id, "val_accuracy", 0.5, "maximize")
    assert kept == "cifar_hpo-four keeps its champion, version 1, which is not of a sweep"
    with pytest.raises(StudyError, match=r"is of no run, .*; remove its alias champion"):
        RunReader(uri).champion("four")
