"""One run's way into MLflow: a `RunWriter` writes it entry by entry, now or later.

An `Entry` is the name of a method of `RunWriter` and its arguments, as JSON takes them. Files that
entries speak of lie in the run's own folder, where a `KeptRun` waits for a later command.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Metric, Param, RunTag

from cifar_hpo import paths
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.ownership import ATTEMPT, end_dead_runs
from cifar_hpo.tracking.store import SERVERS, store_lock
from cifar_hpo.whole_files import whole_file

Entry = tuple[str, Mapping[str, Any]]

NOT_YET = "not logged yet"
WAY_ON = "the same command logs it once the store is back"

ENTRIES = (
    "end_dead_runs",
    "create",
    "params",
    "metrics",
    "tag",
    "dataset",
    "text",
    "file",
    "model",
    "end",
)


class RunWriter:
    """Writes a run to MLflow, in whichever process.

    Any entry may be written twice: it changes nothing then. folder: of the run's files. run_id:
    empty until the run is made. may_exist: whether it may have been made all the same.
    """

    def __init__(
        self, uri: str, folder: Path, run_id: str = "", *, may_exist: bool = False
    ) -> None:
        self.uri = uri
        self.folder = folder
        self.run_id = run_id
        self.may_exist = may_exist
        # One call to a server can make two runs: MLflow repeats a request whose answer is late.
        self._may_be_twice = may_exist or uri.startswith(SERVERS)

    @cached_property
    def client(self) -> mlflow.MlflowClient:
        """Made on first use, because a store that is away can't be opened."""
        return mlflow.MlflowClient(self.uri)

    def write(self, entry: Entry) -> None:
        """Write an entry. Raises what MLflow raises."""
        name, arguments = entry
        if name not in ENTRIES:
            raise ValueError(f"{name} is no entry of a run")
        getattr(self, name)(**arguments)

    def end_dead_runs(self, experiment_id: str) -> None:
        """End the runs of an experiment whose process is gone."""
        end_dead_runs(self.client, experiment_id, _mlflow.RUNNING)

    def create(
        self, experiment_id: str, name: str, tags: Mapping[str, str], start_time: int
    ) -> None:
        """Make the run, unless an earlier call that seemed to fail has made it, or two did."""
        if self.may_exist:
            self._may_be_twice = True
            self._take_one(experiment_id, tags[ATTEMPT])
        self.may_exist = True
        if not self.run_id:
            run = self.client.create_run(experiment_id, start_time, dict(tags), name)
            self.run_id = str(run.info.run_id)

    def _take_one(self, experiment_id: str, attempt: str) -> None:
        """Find the run that was made by calls without an answer, and delete what is too many."""
        condition = f"tags.`{ATTEMPT}` = '{attempt}'"
        for run in self.client.search_runs([experiment_id], condition):
            self.run_id = self.run_id or str(run.info.run_id)
            if run.info.run_id != self.run_id:
                self.client.delete_run(run.info.run_id)

    def params(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        entries = [Param(key, value) for key, value in params.items()]
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(self.run_id, params=entries, tags=run_tags)

    def metrics(self, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """timestamp: milliseconds since 1970."""
        entries = [Metric(name, value, timestamp, step) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=entries)

    def tag(self, key: str, value: str) -> None:
        self.client.set_tag(self.run_id, key, value)

    def dataset(self, fields: Mapping[str, str]) -> None:
        with store_lock():
            self.client.log_inputs(self.run_id, [_mlflow.dataset_input(fields)])

    def text(self, text: str, name: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def file(self, name: str) -> None:
        """An artifact of the run's folder."""
        self.client.log_artifact(self.run_id, str(self.folder / name))

    def model(self, name: str) -> None:
        """A model that `_mlflow.save_keras_model` has saved in the run's folder."""
        run = self.client.get_run(self.run_id)
        _mlflow.log_saved_model(self.client, run, self.folder / name)

    def end(self, status: str, end_time: int) -> None:
        """end_time: milliseconds since 1970."""
        self.client.set_terminated(self.run_id, status, end_time)
        if self._may_be_twice:  # a request that hung may have come through since
            run = self.client.get_run(self.run_id)
            if ATTEMPT in run.data.tags:  # not in those of earlier versions
                self._take_one(run.info.experiment_id, run.data.tags[ATTEMPT])


class KeptRun(NamedTuple):
    """A run of which something is still to be written. number: of its trial."""

    folder: Path
    number: int
    run_id: str
    entries: list[Entry]

    def write(self) -> None:
        """Leave it in its folder, all of it or nothing. Raises OSError."""
        content = {"number": self.number, "run_id": self.run_id, "entries": self.entries}
        draft = self.folder / paths.UNDELIVERED_DRAFT
        with whole_file(self.folder / paths.UNDELIVERED_ENTRIES, draft) as file:
            file.write(json.dumps(content).encode())

    @classmethod
    def read(cls, folder: Path) -> KeptRun:
        """Raises one of UNREADABLE."""
        file = folder / paths.UNDELIVERED_ENTRIES
        content = json.loads(file.read_text(encoding="utf-8"))
        entries: list[Entry] = []
        for name, arguments in content["entries"]:
            entries.append((str(name), dict(arguments)))
        return cls(folder, int(content["number"]), str(content["run_id"]), entries)


UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a kept run raises that is damaged."""


def kept_folders(folder: Path) -> list[Path]:
    """The folders below this one in which attempts have kept something."""
    files = folder.rglob(f"{paths.UNDELIVERED}*/{paths.UNDELIVERED_ENTRIES}")
    return sorted(file.parent for file in files)


def forget_kept(folder: Path) -> None:
    """Remove what attempts have kept, or were about to, in a trial's folder."""
    for kept in folder.glob(f"{paths.UNDELIVERED}*"):
        shutil.rmtree(kept, ignore_errors=True)


def milliseconds() -> int:
    """Now, as MLflow has it: since 1970."""
    return int(time.time() * 1000)


def lost_line(lost: Sequence[str]) -> str:
    """What is said of what MLflow refuses or no disk takes; empty where that is nothing."""
    if not lost:
        return ""
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"not logged: {lost[0]}{more}"
