"""What is written to MLflow of a study and of its attempts, and that a run's status never lies."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest

from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.runs import (
    CHAMPION,
    OWNER,
    AttemptRecord,
    DatasetRecord,
    Predictions,
    StudyRun,
    attempt_run,
    is_alive,
    owner,
)
from cifar_hpo.tracking.store import connect
from cifar_hpo.trial import Context, Pruned

DATASET = DatasetRecord("four", "0123", np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.uint8))
GONE = f"{socket.gethostname()}:{os.getpid()}:1.00"
"""A process with our number that started at another time."""


def record(uri: str, study: StudyRun | None = None, **changes: Any) -> AttemptRecord:
    context = Context()
    if study:
        varied = ("model.filters",)
        context = Context("s", study.run_id, study.experiment_id, varied=varied, attempt=1)
    described = AttemptRecord(
        tracking_uri=uri,
        experiment_name="single",
        overrides=("model.filters=4", "data=npz"),
        params={"model.filters": 4, "data.path": "x" * 600},
        config_yaml="model:\n  filters: 4\n",
        dataset=DATASET,
        context=context,
        number=7,
        tags={"cpu": "a fast one"},
    )
    return replace(described, **changes)


def text(run_id: str, name: str) -> str:
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def fetch(run_id: str) -> Any:
    return mlflow.MlflowClient().get_run(run_id)


def test_the_owner_of_a_run_is_alive_while_its_process_is() -> None:
    host, pid, started = owner().rsplit(":", 2)
    assert is_alive(owner())
    assert not is_alive(GONE)
    assert not is_alive(f"{host}:{max(psutil.pids()) + 100_000}:{started}")
    assert is_alive(f"elsewhere:{pid}:{started}"), "nobody can say, so it is believed"


def test_the_store_is_the_one_given_else_of_the_environment_else_here(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert connect(None) == "sqlite:///other.db"
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


def test_the_best_value_is_a_chart_over_finished_trials(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    study.log_best(0, None)
    study.log_best(1, 0.5)
    study.log_best(3, 0.75)
    points = study.client.get_metric_history(study.run_id, "best_value")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (3, 0.75)]


def test_a_view_of_the_runs_names_a_group_s_choice(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    study.set_ui_columns(["val_loss"], "minimize", ["optimizer", "model.filters"])
    experiment = study.client.get_experiment(study.experiment_id)
    state = json.loads(experiment.tags[_mlflow.VIEW_TAG])
    assert state["orderByAsc"] is True
    assert "metrics.`val_loss`" in state["selectedColumns"]
    assert state["selectedColumns"][-2:] == ["params.`optimizer.name`", "params.`model.filters`"]
    assert experiment.tags[_mlflow.EXPERIMENT_KIND] == _mlflow.TRAINING


def test_what_a_killed_process_left_running_is_closed_as_killed(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    children = {}
    for name, process in {"gone": GONE, "ours": owner()}.items():
        tags = {_mlflow.PARENT_RUN: study.run_id, OWNER: process}
        children[name] = study.client.create_run(study.experiment_id, tags=tags).info.run_id
    study.close_abandoned()
    assert fetch(children["gone"]).info.status == "KILLED"
    assert fetch(children["ours"]).info.status == "RUNNING"
    study.end_attempt(children["ours"], "KILLED")
    assert fetch(children["ours"]).info.status == "KILLED"


def test_an_attempt_s_run_shows_what_fixes_it(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    with attempt_run(record(uri, study)) as run:
        assert fetch(run.run_id).info.status == "RUNNING"
    logged = fetch(run.run_id)
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "filters=4")
    assert logged.info.experiment_id == study.experiment_id
    assert logged.data.params == {"model.filters": "4", "data.path": "x" * 500}
    expected = {
        "data": "four",
        "cpu": "a fast one",
        "study": "s",
        "kind": "trial",
        "trial": "7",
        "attempt": "1",
        "overrides": "model.filters=4 data=npz",
        OWNER: owner(),
        _mlflow.PARENT_RUN: study.run_id,
    }
    assert expected.items() <= logged.data.tags.items()
    assert text(run.run_id, "config.yaml") == "model:\n  filters: 4\n"
    assert json.loads(text(run.run_id, "overrides.json")) == ["model.filters=4", "data=npz"]
    (dataset,) = logged.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("four", "0123")


def test_a_run_outside_a_study_is_its_own(uri: str) -> None:
    with attempt_run(record(uri)) as run:
        pass
    logged = fetch(run.run_id)
    experiment = mlflow.MlflowClient().get_experiment(logged.info.experiment_id)
    assert experiment.name == "single"
    assert not {"study", "trial", _mlflow.PARENT_RUN, _mlflow.NOTE} & set(logged.data.tags)


def test_a_synthetic_fallback_is_in_name_tags_and_dataset(uri: str) -> None:
    described = record(uri, dataset=replace(DATASET, fallback=True), note="these are synthetic")
    with attempt_run(described) as run:
        pass
    logged = fetch(run.run_id)
    assert logged.info.run_name == "filters=4, data=npz SYNTHETIC"
    assert logged.data.tags["synthetic"] == "true"
    assert logged.data.tags[_mlflow.NOTE] == "these are synthetic"
    (dataset,) = logged.inputs.dataset_inputs
    assert dataset.dataset.name == "four SYNTHETIC FALLBACK"


NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "nothing": ((), (), "base"),
    "what varied": (("a.x=1", "b.y=2"), ("b.y",), "y=2"),
    "all of a single run": (("a.x=1", "b.y=2"), (), "x=1, y=2"),
    "two of the same last part": (("a.x=1", "b.x=2"), ("a.x", "b.x"), "a.x=1, b.x=2"),
    "a long one": (("a.x=" + "1" * 300,), (), "x=" + "1" * 198),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_run_is_named_after_what_varied(case: str, uri: str) -> None:
    overrides, varied, name = NAMES[case]
    with attempt_run(record(uri, overrides=overrides, context=Context(varied=varied))) as run:
        pass
    assert fetch(run.run_id).info.run_name == name


@pytest.mark.parametrize(
    ("error", "status", "tags"),
    [
        (Pruned("after epoch 1"), "FINISHED", {"pruned": "after epoch 1"}),
        (ValueError("what went wrong"), "FAILED", {}),
        (KeyboardInterrupt(), "KILLED", {}),
        (SystemExit(143), "KILLED", {}),
    ],
)
def test_the_status_of_a_run_is_true(
    uri: str, error: BaseException, status: str, tags: Mapping[str, str]
) -> None:
    with pytest.raises(type(error)), attempt_run(record(uri)) as run:
        raise error
    logged = fetch(run.run_id)
    assert logged.info.status == status
    assert tags.items() <= logged.data.tags.items()
    assert mlflow.active_run() is None
    if status == "FAILED":
        assert "ValueError: what went wrong" in text(run.run_id, "traceback.txt")


PREDICTIONS = Predictions(
    classes=("cat", "dog", "owl"),
    labels=np.array([0, 0, 1, 1, 1], np.int64),
    predicted=np.array([0, 1, 1, 1, 2], np.int64),
    confidence=np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32),
)


def test_a_confusion_matrix_has_true_classes_as_rows() -> None:
    assert PREDICTIONS.confusion().tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]


def test_the_accuracy_of_a_class_without_images_is_0() -> None:
    assert PREDICTIONS.accuracy_by_class() == pytest.approx({"cat": 0.5, "dog": 2 / 3, "owl": 0})


def test_an_attempt_s_metrics_have_the_epochs_done_as_their_step(uri: str) -> None:
    with attempt_run(record(uri)) as run:
        run.log_metrics(1, {"loss": 2.0, "accuracy": 0.25})
        run.log_metrics(2, {"loss": 1.0})
        run.log_outcome(2, {"test_accuracy": 0.6}, PREDICTIONS)
    points = run.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]
    metrics = fetch(run.run_id).data.metrics
    assert metrics["test_accuracy"] == 0.6
    assert metrics["test_accuracy/cat"] == 0.5
    assert [point.step for point in run.client.get_metric_history(run.run_id, "test_accuracy")] == [
        2
    ]


class WithModel(StudyRun):
    """A study whose runs have models, without the seconds of making any."""

    def add(self, study: str = "s", digest: str = "1", validation: str = "0.1") -> str:
        tags = {"data": "four", "study": study}
        run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        self.client.log_param(run_id, "data.validation", validation)
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
    ("digest", "validation", "metric", "difference"),
    [
        ("1", "0.1", "val_loss", "by val_accuracy"),
        ("2", "0.1", "val_accuracy", "on other images"),
        ("1", "test", "val_accuracy", "with data.validation=0.1"),
    ],
)
def test_a_champion_that_was_measured_otherwise_stays_and_that_is_said(
    uri: str, digest: str, validation: str, metric: str, difference: str
) -> None:
    study = WithModel(uri, "e", "s")
    first, other = study.add(), study.add(digest=digest, validation=validation)
    assert study.register_champion(first, "val_accuracy", 0.5, "maximize") == ""
    kept = study.register_champion(other, metric, 0.9, "maximize")
    assert kept == f"cifar_hpo-four keeps its champion, which was measured {difference}"
    assert study.champion() == first


def test_less_of_a_loss_makes_a_champion(uri: str) -> None:
    study = WithModel(uri, "e", "s")
    first, larger, smaller = study.add(), study.add(), study.add()
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
