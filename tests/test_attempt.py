"""One attempt at a trial: what it logs, reports and prints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from omegaconf import DictConfig
from support import composed

from cifar_hpo import trial
from cifar_hpo.attempt import Attempt, EpochLog, attempt_record, model_about
from cifar_hpo.config.app import SYNTHETIC_NOTICE
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL
from cifar_hpo.tracking.attempts import AttemptRun
from cifar_hpo.trial import Context, Progress


def small_dataset(tmp_path: Path, *, fallback: bool = False) -> Dataset:
    images = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4, dtype=np.uint8)
    classes = ("a", "b", "c", "d")
    return Dataset("four", classes, "0123", tmp_path, fallback, train=images, test=images)


def record(config: DictConfig, dataset: Dataset, *overrides: str) -> Any:
    return attempt_record(
        config, validate_config(config), dataset, Context(), number=3, overrides=overrides
    )


def test_an_attempt_s_record_has_params_as_written_and_nothing_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", "http://me:secret@host/")
    monkeypatch.setenv("EPOCHS", "7")
    config = composed("mlflow.tracking_uri=${oc.env:STORE}")
    config.training.epochs = "${oc.decode:${oc.env:EPOCHS}}"
    described = record(config, small_dataset(tmp_path), "model.filters=4")
    assert described.tracking_uri == "http://me:secret@host/"
    assert described.params["training.epochs"] == "${oc.decode:${oc.env:EPOCHS}}"
    assert described.params["model.filters"] == composed().model.filters
    assert not any(key.startswith("mlflow.") for key in described.params)
    assert "secret" not in described.config_yaml
    assert described.overrides == ("model.filters=4",)
    assert (described.experiment_name, described.number, described.note) == ("cifar_hpo", 3, "")
    assert described.dataset.image.shape == (1, 32, 32, 3)
    assert described.dataset.label.shape == (1,)


def test_an_attempt_s_record_says_that_images_are_synthetic(tmp_path: Path) -> None:
    described = record(composed("mlflow.experiment=mine"), small_dataset(tmp_path, fallback=True))
    assert described.note == SYNTHETIC_NOTICE
    assert described.dataset.fallback
    assert described.experiment_name == "mine"


@pytest.mark.parametrize(
    ("labels", "top", "about"),
    [
        (CLASSES, 255, {}),
        (NUMBERS, 255, {"labels": "numbers"}),
        (SEVERAL, 1.0, {"labels": "several", "pixels": 1}),
        (CLASSES, 200.0, {"pixels": 255}),
        (CLASSES, 300.0, {"pixels": None}),
        (CLASSES, -1.0, {"pixels": None}),
    ],
)
def test_what_asks_a_model_is_told_of_labels_that_are_no_classes_and_of_pixels(
    tmp_path: Path, labels: str, top: float, about: dict[str, Any]
) -> None:
    pixels = np.full((4, 2, 2, 3), top, np.uint8 if isinstance(top, int) else np.float32)
    images = pixels, np.zeros(4, np.uint8)
    dataset = replace(small_dataset(tmp_path), labels=labels, train=images, test=images)
    assert model_about(dataset) == about


class Trainee(NamedTuple):
    """Of `Trained`, what decides which replica is kept."""

    metrics: Mapping[str, float]


@pytest.mark.parametrize(("labels", "kept"), [(CLASSES, 1), (SEVERAL, 1), (NUMBERS, 0)])
def test_the_best_replica_is_kept(tmp_path: Path, labels: str, kept: int) -> None:
    replicas = [
        Trainee({"val_accuracy": 0.2, "val_loss": 1.0, "epochs": 2}),
        Trainee({"val_accuracy": 0.4, "val_loss": 3.0, "epochs": 2}),
    ]
    opened, _ = attempt(tmp_path, "training.replicas=2")
    opened.dataset = replace(opened.dataset, labels=labels)
    outcomes: list[Any] = []
    opened._log_outcome = lambda *given: outcomes.append(given)  # noqa: SLF001
    metrics = opened.finish(replicas)
    assert outcomes[0][2] is replicas[kept]
    assert metrics["val_loss"] == 2.0


class FakeRun:
    """Keeps what an attempt logs."""

    run_id = "abc"

    def __init__(self, folder: Path, described: Any) -> None:
        self.trial_folder = folder
        self.record = described
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        self.logged.append((epochs, dict(metrics)))


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    progress: list[Progress] = []
    monkeypatch.setattr(trial, "report", progress.append)
    return progress


def attempt(tmp_path: Path, *overrides: str, metric: str = "val_loss") -> tuple[Any, FakeRun]:
    dataset = small_dataset(tmp_path)
    written = composed("training.epochs=2", *overrides)
    run = FakeRun(tmp_path, record(written, dataset, *overrides))
    return Attempt(validate_config(written), dataset, cast(AttemptRun, run), metric, None), run


def epoch_ends(
    opened: Attempt,
    epoch: int,
    values: Mapping[int, Mapping[str, float]],
    best: Mapping[int, Mapping[str, float]] | None = None,
    *,
    restored: bool,
) -> None:
    best = best or {replica: {} for replica in values}
    opened.on_epoch(epoch, values, best=best, restored=restored, is_told=restored)


def test_an_attempt_logs_and_reports_each_epoch(tmp_path: Path, reported: list[Progress]) -> None:
    opened, run = attempt(tmp_path)
    opened.begin()
    epoch_ends(opened, 0, {0: {"val_loss": 2.0}}, restored=True)
    epoch_ends(opened, 1, {0: {"val_loss": 1.0}}, restored=False)
    assert run.logged == [(1, {"val_loss": 2.0}), (2, {"val_loss": 1.0})]
    assert reported == [
        Progress(0, 2, run_id="abc"),
        Progress(2, 2, 1.0, "abc", restored=1),
    ], "the pruner has seen restored epochs before"


def test_replicas_that_train_together_are_judged_by_their_mean(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, "training.replicas=2")
    epoch_ends(opened, 0, {0: {"val_loss": 1.0}, 1: {"val_loss": 3.0}}, restored=False)
    assert run.logged[0][1]["val_loss"] == 2.0
    assert reported == [Progress(1, 2, 2.0, "abc")]


def test_of_replicas_that_train_one_after_the_other_the_first_is_judged(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, "training.replicas=2", "optimizer=muon")
    epoch_ends(opened, 0, {0: {"val_loss": 1.0}}, restored=False)
    epoch_ends(opened, 0, {1: {"val_loss": 3.0}}, restored=False)
    assert run.logged == [(1, {"replica_0/val_loss": 1.0}), (1, {"replica_1/val_loss": 3.0})]
    assert reported == [Progress(1, 4, 1.0, "abc"), Progress(2, 4, None, "abc")]


def test_a_study_by_the_best_over_epochs_sees_the_best_so_far(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, metric="val_loss_best")
    for epoch, (value, best) in enumerate([(2.0, 2.0), (3.0, 2.0)]):
        of_epoch = {"val_loss_best": best, "val_accuracy_best": 0.5}
        epoch_ends(opened, epoch, {0: {"val_loss": value}}, {0: of_epoch}, restored=epoch == 0)
    assert run.logged[1] == (2, {"val_loss": 3.0, "val_loss_best": 2.0})
    assert [progress.value for progress in reported] == [2.0]


def test_the_best_so_far_of_replicas_is_the_mean_of_each_one_s(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, "training.replicas=2", metric="val_loss_best")
    best = {0: {"val_loss_best": 1.0}, 1: {"val_loss_best": 3.0}}
    epoch_ends(opened, 1, {0: {"val_loss": 5.0}, 1: {"val_loss": 3.0}}, best, restored=False)
    assert [progress.value for progress in reported] == [2.0]
    assert run.logged[0][1]["replica_0/val_loss_best"] == 1.0


def test_tensorboard_gets_what_mlflow_gets_and_what_was_given(
    tmp_path: Path, reported: list[Progress]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = ["training.tensorboard=true", "optimizer=muon", "training.replicas=2"]
    opened, run = attempt(tmp_path, *overrides)
    for replica in (0, 1):
        epoch_ends(opened, 0, {replica: {"val_loss": 1.0 + replica}}, restored=replica == 0)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    shown = [(point.step, point.value) for point in accumulator.Scalars("replica_1/val_loss")]
    assert shown == [(1, 2.0)]
    assert accumulator.Tags()["scalars"] == [name for _, logged in run.logged for name in logged]
    (tried,) = accumulator.PluginTagToContent("hparams").values()
    for given in ("training.tensorboard", "optimizer", "muon", "training.replicas"):
        assert given.encode() in tried


def test_a_single_run_prints_each_epoch_and_the_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("cifar_hpo.attempt.time.monotonic", lambda: now[0])
    epoch_log = EpochLog()
    with caplog.at_level(logging.INFO):
        epoch_log.training_begins(3)
        epoch_log.epoch_ended({"loss": 0.5}, restored=True)
        now[0] += 10
        epoch_log.epoch_ended({"loss": 0.25, "accuracy": 0.75}, restored=False)
        epoch_log.epoch_ended({"loss": 0.125}, restored=False)
    assert [log_record.getMessage() for log_record in caplog.records] == [
        "epoch 1 of 3  loss 0.5000",
        "epoch 2 of 3  loss 0.2500  accuracy 0.7500  0:10 left",
        "epoch 3 of 3  loss 0.1250",
    ]
