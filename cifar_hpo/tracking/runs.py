"""The runs that are written to MLflow: `StudyRun` for a study, `AttemptRun` for an attempt.

The latter is described by an `AttemptRecord` of plain values, so that any task can be tracked.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Metric, Param, RunTag
from numpy.typing import NDArray

from cifar_hpo import paths
from cifar_hpo.confusion import accuracy_by_class
from cifar_hpo.metrics import class_metrics
from cifar_hpo.redaction import redacted
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.store import connect, experiment, store_lock
from cifar_hpo.trial import FAILED, FINISHED, KILLED, Context, Pruned

OWNER = "cifar_hpo.owner"
"""The tag that says which process writes a run."""

CHAMPION = "champion"
"""The alias of the best version of a registered model."""

VALIDATION = "data.validation"
"""The param that says which images a model was selected by."""

MAX_PARAM_LENGTH = 500
MAX_OVERRIDES_LENGTH = 5_000
MAX_NAME_LENGTH = 200
"""Characters that MLflow's stores take, or its UI shows."""


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset as a run shows it: its name, the digest of its content, and an example.

    image: (1, height, width, channels). label: (1,). fallback: whether it is a synthetic one in
    place of what could not be had.
    """

    name: str
    digest: str
    image: NDArray[Any]
    label: NDArray[Any]
    fallback: bool = False


@dataclass(frozen=True)
class AttemptRecord:
    """What fixes an attempt, as its run is to show it.

    experiment_name: used outside a study, whose context has its own. overrides: what the user
    would type. params: flat, by the path of their key. note: the run's description, Markdown.
    """

    tracking_uri: str | None
    experiment_name: str
    overrides: tuple[str, ...]
    params: Mapping[str, object]
    config_yaml: str
    dataset: DatasetRecord
    context: Context = Context()
    number: int = 0
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    system_metrics: bool = False


@dataclass(frozen=True)
class Predictions:
    """What a model takes the test images for.

    labels, predicted: the true and the predicted class of each, (n,), int64. confidence: the
    probability of the latter, (n,), float32.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

    def confusion(self) -> NDArray[np.int64]:
        """Images by true (rows) and predicted class (columns), (classes, classes)."""
        count = len(self.classes)
        cells = np.bincount(self.labels * count + self.predicted, minlength=count**2)
        return cells.reshape(count, count)

    def accuracy_by_class(self) -> dict[str, float]:
        """The share of each class's images that are recognised; 0 for a class without any."""
        return accuracy_by_class(self.confusion(), self.classes)


@dataclass(frozen=True)
class Measured:
    """By what a model's value was measured; None where that is not known any more.

    digest: of the images' content. validation: the config's data.validation.
    """

    metric: str
    digest: str | None = None
    validation: str | None = None

    @classmethod
    def by_run(cls, run: Any, metric: str) -> Measured:
        """As its MLflow run has it."""
        return cls(metric, _mlflow.dataset_digest(run), run.data.params.get(VALIDATION, ""))

    def difference(self, other: Measured) -> str:
        """How the other was measured in another way; empty where the two can be compared."""
        if self.metric != other.metric:
            return f"by {other.metric}"
        if other.digest is not None and self.digest != other.digest:
            return "on other images"
        if other.validation is not None and self.validation != other.validation:
            return f"with {VALIDATION}={other.validation}"
        return ""


def owner() -> str:
    """Who runs this: host, process and its start time.

    By the time another process with the same number is not taken for it.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str) -> bool:
    """Whether that process still runs; one on another host is believed to."""
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) < 0.1)
    except psutil.NoSuchProcess:
        return False


class StudyRun:
    """The parent run of a study: its best value over trials, its report, its best configuration.

    A study that goes on has the run that it had. uri: of the store, as it was found.
    """

    def __init__(self, tracking_uri: str | None, experiment_name: str, study: str) -> None:
        self.uri = connect(tracking_uri)
        self.experiment_name = experiment_name
        self.experiment_id = experiment(experiment_name)
        self.client = mlflow.MlflowClient()
        self.run_id = self._reopen(study) or self._create(study)
        self.close_abandoned()

    def _reopen(self, study: str) -> str:
        """The run that the study has, RUNNING again and ours; empty where it has none."""
        runs = self._search(f"tags.study = '{study}' and tags.kind = 'study'")
        if not runs:
            return ""
        run_id = str(runs[0].info.run_id)
        self.client.set_tag(run_id, OWNER, owner())
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def _create(self, study: str) -> str:
        tags = {"study": study, "kind": "study", OWNER: owner()}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=f"study {study}")
        return str(run.info.run_id)

    def _search(self, condition: str) -> list[Any]:
        return list(mlflow.search_runs([self.experiment_id], condition, output_format="list"))

    def close_abandoned(self) -> None:
        """Mark as KILLED what still says RUNNING but whose process is gone."""
        for run in self._search(_mlflow.child_runs(self.run_id, "RUNNING")):
            if not is_alive(run.data.tags.get(OWNER, ":0:0")):
                self.end_attempt(run.info.run_id, KILLED)

    def end_attempt(self, run_id: str, status: str) -> None:
        """Give a child run its status, where its own process can't."""
        self.client.set_terminated(run_id, status)

    def set_ui_columns(self, metrics: Sequence[str], direction: str, keys: Sequence[str]) -> None:
        """A view of the runs for MLflow's UI, the best first.

        Its columns are what varied and what came of it. metrics: of the study, the first of which
        sorts. keys: of the parameters that vary.
        """
        shown = dict.fromkeys([*metrics, "test_accuracy", "parameters", "train_seconds"])
        params = []
        for key in keys:  # a group's choice is known by its name
            params.append(key if "." in key else f"{key}.name")
        state = _mlflow.view_state(list(shown), params, direction, self.run_id)
        self.client.set_experiment_tag(self.experiment_id, _mlflow.VIEW_TAG, state)

    def log_best(self, finished: int, value: float | None) -> None:
        """A point of the chart of the best value over finished trials, once there is a value."""
        if value is not None:
            self.client.log_metric(self.run_id, "best_value", value, step=finished)

    def close(self, status: str, note: str, best: Mapping[str, Any] | None) -> None:
        """End the parent run with its report and its best configuration.

        note: the report, Markdown, which MLflow shows as the run's description.
        """
        self.client.set_tag(self.run_id, _mlflow.NOTE, note)
        self.client.log_text(self.run_id, note, paths.ARTIFACT_RANKING)
        if best:
            self.client.log_dict(self.run_id, dict(best), paths.ARTIFACT_BEST)
        self.client.set_terminated(self.run_id, status)

    def register_champion(self, run_id: str, metric: str, value: float, direction: str) -> str:
        """Register the model of a run as the champion of its dataset.

        The present champion stays where it is as good, or was measured otherwise: by another
        metric, on images of another content, or on another validation split. Returns why it stays
        in the latter case, as a sentence; else it is empty.
        """
        run = self.client.get_run(run_id)
        source = _mlflow.model_uri(run)
        if source is None:
            return ""
        name = f"cifar_hpo-{run.data.tags['data']}"
        with contextlib.suppress(mlflow.MlflowException):  # it is there already
            self.client.create_registered_model(name)
        measured = Measured.by_run(run, metric)
        present = self._champion(name)
        if present is not None:
            difference = measured.difference(self._measured(present))
            if difference:
                return f"{name} keeps its champion, which was measured {difference}"
            best = float(present.tags["value"])
            is_better = value > best if direction == "maximize" else value < best
            if not is_better:
                return ""
        tags = {"metric": metric, "value": str(value), "study": run.data.tags.get("study", "")}
        version = self.client.create_model_version(
            name, source, run_id, tags=tags, model_id=_mlflow.model_id(run)
        )
        self.client.set_registered_model_alias(name, CHAMPION, version.version)
        return ""

    def _champion(self, name: str) -> Any:
        """The version of a registered model that is champion now; None where none is."""
        try:
            return self.client.get_model_version_by_alias(name, CHAMPION)
        except mlflow.MlflowException:
            return None

    def _measured(self, version: Any) -> Measured:
        """How a champion was measured; by its metric alone where its run is gone."""
        metric = str(version.tags.get("metric", ""))
        try:
            return Measured.by_run(self.client.get_run(version.run_id), metric)
        except mlflow.MlflowException:
            return Measured(metric)


class AttemptRun:
    """A child run while it lasts; `attempt_run` opens and ends it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.client = mlflow.MlflowClient()

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Metrics in one batch; their step is the number of epochs done."""
        now = int(time.time() * 1000)
        entries = [Metric(name, value, now, epochs) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=entries)

    def log_outcome(
        self, epochs: int, metrics: Mapping[str, float], predictions: Predictions
    ) -> None:
        """Final metrics, and how the test images were recognised.

        That is the accuracy on each class, the confusion matrix as a table, and what each image was
        taken for. epochs: done in all, the step of the metrics.
        """
        self.log_metrics(epochs, metrics)
        self.log_metrics(epochs, class_metrics("test_accuracy", predictions.accuracy_by_class()))
        table = {
            "classes": list(predictions.classes),
            "rows are true, columns predicted": predictions.confusion().tolist(),
        }
        self.client.log_dict(self.run_id, table, paths.ARTIFACT_CONFUSION)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, paths.ARTIFACT_PREDICTIONS)
            np.savez_compressed(
                file,
                predicted=predictions.predicted.astype(np.uint16),
                certainty=predictions.confidence.astype(np.float16),
            )
            self.client.log_artifact(self.run_id, str(file))

    def log_model(self, model: Any, classes: Sequence[str], example: NDArray[np.uint8]) -> None:
        """A Keras model, with the names of its classes and raw images to try it on."""
        _mlflow.log_keras_model(model, classes, example)

    def describe(self, record: AttemptRecord) -> None:
        """What fixes the run: flat params, the composed config and the overrides, the dataset."""
        params = []
        for key, value in record.params.items():
            params.append(Param(key, str(value)[:MAX_PARAM_LENGTH]))
        overrides = " ".join(record.overrides)[:MAX_OVERRIDES_LENGTH]
        self.client.log_batch(self.run_id, params=params, tags=[RunTag("overrides", overrides)])
        self.client.log_text(self.run_id, record.config_yaml, paths.ARTIFACT_CONFIG)
        written = json.dumps(list(record.overrides))
        self.client.log_text(self.run_id, written, paths.ARTIFACT_OVERRIDES)
        self._log_dataset(record.dataset)

    def _log_dataset(self, dataset: DatasetRecord) -> None:
        name = f"{dataset.name} SYNTHETIC FALLBACK" if dataset.fallback else dataset.name
        with store_lock():
            shown = from_numpy(
                dataset.image, targets=dataset.label, name=name, digest=dataset.digest
            )
            mlflow.log_input(shown, context="training")


@contextlib.contextmanager
def attempt_run(record: AttemptRecord) -> Iterator[AttemptRun]:
    """A child run for one attempt, or a run of its own outside a study.

    Its status at the end is true: FINISHED, FAILED with the traceback as an artifact, or KILLED
    when interrupted. A pruned attempt is FINISHED, with the tag `pruned`.
    """
    connect(record.tracking_uri)
    context = record.context
    opened = mlflow.start_run(
        experiment_id=context.experiment_id or experiment(record.experiment_name),
        run_name=_run_name(record),
        parent_run_id=context.parent_run_id or None,
        tags=_tags(record),
        log_system_metrics=record.system_metrics,
    )
    run = AttemptRun(opened.info.run_id)
    status = FAILED
    try:
        run.describe(record)
        yield run
        status = FINISHED
    except Pruned as pruned:
        run.client.set_tag(run.run_id, "pruned", str(pruned))
        status = FINISHED
        raise
    except Exception:
        text = redacted(traceback.format_exc())
        run.client.log_text(run.run_id, text, paths.ARTIFACT_TRACEBACK)
        raise
    except BaseException:
        status = KILLED
        raise
    finally:
        mlflow.end_run(status)


def _tags(record: AttemptRecord) -> dict[str, str]:
    context = record.context
    tags = {"data": record.dataset.name, OWNER: owner(), **record.tags}
    if context.study:
        tags["study"] = context.study
        tags["kind"] = "trial"
        tags["trial"] = str(record.number)
        tags["attempt"] = str(context.attempt)
    if record.dataset.fallback:
        tags["synthetic"] = "true"
    if record.note:
        tags[_mlflow.NOTE] = record.note
    return tags


def _run_name(record: AttemptRecord) -> str:
    """What varied, such as filters=4; the whole key only where its last part is not enough."""
    keys = record.context.varied or [override.split("=")[0] for override in record.overrides]
    last_parts = [key.split(".")[-1] for key in keys]
    parts = []
    for override in record.overrides:
        key, _, value = override.partition("=")
        if key in keys:
            last = key.split(".")[-1]
            shown = last if last_parts.count(last) == 1 else key
            parts.append(f"{shown}={value}")
    name = ", ".join(parts)[:MAX_NAME_LENGTH] or "base"
    return f"{name} SYNTHETIC" if record.dataset.fallback else name
