"""What is written to MLflow of an attempt, and that a store that is away or refuses something costs
the attempt nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support_tracking import (
    DATASET,
    GONE,
    PREDICTIONS,
    Server,
    fetch,
    record,
    text,
)

from cifar_hpo import paths
from cifar_hpo.owner import owner
from cifar_hpo.tracking import _mlflow, attempts, runs
from cifar_hpo.tracking.attempts import AttemptRun, attempt_run
from cifar_hpo.tracking.ownership import OWNER
from cifar_hpo.tracking.reader import RunReader
from cifar_hpo.tracking.runs import StudyRun
from cifar_hpo.trial import Context, Pruned


def test_an_attempt_s_run_shows_what_fixes_it(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    with attempt_run(record(uri, study)) as run:
        assert run.wait()
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


def test_a_group_s_choice_is_a_param_and_the_user_s_tags_are_the_run_s(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    described = record(uri, study, overrides=("+experiment=a", "model.filters=4", "x=1"))
    varied = ("+experiment", "model.filters")
    context = replace(described.context, varied=varied)
    tags = {"team": "vision", "study": "mine"}
    with attempt_run(replace(described, context=context, tags=tags)) as run:
        assert run.wait()
    logged = fetch(run.run_id)
    assert logged.info.run_name == "experiment=a, filters=4"
    assert logged.data.params["experiment"] == "a"
    assert logged.data.params["model.filters"] == "4"
    assert "x" not in logged.data.params, "it does not vary"
    assert (logged.data.tags["team"], logged.data.tags["study"]) == ("vision", "s")


def test_a_note_shows_no_password(uri: str) -> None:
    with attempt_run(record(uri, note="from postgresql://me:SECRET@host/runs")) as run:
        pass
    note = fetch(run.run_id).data.tags[_mlflow.NOTE]
    assert note == "from postgresql://me:***@host/runs"


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, server: Server) -> Iterator[None]:
    """A client that gives up soon; the server is open again afterwards."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for module in (attempts, runs):
        monkeypatch.setattr(module, "PATIENCE", 2)
    yield
    server.become("open")


def log_all(run: AttemptRun) -> None:
    """What a trial of three epochs logs, but its model."""
    for epoch in range(3):
        run.log_metrics(epoch + 1, {"loss": 3.0 - epoch})
    run.log_outcome(3, {"test_accuracy": 0.6}, PREDICTIONS)


def assert_all_is_there(run_id: str) -> None:
    logged = fetch(run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.end_time - logged.info.start_time < 60_000
    assert logged.data.params == {"model.filters": "4", "data.path": "x" * 500}
    assert logged.data.metrics["test_accuracy"] == 0.6
    assert len(logged.inputs.dataset_inputs) == 1
    client = mlflow.MlflowClient()
    points = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files == {"config.yaml", "overrides.json", *FILES_OF_OUTCOME}


FILES_OF_OUTCOME = {"confusion_matrix.json", "test_predictions.npz"}


def children(study: StudyRun) -> list[Any]:
    condition = f"tags.`{_mlflow.PARENT_RUN}` = '{study.run_id}'"
    return list(mlflow.search_runs([study.experiment_id], condition, output_format="list"))


def kept_in(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{paths.UNDELIVERED}*"))


@pytest.mark.usefixtures("uri", "impatient")
@pytest.mark.parametrize(
    "state", ["hanging", "failing", pytest.param("silent", marks=pytest.mark.long)]
)
def test_a_store_that_is_away_to_the_end_delays_no_epoch_and_has_all_later(
    server: Server, state: str, tmp_path: Path
) -> None:
    study = StudyRun(server.uri, f"away, {state}", "s")
    server.become(state)
    passed = server.passed
    with attempt_run(record(server.uri, study), tmp_path) as run:
        log_all(run)
        assert run.run_id == "", "all epochs come before the store's first answer"
    assert run.unlogged.startswith("not logged yet (")
    assert run.unlogged.endswith("the same command logs it once the store is back")
    assert server.passed == passed or state == "silent"
    server.become("open")
    late = study.deliver_kept(tmp_path)
    assert list(late) == [7]
    assert_all_is_there(late[7])
    assert [child.info.run_id for child in children(study)] == [late[7]], "none is there twice"
    assert kept_in(tmp_path) == []
    assert study.deliver_kept(tmp_path) == {}
    assert study.unlogged() == []


@pytest.mark.usefixtures("uri", "impatient")
@pytest.mark.parametrize(
    "state", ["hanging", "failing", pytest.param("silent", marks=pytest.mark.long)]
)
def test_a_store_that_comes_back_while_an_attempt_runs_has_all_at_its_end(
    server: Server, state: str, tmp_path: Path
) -> None:
    study = StudyRun(server.uri, f"back, {state}", "s")
    with attempt_run(record(server.uri, study), tmp_path) as run:
        assert run.wait()
        server.become(state)
        log_all(run)
        assert not run.wait()
        server.become("open")
    assert run.unlogged == ""
    assert_all_is_there(run.run_id)
    assert kept_in(tmp_path) == []


@pytest.mark.usefixtures("uri", "impatient")
def test_a_request_that_mlflow_repeats_because_its_answer_is_lost_makes_one_run(
    server: Server, tmp_path: Path
) -> None:
    study = StudyRun(server.uri, "repeated", "s")
    server.lost_answers = 1
    with attempt_run(record(server.uri, study), tmp_path) as run:
        log_all(run)
    assert server.lost_answers == 0
    assert_all_is_there(run.run_id)
    assert [child.info.run_id for child in children(study)] == [run.run_id]


@pytest.mark.usefixtures("uri", "impatient")
def test_a_request_that_was_repeated_makes_one_run_though_the_store_was_away_at_the_end(
    server: Server, tmp_path: Path
) -> None:
    study = StudyRun(server.uri, "repeated, then away", "s")
    server.lost_answers = 1
    with attempt_run(record(server.uri, study), tmp_path) as run:
        assert run.wait()
        assert len(children(study)) == 2
        server.become("failing")
        log_all(run)
    server.become("open")
    assert study.deliver_kept(tmp_path) == {7: run.run_id}
    assert [child.info.run_id for child in children(study)] == [run.run_id]


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_is_waited_for_and_else_has_all_later(uri: str, tmp_path: Path) -> None:
    study = StudyRun(uri, "locked", "s")
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with attempt_run(record(uri, study), tmp_path) as run:
            log_all(run)
            assert not run.wait()
            other.execute("COMMIT")
        assert run.unlogged == ""
        assert_all_is_there(run.run_id)
        other.execute("BEGIN EXCLUSIVE")
        with attempt_run(record(uri, study), tmp_path) as run:
            log_all(run)
        assert run.unlogged.startswith("not logged yet (")
        other.execute("COMMIT")
    assert_all_is_there(study.deliver_kept(tmp_path)[7])


def test_a_run_that_is_deleted_while_it_trains_costs_the_attempt_nothing(
    uri: str, tmp_path: Path
) -> None:
    study = StudyRun(uri, "deleted", "s")
    with attempt_run(record(uri, study), tmp_path) as run:
        assert run.wait()
        mlflow.MlflowClient().delete_run(run.run_id)
        log_all(run)
    assert run.unlogged.startswith("not logged: metrics (")
    assert "must be in the 'active' state" in run.unlogged
    assert kept_in(tmp_path) == []


@pytest.mark.usefixtures("impatient")
def test_an_experiment_that_is_deleted_has_all_once_it_is_restored(
    uri: str, tmp_path: Path
) -> None:
    study = StudyRun(uri, "deleted", "s")
    client = mlflow.MlflowClient()
    client.delete_experiment(study.experiment_id)
    with attempt_run(record(uri, study), tmp_path) as run:
        log_all(run)
    assert run.unlogged.startswith("not logged yet (")
    assert study.deliver_kept(tmp_path) == {}
    study.note_unlogged(3, run.unlogged)
    assert len(kept_in(tmp_path)) == 1
    (line,) = study.unlogged()
    assert line.startswith("trials 3, 7: not logged yet (")
    assert "must be in the 'active' state" in line
    client.restore_experiment(study.experiment_id)
    assert_all_is_there(study.deliver_kept(tmp_path)[7])


@pytest.mark.usefixtures("impatient")
def test_a_disk_of_artifacts_that_takes_nothing_holds_up_no_metrics(
    uri: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.touch()  # where there should be a folder
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("read-only", artifact_location=f"file://{place}/artifacts")
    study = StudyRun(uri, "read-only", "s")
    with attempt_run(record(uri, study), tmp_path / "7") as run:
        log_all(run)
    assert run.unlogged.startswith("not logged yet ([Errno ")
    logged = fetch(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test_accuracy"] == 0.6
    with pytest.raises(OSError, match="Not a directory"):
        study.close("FINISHED", "# note", None)
    assert fetch(study.run_id).info.status == "FINISHED", "a missing artifact leaves none RUNNING"
    assert study.deliver_kept(tmp_path) == {}
    place.unlink()
    assert_all_is_there(study.deliver_kept(tmp_path)[7])


def test_a_trial_s_folder_that_takes_nothing_costs_files_alone(uri: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.touch()  # where there should be a folder
    study = StudyRun(uri, "full", "s")
    with attempt_run(record(uri, study), place / "7") as run:
        log_all(run)
        run.log_model(None, ["cat", "dog"], DATASET.image)
    assert run.unlogged.startswith("not logged: test_predictions.npz ([Errno ")
    assert run.unlogged.endswith(" and 1 more")
    logged = fetch(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test_accuracy"] == 0.6


@pytest.mark.usefixtures("uri", "impatient")
def test_an_attempt_that_was_interrupted_keeps_nothing_and_the_next_one_clears_up(
    server: Server, tmp_path: Path
) -> None:
    study = StudyRun(server.uri, "interrupted", "s")
    server.become("failing")
    with pytest.raises(KeyboardInterrupt), attempt_run(record(server.uri, study), tmp_path):
        raise KeyboardInterrupt
    assert kept_in(tmp_path) == []
    with pytest.raises(ValueError, match="wrong"), attempt_run(record(server.uri, study), tmp_path):
        raise ValueError("wrong")
    assert len(kept_in(tmp_path)) == 1
    server.become("open")
    with attempt_run(record(server.uri, study), tmp_path) as run:
        log_all(run)
    assert kept_in(tmp_path) == []
    assert_all_is_there(run.run_id)


def test_a_single_run_ends_those_of_the_dead(uri: str, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(uri)
    experiment_id = mlflow.create_experiment("single")
    client = mlflow.MlflowClient()
    runs_of = {}
    owners = {"gone": GONE, "ours": owner(), "elsewhere": f"elsewhere{GONE}", "nobody's": None}
    for name, process in owners.items():
        tags = {OWNER: process} if process else {}
        runs_of[name] = client.create_run(experiment_id, tags=tags).info.run_id
    with attempt_run(record(uri), tmp_path):
        pass
    assert {name: fetch(run_id).info.status for name, run_id in runs_of.items()} == {
        "gone": "KILLED",
        "ours": "RUNNING",
        "elsewhere": "RUNNING",
        "nobody's": "RUNNING",
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_model_whose_graph_can_t_be_written_is_logged_without_and_that_is_said(
    uri: str, tmp_path: Path
) -> None:
    import own_models

    def export(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise ValueError("no graph\nof it")

    model = own_models.scaled((2, 2, 3), 2)
    with attempt_run(record(uri), tmp_path) as run:
        run.log_model(model, ["cat", "dog"], DATASET.image, export=export)
    problem = "the model's graph for MLflow's server (no graph of it)"
    assert run.unlogged == f"not logged: {problem}"
    kept = mlflow.artifacts.download_artifacts(_mlflow.model_uri(fetch(run.run_id)))
    names = {path.name for path in Path(kept).rglob("*")}
    assert "model.keras" in names
    assert "graph" not in names


@pytest.mark.usefixtures("uri", "impatient")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_model_that_was_kept_is_the_one_that_is_asked_later(
    server: Server, tmp_path: Path
) -> None:
    import keras

    image = keras.Input((2, 2, 3), dtype="uint8")
    scaled = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(2, "softmax", dtype="float32")(scaled))
    study = StudyRun(server.uri, "model", "s")
    server.become("failing")
    with attempt_run(record(server.uri, study), tmp_path) as run:
        run.log_model(model, ["cat", "dog"], DATASET.image)
    server.become("open")
    (run_id,) = study.deliver_kept(tmp_path).values()
    assert study.register_champion(run_id, "val_accuracy", 0.5, "maximize") == ""
    loaded = RunReader(server.uri).model(None, "cifar_hpo-four")
    assert loaded.classes == ["cat", "dog"]
    expected = model.predict(DATASET.image, verbose=0)
    assert loaded.model.predict(DATASET.image, verbose=0) == pytest.approx(expected)
