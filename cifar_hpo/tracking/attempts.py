"""An attempt at a trial as MLflow gets it: an `AttemptRun`, described by an `AttemptRecord`.

The record has plain values, so that any task can be tracked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray

from cifar_hpo import paths
from cifar_hpo.confusion import accuracy_by_class
from cifar_hpo.metrics import class_metrics, param_name
from cifar_hpo.owner import owner
from cifar_hpo.redaction import redacted
from cifar_hpo.tracebacks import traceback_text
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.delivery import NO_ANSWER, Delivery, Undelivered, reason
from cifar_hpo.tracking.ownership import ATTEMPT, OWNER
from cifar_hpo.tracking.store import connect, experiment, wants_system_metrics
from cifar_hpo.tracking.writer import (
    NOT_YET,
    WAY_ON,
    Entry,
    KeptRun,
    RunWriter,
    forget_kept,
    lost_line,
    milliseconds,
)
from cifar_hpo.trial import FAILED, FINISHED, KILLED, Context, Paused, Pruned

PATIENCE = 5.0
"""Seconds in which something must arrive at the store, for a trial to wait for it any longer."""

GRACE = 2.0
"""Seconds that a trial at its end waits for a store that has been away for longer than that."""

PATIENCE_ALONE = 15.0
"""Both for a single run, which no other command will log."""

PATIENCE_INTERRUPTED = 2.0
"""PATIENCE for an attempt that is interrupted."""

UNSAVED = (NotImplementedError, TypeError, ValueError)
"""What Keras raises of a model, of a user's own classes, that it can't save."""

log = logging.getLogger(__name__)

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
    would type. params: flat, by the path of their key. dataset: None where nobody knows it. note:
    the run's description, Markdown.
    system_metrics: whether the machine's load is logged; None lets MLflow's variable say.
    """

    tracking_uri: str | None
    experiment_name: str
    overrides: tuple[str, ...]
    params: Mapping[str, object]
    config_yaml: str
    dataset: DatasetRecord | None = None
    context: Context = Context()
    number: int = 0
    note: str = ""
    tags: Mapping[str, object] = field(default_factory=dict)
    system_metrics: bool | None = None


@dataclass(frozen=True)
class Predictions:
    """What a model takes the test images for.

    labels, predicted: the true and the predicted class of each, (n,), int64. confidence: the
    probability of the latter, (n,), float32. All of the best replica. correct: whether each replica
    recognised each image, (replica, n), bool; None where that is not known.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_] | None = None

    def confusion(self) -> NDArray[np.int64]:
        """Images by true (rows) and predicted class (columns), (classes, classes)."""
        count = len(self.classes)
        cells = np.bincount(self.labels * count + self.predicted, minlength=count**2)
        return cells.reshape(count, count)

    def accuracy_by_class(self) -> dict[str, float]:
        """The share of each class's images that are recognised; 0 for a class without any."""
        return accuracy_by_class(self.confusion(), self.classes)

    def save(self, file: Path) -> None:
        """What each image was taken for, as an .npz; the replicas' answers are a bit each. Raises
        OSError."""
        arrays: dict[str, NDArray[Any]] = {
            "predicted": self.predicted.astype(np.uint16),
            "certainty": self.confidence.astype(np.float16),
        }
        if self.correct is not None:
            arrays["correct"] = np.packbits(self.correct, axis=1)
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # allow_pickle is another


class AttemptRun:
    """A child run while it lasts; `attempt_run` opens and ends it.

    What is logged arrives later, from a thread. Neither a store that is away nor one that refuses
    something costs the attempt anything: what has not arrived at the end is kept on disk.

    run_id: empty until the store has made the run. unlogged: once it has ended, what of it has not
    arrived, as one line.
    """

    def __init__(self, record: AttemptRecord, folder: Path) -> None:
        """folder: of the trial."""
        self.record = record
        self.trial_folder = folder
        self.unlogged = ""
        self._lost: list[str] = []
        self._set_aside: list[Entry] = []
        self._trouble = ""
        self._monitor: Any = None
        self._writer = RunWriter(connect(record.tracking_uri), folder)
        self._delivery = Delivery[Entry](self._write, _mlflow.may_succeed_later)
        if record.context.study:
            # Those of an attempt that was interrupted; this one logs its epochs again.
            forget_kept(folder)
            self._create(record.context.experiment_id)
        else:
            experiment_id = experiment(record.experiment_name)
            self._put("end_dead_runs", experiment_id=experiment_id)
            self._create(experiment_id)

    @property
    def run_id(self) -> str:
        return self._writer.run_id

    @property
    def name(self) -> str:
        """What varied, such as filters=4."""
        return _run_name(self.record)

    @property
    def client(self) -> mlflow.MlflowClient:
        return self._writer.client

    def wait(self) -> bool:
        """Wait until what was logged so far has arrived; returns whether it has."""
        return self._delivery.drain(PATIENCE)

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Metrics in one batch; their step is the number of epochs done."""
        values = {name: float(value) for name, value in metrics.items()}
        self._put("metrics", metrics=values, step=epochs, timestamp=milliseconds())

    def log_outcome(
        self, epochs: int, metrics: Mapping[str, float], predictions: Predictions | None
    ) -> None:
        """Final metrics, and how the test images were recognised, where they are of classes.

        That is the accuracy on each class, the confusion matrix as a table, and what each image was
        taken for. epochs: done in all, the step of the metrics.
        """
        self.log_metrics(epochs, metrics)
        if predictions is None:
            return
        self.log_metrics(epochs, class_metrics("test_accuracy", predictions.accuracy_by_class()))
        table = {
            "classes": list(predictions.classes),
            "rows are true, columns predicted": predictions.confusion().tolist(),
        }
        self._put("text", text=json.dumps(table), name=paths.ARTIFACT_CONFUSION)
        self._log_file("file", paths.ARTIFACT_PREDICTIONS, predictions.save)

    def log_model(
        self,
        model: Any,
        classes: Sequence[str],
        example: NDArray[Any],
        about: Mapping[str, Any] | None = None,
        export: Callable[[Path], None] | None = None,
    ) -> None:
        """A Keras model, with the names of its outputs and raw images to try it on.

        about: what else must be known to ask it, as what JSON can hold. export: writes the model as
        a graph, which MLflow's server gets where the model has classes of the user's.
        """

        def save(folder: Path) -> None:
            _mlflow.save_keras_model(folder, model, classes, example, about)
            if export is not None and _mlflow.needs_graph(folder):
                self._add_graph(folder, export)

        self._log_file("model", paths.UNDELIVERED_MODEL, save)

    def _add_graph(self, folder: Path, export: Callable[[Path], None]) -> None:
        """The model is logged also where its graph can't be written."""
        try:
            _mlflow.add_graph(folder, export)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  Keras' and TensorFlow's share no base
            self._lost.append(f"the model's graph for MLflow's server ({reason(error)})")

    def set_tag(self, key: str, value: str) -> None:
        self._put("tag", key=key, value=value)

    def log_text(self, text: str, name: str) -> None:
        """An artifact that is a text."""
        self._put("text", text=text, name=name)

    def describe(self) -> None:
        """What fixes the run: flat params, the composed config and the overrides, the dataset.

        What varies and is no key of the config, such as a group's choice, is a param, too.
        """
        record = self.record
        params = {key: str(value)[:MAX_PARAM_LENGTH] for key, value in record.params.items()}
        for override in record.overrides:
            key, _, value = override.partition("=")
            if key in record.context.varied:
                params.setdefault(param_name(key), value[:MAX_PARAM_LENGTH])
        overrides = " ".join(record.overrides)[:MAX_OVERRIDES_LENGTH]
        self._put("params", params=params, tags={"overrides": overrides})
        self.log_text(record.config_yaml, paths.ARTIFACT_CONFIG)
        self.log_text(json.dumps(list(record.overrides)), paths.ARTIFACT_OVERRIDES)
        dataset = record.dataset
        if dataset is None:
            return
        name = f"{dataset.name} SYNTHETIC FALLBACK" if dataset.fallback else dataset.name
        fields = _mlflow.dataset_fields(dataset.image, dataset.label, name, dataset.digest)
        self._put("dataset", fields=fields)

    def end(self, status: str) -> None:
        """End the run, and wait for what has not arrived for as long as something arrives.

        What has not arrived then is kept in the trial's folder, from which `deliver_kept` of the
        study's run takes it. One that was interrupted goes on another time, and keeps nothing.
        """
        self._put("end", status=status, end_time=milliseconds())
        is_interrupted = status == KILLED
        if is_interrupted:
            self._delivery.drain(PATIENCE_INTERRUPTED)
        elif self.record.context.study:
            self._delivery.drain(PATIENCE, at_least=GRACE)
        else:
            self._delivery.drain(PATIENCE_ALONE, at_least=PATIENCE_ALONE)
        undelivered = [*self._delivery.close(), *self._set_aside]
        if undelivered and not (is_interrupted and self.record.context.study):
            self.unlogged = self._keep(undelivered)
        else:
            for (what, _), cause in self._delivery.refused:
                self._lost.append(f"{what} ({cause})")
            self.unlogged = lost_line(self._lost)
            self._remove_own_folder()
        if self.unlogged:
            log.warning(self.unlogged)

    def _keep(self, undelivered: Sequence[Entry]) -> str:
        """Keep what has not arrived; returns what is said of it."""
        cause = self._delivery.trouble or self._trouble or NO_ANSWER
        way_on = WAY_ON if self.record.context.study else f"it is kept in {self.trial_folder}"
        try:
            folder = self._own_folder()
            KeptRun(folder, self.record.number, self.run_id, list(undelivered)).write()
        except OSError as error:
            self._remove_own_folder()
            return f"not logged ({cause}), nor kept ({reason(error)})"
        return f"{NOT_YET} ({cause}); {way_on}"

    def _create(self, experiment_id: str) -> None:
        self._put(
            "create",
            experiment_id=experiment_id,
            name=self.name,
            tags=_mlflow.run_tags(_tags(self.record)),
            start_time=milliseconds(),
        )

    def _put(self, name: str, /, **arguments: Any) -> None:
        self._delivery.put((name, arguments))

    def _write(self, entry: Entry) -> None:
        """Write an entry, on the thread. What waits for it to be there waits for the run alone."""
        name, _ = entry
        if name == "end" and self._monitor:
            self._monitor.finish()
            self._monitor = None
        try:
            self._writer.write(entry)
        except Exception as error:
            if _mlflow.may_succeed_later(error):
                raise
            if name == "create":
                # Nothing can be logged without it; whoever mends the cause can have it later.
                raise Undelivered(reason(error)) from error
            if not isinstance(error, OSError):
                raise
            self._trouble = reason(error)
            self._set_aside.append(entry)
        if name == "create" and wants_system_metrics(self.record.system_metrics):
            self._monitor = _mlflow.start_system_metrics(self.run_id, self._writer.uri)

    def _own_folder(self) -> Path:
        """Where the files lie that are to be logged, made on first use in the trial's folder."""
        if self._writer.folder == self.trial_folder:
            self.trial_folder.mkdir(parents=True, exist_ok=True)
            folder = tempfile.mkdtemp(prefix=paths.UNDELIVERED, dir=self.trial_folder)
            self._writer.folder = Path(folder)
        return self._writer.folder

    def _remove_own_folder(self) -> None:
        if self._writer.folder != self.trial_folder:
            shutil.rmtree(self._writer.folder, ignore_errors=True)

    def _log_file(self, entry: str, name: str, write: Callable[[Path], None]) -> None:
        """Log a file or folder that `write` writes; one that can't be written is done without."""
        try:
            write(self._own_folder() / name)
        except (OSError, RuntimeError, *UNSAVED) as error:  # the second is what h5py raises
            self._lost.append(f"{name} ({reason(error)})")
            # What there is of it takes the space that is needed now.
            half = self._writer.folder / name
            shutil.rmtree(half, ignore_errors=True)
            with contextlib.suppress(OSError):
                half.unlink()
        else:
            self._put(entry, name=name)


@contextlib.contextmanager
def attempt_run(record: AttemptRecord, folder: Path = Path()) -> Iterator[AttemptRun]:
    """A child run for one attempt, or a run of its own outside a study.

    Its status at the end is true: FINISHED, FAILED with the traceback as an artifact, or KILLED
    when interrupted. A pruned attempt is FINISHED, with the tag `pruned`; one that pauses is
    KILLED, with the tag `paused`, and FINISHED if its trial never goes on. folder: of the trial.
    """
    run = AttemptRun(record, folder)
    status = FAILED
    try:
        run.describe()
        yield run
        status = FINISHED
    except Paused as paused:
        run.set_tag("paused", str(paused))
        status = KILLED
        raise
    except Pruned as pruned:
        run.set_tag("pruned", str(pruned))
        status = FINISHED
        raise
    except Exception as error:
        run.log_text(traceback_text(error), paths.ARTIFACT_TRACEBACK)
        raise
    except BaseException:
        status = KILLED
        raise
    finally:
        run.end(status)


def _tags(record: AttemptRecord) -> dict[str, str]:
    context = record.context
    tags = {key: redacted(str(value)) for key, value in record.tags.items()}
    tags |= {OWNER: owner(), ATTEMPT: uuid.uuid4().hex}
    dataset = record.dataset
    if dataset is not None:
        tags["data"] = dataset.name
    if context.parent_run_id:
        tags[_mlflow.PARENT_RUN] = context.parent_run_id
    if context.study:
        tags["study"] = context.study
        tags["kind"] = "trial"
        tags["trial"] = str(record.number)
        tags["attempt"] = str(context.attempt)
    if dataset is not None and dataset.fallback:
        tags["synthetic"] = "true"
    if record.note:
        tags[_mlflow.NOTE] = redacted(record.note)
    return tags


def _run_name(record: AttemptRecord) -> str:
    """What varied, such as filters=4; the whole key only where its last part is not enough."""
    keys = record.context.varied or [override.split("=")[0] for override in record.overrides]
    last_parts = [_last_part(key) for key in keys]
    parts = []
    for override in record.overrides:
        key, _, value = override.partition("=")
        if key in keys:
            last = _last_part(key)
            shown = last if last_parts.count(last) == 1 else key
            parts.append(f"{shown.lstrip('+')}={value}")
    name = ", ".join(parts)[:MAX_NAME_LENGTH] or "base"
    is_fallback = record.dataset is not None and record.dataset.fallback
    return f"{name} SYNTHETIC" if is_fallback else name


def _last_part(key: str) -> str:
    return key.rsplit(".", maxsplit=1)[-1].lstrip("+~")
