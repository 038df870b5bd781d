"""A trial's scalars as TensorBoard reads them: an `EventLog` is one attempt's file of events.

Needs the extra `tensorboard`. Of it the parts are used that PyTorch's SummaryWriter is made of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from cifar_hpo.errors import disk_error
from cifar_hpo.paths import TENSORBOARD_EVENTS, TENSORBOARD_FILES

log = logging.getLogger(__name__)

FILE_VERSION = "brain.Event:2"
"""Of files of which TensorBoard forgets what a later attempt logs again."""


class EventLog:
    """Scalars by epoch, each in the file as soon as it is logged.

    An attempt at a trial logs all epochs, those too that an earlier attempt trained and left to it;
    so the files of earlier attempts are removed, and a TensorBoard that has read them is told to
    forget them. What can't be written is said once and costs nothing else.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, object]) -> None:
        """folder: of the trial's events, made where it is not there. parameters: what the trial
        tries, for TensorBoard's page of hyperparameters."""
        name = TENSORBOARD_EVENTS.format(seconds=int(time.time()), process=os.getpid())
        self.file = folder / name
        self.logged: set[str] = set()  # names
        self.is_lost = False  # what is logged, since something could not be written
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        tried = hparams.hparams_pb(_plain(parameters), trial_id=str(folder))
        with self._loss_said():
            _make_empty(folder)
            self._write(file_version=FILE_VERSION)
            self._write(session_log=begin)
            self._write(summary=tried)

    def log(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Metrics under their names; their step is the number of epochs done."""
        summary = summary_pb2.Summary()
        for name, value in metrics.items():
            summary.value.add(tag=name, simple_value=value)
        self.logged.update(metrics)
        if not self.is_lost:
            with self._loss_said():
                self._write(summary=summary, step=epochs)

    def log_outcome(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Those of the final metrics that have no value by epoch; a name has one value an epoch."""
        self.log(epochs, {name: metrics[name] for name in metrics if name not in self.logged})

    def _write(self, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), **content)
        with self.file.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())

    @contextlib.contextmanager
    def _loss_said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.is_lost = True
            log.warning("nothing more is logged for TensorBoard: %s", disk_error(error) or error)


def _make_empty(folder: Path) -> None:
    """Make a folder of events, without any in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob(TENSORBOARD_FILES):
        file.unlink()


def _plain(parameters: Mapping[str, object]) -> dict[str, bool | float | str]:
    """Parameters as the page takes them: numbers, truth values and texts."""
    plain = {}
    for name, value in parameters.items():
        plain[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return plain
