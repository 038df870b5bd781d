"""What is read again of MLflow's runs: curves, predictions, models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import mlflow.keras
import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from support_tracking import PREDICTIONS

from cifar_hpo.errors import StudyError
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.attempts import (
    AttemptRecord,
    AttemptRun,
    DatasetRecord,
    Predictions,
    attempt_run,
)
from cifar_hpo.tracking.reader import RunReader, runs_read
from cifar_hpo.tracking.runs import CHAMPION, StudyRun
from cifar_hpo.trial import Context

DATASET = DatasetRecord("four", "0123", np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.uint8))
Log = Callable[[AttemptRun], object]


def logged(uri: str, log: Log, context: Context | None = None) -> str:
    """The id of a run in which `log` was called."""
    record = AttemptRecord(
        tracking_uri=uri,
        experiment_name="e",
        overrides=("x=1",),
        params={},
        config_yaml="",
        dataset=DATASET,
        context=context or Context(),
    )
    with attempt_run(record) as run:
        log(run)
    return run.run_id


def test_a_store_that_is_not_there_is_not_made(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"MLflow's store none\.db is not here; name another by"):
        RunReader(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


def test_curves_are_by_replica_and_epoch(uri: str) -> None:
    def log(run: AttemptRun) -> None:
        run.log_metrics(2, {"loss": 3.0, "replica_0/loss": 2.0, "replica_1/loss": 4.0})
        run.log_metrics(1, {"loss": 4.0, "replica_0/loss": 3.0, "replica_1/loss": 5.0})
        run.log_metrics(1, {"replica_0/val_loss": 9.0})

    curves = RunReader(uri).curves(logged(uri, log), "loss")
    assert curves == {0: [(1, 3.0), (2, 2.0)], 1: [(1, 5.0), (2, 4.0)]}


def test_the_curve_of_a_single_replica_has_the_plain_name(uri: str) -> None:
    run_id = logged(uri, lambda run: run.log_metrics(1, {"loss": 4.0}))
    reader = RunReader(uri)
    assert reader.curves(run_id, "loss") == {0: [(1, 4.0)]}
    assert reader.curves(run_id, "accuracy") == {}


def test_all_curves_are_those_of_several_epochs(uri: str) -> None:
    def log(run: AttemptRun) -> None:
        for epoch in (1, 2, 3):
            run.log_metrics(epoch, {"loss": 1 / epoch, "replica_1/loss": 2 / epoch})
        run.log_metrics(3, {"loss": 0.5, "test_loss": 0.6})
        run.log_metrics(7, {"system/cpu": 1.0})
        run.log_metrics(8, {"system/cpu": 2.0})

    run_id = logged(uri, log)
    with runs_read(uri) as reader:
        curves = reader.all_curves(run_id)
        with pytest.raises(StudyError, match="MLflow's store has no run 0123: it was deleted"):
            reader.all_curves("0123")
    assert curves == {
        "loss": {1: 1.0, 2: 0.5, 3: 0.5},
        "replica_1/loss": {1: 2.0, 2: 1.0, 3: pytest.approx(2 / 3)},
    }


def test_of_a_run_of_one_epoch_all_metrics_are_curves(uri: str) -> None:
    run_id = logged(uri, lambda run: run.log_metrics(1, {"loss": 1.0, "test_loss": 0.6}))
    assert RunReader(uri).all_curves(run_id) == {"loss": {1: 1.0}, "test_loss": {1: 0.6}}


def test_the_latest_attempt_at_a_trial_is_found_while_it_runs(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    context = Context("s", parent_run_id=study.run_id, experiment_id=study.experiment_id)
    reader = RunReader(uri)
    found = []
    logged(uri, lambda _: None, context)

    def log(run: AttemptRun) -> None:
        assert run.wait()
        found.append((reader.latest_attempt(study.run_id, 0), run.run_id))

    logged(uri, log, context)
    ((latest, expected),) = found
    assert latest == expected
    assert reader.latest_attempt(study.run_id, 1) is None


def test_runs_at_work_are_shown_by_their_mean_or_else_by_the_first_replica(uri: str) -> None:
    study = StudyRun(uri, "e", "s")
    reader = RunReader(uri)
    context = Context("s", parent_run_id=study.run_id, experiment_id=study.experiment_id)
    seen: list[Any] = []

    def log(run: AttemptRun) -> None:
        run.log_metrics(1, {"replica_0/loss": 2.0})
        assert run.wait()
        seen.append(reader.running(study.run_id, "loss"))
        run.log_metrics(1, {"loss": 3.0})
        run.log_metrics(2, {"loss": 1.0})
        assert run.wait()
        seen.append(reader.running(study.run_id, "loss"))

    logged(uri, log, context)
    assert seen == [[("x=1", [2.0])], [("x=1", [3.0, 1.0])]]
    assert reader.running(study.run_id, "loss") == []


def test_predictions_and_confusion_are_read_as_they_were_logged(uri: str) -> None:
    predictions = Predictions(
        classes=("cat", "dog"),
        labels=np.array([0, 1, 1], np.int64),
        predicted=np.array([0, 1, 0], np.int64),
        confidence=np.array([0.5, 0.75, 1.0], np.float32),
        correct=np.array([[True, True, False], [False, True, True]]),
    )
    run_id = logged(uri, lambda run: run.log_outcome(1, {}, predictions))
    reader = RunReader(uri)
    assert reader.classifies(run_id)
    assert not reader.classifies(logged(uri, lambda run: run.log_outcome(1, {"val_mae": 1}, None)))
    confusion, classes = reader.confusion(run_id)
    assert confusion.tolist() == [[1, 0], [1, 1]]
    assert classes == ["cat", "dog"]
    predicted, confidence = reader.predictions(run_id)
    assert predicted.tolist() == [0, 1, 0]
    assert confidence.tolist() == [0.5, 0.75, 1.0]
    assert predictions.correct is not None
    correct = reader.correct(run_id)
    assert correct is not None
    assert correct.tolist() == predictions.correct.tolist()


def test_a_run_that_has_no_answers_of_its_replicas_says_nothing(uri: str) -> None:
    earlier = logged(uri, lambda run: run.log_outcome(1, {}, PREDICTIONS))
    assert RunReader(uri).correct(earlier) is None
    assert RunReader(uri).correct(logged(uri, lambda run: run.log_outcome(1, {}, None))) is None


def test_each_study_has_its_view_the_latest_first(uri: str) -> None:
    ids = {}
    for name in ("first", "second"):
        study = StudyRun(uri, name, name)
        study.set_ui_columns(["loss"], "minimize", [])
        ids[name] = study.experiment_id
    StudyRun(uri, "without", "without")
    views = RunReader(uri).views()
    assert views == {name: _mlflow.view_address(ids[name]) for name in ids}
    assert list(views) == ["second", "first"]


def test_a_report_is_attached_with_its_note(uri: str, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "report.html").write_text("x")
    study = StudyRun(uri, "e", "s")
    reader = RunReader(uri)
    reader.attach(study.run_id, tmp_path / "page", "the note")
    artifacts = reader.client.list_artifacts(study.run_id, "report")
    assert [artifact.path for artifact in artifacts] == ["report/report.html"]
    assert reader.client.get_run(study.run_id).data.tags[_mlflow.NOTE] == "the note"


@pytest.fixture
def loadable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs of models that were loaded, without the seconds of making any."""

    class Info:
        metadata = {"classes": ["cat", "dog"]}  # noqa: RUF012
        signature = ModelSignature(Schema([TensorSpec(np.dtype("uint8"), (-1, 4, 5, 3))]))

    uris: list[str] = []

    def load(uri: str, custom_objects: dict[str, Any]) -> None:
        assert custom_objects == {}
        uris.append(uri)

    fetched = _mlflow.FetchedModel
    monkeypatch.setattr(_mlflow, "fetch_keras_model", lambda uri, _: fetched(uri, {}))
    monkeypatch.setattr(mlflow.models, "get_model_info", lambda _: Info)
    monkeypatch.setattr(mlflow.keras, "load_model", load)
    return uris


def champion(uri: str, name: str) -> str:
    """A registered model with a champion; returns the run that it is of."""
    reader = RunReader(uri)
    run_id = logged(uri, lambda _: None)
    model = mlflow.initialize_logged_model(source_run_id=run_id)
    output = mlflow.entities.LoggedModelOutput(model.model_id, step=0)
    reader.client.log_outputs(run_id, [output])
    reader.client.create_registered_model(name)
    version = reader.client.create_model_version(name, f"models:/{model.model_id}", run_id)
    reader.client.set_registered_model_alias(name, CHAMPION, version.version)
    return run_id


def test_the_champion_is_loaded_unless_a_run_is_named(uri: str, loadable: list[str]) -> None:
    run_id = champion(uri, "cifar_hpo-a")
    reader = RunReader(uri)
    loaded = reader.model(None, None)
    assert loaded.title == "cifar_hpo-a version 1, champion"
    assert (loaded.classes, loaded.shape) == (["cat", "dog"], (4, 5, 3))
    assert (loaded.pixels, loaded.labels) == (255, "classes")
    assert reader.model(run_id, None).title == "run x=1"
    assert loadable[0] == "models:/cifar_hpo-a@champion"
    assert loadable[1].startswith("models:/m-")


def test_of_several_champions_one_is_to_be_named(uri: str, loadable: list[str]) -> None:
    champion(uri, "cifar_hpo-a")
    champion(uri, "cifar_hpo-b")
    reader = RunReader(uri)
    with pytest.raises(StudyError, match=r"several champions; say --model .* cifar_hpo-a, cifar_h"):
        reader.model(None, None)
    with pytest.raises(StudyError, match="no champion c; there are: cifar_hpo-a, cifar_hpo-b"):
        reader.model(None, "c")
    assert reader.model(None, "cifar_hpo-b").title == "cifar_hpo-b version 1, champion"


def test_a_model_that_is_not_there_is_told(uri: str) -> None:
    reader = RunReader(uri)
    with pytest.raises(StudyError, match="no champion yet; a sweep makes one; there are: none"):
        reader.model(None, None)
    with pytest.raises(StudyError, match="there is no run abc"):
        reader.model("abc", None)
    run_id = logged(uri, lambda _: None)
    with pytest.raises(StudyError, match=f"run {run_id} has no model"):
        reader.model(run_id, None)


def test_champions_and_views_beyond_the_first_page_are_found(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["cifar_hpo-a", "cifar_hpo-b", "cifar_hpo-c"]
    for name in names:
        champion(uri, name)
    for name in names:
        StudyRun(uri, name, name).set_ui_columns(["loss"], "minimize", [])
    reader = RunReader(uri)
    for search in ("search_registered_models", "search_experiments"):
        one_a_page = functools.partial(getattr(reader.client, search), max_results=1)
        monkeypatch.setattr(reader.client, search, one_a_page)
    with pytest.raises(StudyError, match=f"there are: {', '.join(names)}$"):
        reader.model(None, "another")
    assert sorted(reader.views()) == names
