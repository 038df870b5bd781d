"""Where the wings meet: what the objective says of a config, and what it does in an attempt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from cifar_hpo import objective as module
from cifar_hpo import trial
from cifar_hpo.config.app import SYNTHETIC_NOTICE, Config
from cifar_hpo.data.dataset import PREPARED, Dataset
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.objective import (
    Attempt,
    EpochLog,
    Objective,
    attempt_record,
    checkpoints_cleared,
    pruned_by_storage,
)
from cifar_hpo.paths import CHECKPOINT, CONF
from cifar_hpo.processor import fused_below
from cifar_hpo.task import as_task
from cifar_hpo.tracking.runs import AttemptRun
from cifar_hpo.trial import Context, Progress, Pruned

WIDE = fused_below()

objective = Objective()


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def checked(*overrides: str) -> Config:
    return objective.validate(composed(*overrides))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["training.replicas=3"], []),
        (
            ["training.replicas=3", "model.filters=16"],
            [
                (
                    f"training.replicas: with {WIDE} neurons or more in the first layer they train "
                    "one after the other"
                )
            ],
        ),
        (
            ["training.replicas=3", "training.early_stopping=2"],
            ["training.replicas: with training.early_stopping they train one after the other"],
        ),
        (
            ["training.replicas=3", "optimizer=muon"],
            ["training.replicas: with optimizer=muon they train one after the other"],
        ),
        (["model.filters=16"], []),
    ],
)
def test_replicas_that_train_one_after_the_other_are_told_of(
    overrides: list[str], said: list[str]
) -> None:
    assert objective.warnings(checked(*overrides)) == said


@pytest.mark.parametrize(
    ("can", "is_fast", "said"),
    [(True, True, ""), (True, False, "slower than float32"), (False, False, "it is float32")],
)
def test_bfloat16_is_told_of_where_it_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, can: bool, is_fast: bool, said: str
) -> None:
    monkeypatch.setattr("cifar_hpo.processor.can_compute_in_bfloat16", lambda: can)
    monkeypatch.setattr("cifar_hpo.processor.is_fast_in_bfloat16", lambda: is_fast)
    warnings = objective.warnings(checked("training.precision=mixed_bfloat16"))
    assert len(warnings) == bool(said)
    for warning in warnings:
        assert warning.startswith("training.precision: ")
        assert said in warning


def test_a_wrong_value_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^training\.epochs: "):
        objective.validate(composed("training.epochs=0"))


def test_preparing_gives_the_dataset_s_identity(own_folder: None, npz: Path) -> None:
    data = ["data=npz", f"data.path={npz}"]
    name, digest = objective.prepare(checked(*data)).split(":")
    assert name == "small"
    assert len(digest) == 16
    with pytest.raises(ConfigError, match=r"training\.batch_size: 541 is more than the 540"):
        objective.prepare(checked(*data, "training.batch_size=541"))


def test_what_is_known_before_training_has_the_name_that_constraints_use(
    own_folder: None, npz: Path
) -> None:
    config = checked("data=npz", f"data.path={npz}")
    measured = objective.measure(config)
    assert measured["parameters"] == config.model.parameters(10)
    assert measured["operations"] == measured["multiply_adds"] == config.model.multiply_adds()


def test_the_dataset_is_not_opened_again_for_every_constraint(
    own_folder: None, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked("data=npz", f"data.path={npz}")
    first = objective.measure(config)
    for file in Path("mlruns/data").glob("*/*"):
        file.unlink()
    assert objective.measure(config) == first


def test_cost_grows_with_all_that_is_trained() -> None:
    base = objective.cost(checked())
    assert objective.cost(checked("training.epochs=20")) == pytest.approx(2 * base)
    assert objective.cost(checked("training.replicas=3")) == pytest.approx(3 * base)
    assert objective.cost(checked("data.train_size=25000")) == pytest.approx(base / 2)
    assert objective.cost(checked("model.filters=16")) > base


def test_the_objective_has_every_hook_of_a_task() -> None:
    task = as_task(module.objective)
    config = task.validate(composed())
    assert isinstance(config, Config)
    assert task.cost(config) == objective.cost(config)
    assert task.warnings(config) == []
    assert task.metrics == Objective.metrics
    assert task.imports == Objective.imports
    assert task.defaults_before == Objective.defaults_before


def small_dataset(tmp_path: Path, *, fallback: bool = False) -> Dataset:
    images = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4, dtype=np.uint8)
    classes = ("a", "b", "c", "d")
    return Dataset("four", classes, "0123", tmp_path, fallback, train=images, test=images)


def record(config: DictConfig, dataset: Dataset, *overrides: str) -> Any:
    return attempt_record(
        config, objective.validate(config), dataset, Context(), number=3, overrides=overrides
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


class FakeRun:
    """Keeps what an attempt logs."""

    run_id = "abc"

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        self.logged.append((epochs, dict(metrics)))


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    progress: list[Progress] = []
    monkeypatch.setattr(trial, "report", progress.append)
    return progress


def attempt(tmp_path: Path, *overrides: str) -> tuple[Any, FakeRun]:
    run = FakeRun()
    dataset = small_dataset(tmp_path)
    config = checked("training.epochs=2", *overrides)
    return Attempt(config, dataset, cast(AttemptRun, run), "val_loss", None), run


def test_an_attempt_logs_and_reports_each_epoch(tmp_path: Path, reported: list[Progress]) -> None:
    opened, run = attempt(tmp_path)
    opened.begin()
    opened.on_epoch(0, {0: {"val_loss": 2.0}}, restored=True)
    opened.on_epoch(1, {0: {"val_loss": 1.0}}, restored=False)
    assert run.logged == [(1, {"val_loss": 2.0}), (2, {"val_loss": 1.0})]
    assert reported == [
        Progress(0, 2, run_id="abc"),
        Progress(2, 2, 1.0, "abc", restored=1),
    ], "the pruner has seen restored epochs before"


def test_replicas_that_train_together_are_judged_by_their_mean(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, "training.replicas=2")
    opened.on_epoch(0, {0: {"val_loss": 1.0}, 1: {"val_loss": 3.0}}, restored=False)
    assert run.logged[0][1]["val_loss"] == 2.0
    assert reported == [Progress(1, 2, 2.0, "abc")]


def test_of_replicas_that_train_one_after_the_other_the_first_is_judged(
    tmp_path: Path, reported: list[Progress]
) -> None:
    opened, run = attempt(tmp_path, "training.replicas=2", "optimizer=muon")
    opened.on_epoch(0, {0: {"val_loss": 1.0}}, restored=False)
    opened.on_epoch(0, {1: {"val_loss": 3.0}}, restored=False)
    assert run.logged == [(1, {"replica_0/val_loss": 1.0}), (1, {"replica_1/val_loss": 3.0})]
    assert reported == [Progress(1, 4, 1.0, "abc"), Progress(2, 4, None, "abc")]


def test_a_single_run_prints_each_epoch_and_the_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("cifar_hpo.objective.time.monotonic", lambda: now[0])
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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / CHECKPOINT.format(replica=0)
    file.touch()
    return file


def test_checkpoints_of_a_finished_trial_are_removed(checkpoint: Path) -> None:
    with checkpoints_cleared(checkpoint.parent):
        assert checkpoint.exists()
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("error", "is_kept"), [(Pruned, False), (TrialError, False), (KeyboardInterrupt, True)]
)
def test_checkpoints_are_kept_by_what_was_interrupted_alone(
    checkpoint: Path, error: type[BaseException], is_kept: bool
) -> None:
    with pytest.raises(error), checkpoints_cleared(checkpoint.parent):
        raise error
    assert checkpoint.exists() == is_kept


def test_the_pruner_is_asked_through_the_storage_where_nobody_else_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def pruner_for(*given: Any) -> Any:
        asked.append(given)
        return lambda _: True

    monkeypatch.setattr("cifar_hpo.study.study.pruner_for", pruner_for)
    pruner = {"name": "median"}
    context = Context("s", pruner=pruner, storage="sqlite:///x.db")
    monkeypatch.setenv(trial.CONTEXT, context.to_environment()[trial.CONTEXT])
    with pruned_by_storage(context, 4), pytest.raises(Pruned, match="after epoch 1 of 2 by median"):
        trial.report(Progress(1, 2, 0.5))
    assert asked == [("sqlite:///x.db", "s", 4, pruner)]
    assert not trial.has_reporter()


def test_a_worker_that_reports_to_its_parent_goes_on_doing_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Progress] = []

    def hear(progress: Progress) -> bool:
        heard.append(progress)
        return False

    trial.set_reporter(hear)
    try:
        with pruned_by_storage(Context("s", pruner={"name": "median"}), 4):
            trial.report(Progress(1, 2, 0.5))
    finally:
        trial.set_reporter(None)
    assert heard == [Progress(1, 2, 0.5)]
