"""What TensorBoard shows of a trial, read by TensorBoard itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support import no_space_beyond

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from cifar_hpo.paths import TENSORBOARD_FILES
from cifar_hpo.tracking.tensorboard import EventLog

MEND = "mend tracking/tensorboard.py"
"""The end of a message about what a new version of TensorBoard changed."""


def read(folder: Path) -> Any:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(accumulator: Any) -> dict[str, list[tuple[int, float]]]:
    """Step and value of all scalars by name."""
    points = {}
    for name in accumulator.Tags()["scalars"]:
        points[name] = [(point.step, point.value) for point in accumulator.Scalars(name)]
    return points


def test_scalars_are_there_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "new" / "tensorboard", {})
    events.log(1, {"loss": 2.0, "replica_0/loss": 1.5})
    events.log(2, {"loss": 1.0, "replica_0/loss": 0.5})
    assert scalars(read(tmp_path / "new" / "tensorboard")) == {
        "loss": [(1, 2.0), (2, 1.0)],
        "replica_0/loss": [(1, 1.5), (2, 0.5)],
    }, MEND


def test_an_outcome_adds_what_has_no_value_by_epoch(tmp_path: Path) -> None:
    events = EventLog(tmp_path, {})
    events.log(1, {"loss": 2.0})
    events.log(2, {"loss": 3.0})
    events.log_outcome(2, {"loss": 2.0, "test_loss": 4.0})
    wanted = {"loss": [(1, 2.0), (2, 3.0)], "test_loss": [(2, 4.0)]}
    assert scalars(read(tmp_path)) == wanted


def test_a_later_attempt_logs_its_epochs_once_also_for_a_tensorboard_that_looks_on(
    tmp_path: Path,
) -> None:
    first = EventLog(tmp_path, {})
    for epoch in (1, 2, 3):
        first.log(epoch, {"loss": 1 / epoch})
    (file,) = tmp_path.glob(TENSORBOARD_FILES)
    file.rename(file.with_name("events.out.tfevents.0000000001.1"))  # of an earlier process
    watching = read(tmp_path)
    again = EventLog(tmp_path, {})
    for epoch in (1, 2, 3, 4):
        again.log(epoch, {"loss": 2 / epoch})
    watching.Reload()
    for reader in (read(tmp_path), watching):
        points = scalars(reader)["loss"]
        assert [step for step, _ in points] == [1, 2, 3, 4], MEND
        assert [value for _, value in points] == pytest.approx([2.0, 1.0, 2 / 3, 0.5])
    assert len(list(tmp_path.glob(TENSORBOARD_FILES))) == 1


def test_what_a_trial_tries_is_on_the_page_of_hyperparameters(tmp_path: Path) -> None:
    tried = {"model.filters": 4, "model.batch_norm": True, "optimizer": "adam", "data.augment": []}
    EventLog(tmp_path, tried).log(1, {"val_accuracy": 0.5})
    plugin = read(tmp_path).PluginTagToContent(metadata.PLUGIN_NAME)
    content = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
    shown = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in content.hparams.items()
    }
    assert shown == {
        "model.filters": 4.0,
        "model.batch_norm": True,
        "optimizer": "adam",
        "data.augment": "[]",
    }


def test_no_room_for_events_is_said_once_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = EventLog(tmp_path, {})
    (file,) = tmp_path.glob(TENSORBOARD_FILES)
    with caplog.at_level(logging.WARNING), no_space_beyond(file.stat().st_size + 10):
        events.log(1, {"loss": 1.0})
        events.log(2, {"loss": 0.5})
    problem = "no space left; make room, then the same command goes on"
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"nothing more is logged for TensorBoard: {problem}"]
