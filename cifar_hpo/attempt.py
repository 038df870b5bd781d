"""One attempt at a trial: an `Attempt` logs its epochs and what it came to, and reports them.

`attempt_record` is what MLflow shows of it, an `EpochLog` what a single run prints. Heavy imports
stand inside.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from omegaconf import DictConfig, OmegaConf

from cifar_hpo import paths, trial
from cifar_hpo.config import app
from cifar_hpo.config.app import RAW_PIXELS, Config
from cifar_hpo.config.fields import flat
from cifar_hpo.console import Heartbeat, clock
from cifar_hpo.data.labels import CLASSES, NUMBERS
from cifar_hpo.metrics import ReplicaMetrics, direction_of
from cifar_hpo.training.identity import groups_of
from cifar_hpo.trial import Context, Progress

if TYPE_CHECKING:
    from cifar_hpo.data.dataset import Dataset
    from cifar_hpo.tracking.attempts import AttemptRecord, AttemptRun
    from cifar_hpo.tracking.tensorboard import EventLog
    from cifar_hpo.training.trainer import Trained

log = logging.getLogger(__name__)

EXPERIMENT = "cifar_hpo"
"""MLflow's experiment of runs outside a study, unless the config names one."""

LOOKED_AT = 1_000
"""Images that tell the scale of a dataset's pixels."""

UNIT_PIXELS = 1
"""The largest pixel of images that were scaled; of others it is RAW_PIXELS."""


def selected_by(labels: str) -> str:
    """The metric by which the best of a trial's replicas is kept as its model.

    labels: their kind, one of those in data/labels.py.
    """
    return "val_loss" if labels == NUMBERS else "val_accuracy"


class Attempt:
    """One attempt at a trial: logs its epochs, reports them to the study, and what it came to.

    Epochs are counted over all replicas that train one after the other. done: so far, by whatever
    attempt. restored: of these, by an earlier one.
    """

    def __init__(
        self,
        checked: Config,
        dataset: Dataset,
        run: AttemptRun,
        metric: str,
        epoch_log: EpochLog | None,
    ) -> None:
        self.checked = checked
        self.dataset = dataset
        self.run = run
        self.metric = metric
        self.epoch_log = epoch_log
        self.replicas = checked.training.replicas
        groups = groups_of(checked, is_streamed=dataset.streams is not None)
        self.epochs = checked.training.epochs * len(groups)
        self.done = 0
        self.restored = 0
        self.events = _event_log(checked, run)

    def begin(self) -> None:
        """Say that training begins, and in which run."""
        if self.epoch_log:
            self.epoch_log.training_begins(self.epochs)
        trial.report(Progress(0, self.epochs, run_id=self.run.run_id))

    def on_epoch(
        self,
        epoch: int,
        values: Mapping[int, Mapping[str, float]],
        *,
        best: Mapping[int, Mapping[str, float]],
        restored: bool,
        is_told: bool,
    ) -> None:
        """Log an epoch of the replicas in `values`, and ask whether to go on. Raises Pruned.

        best: the best so far of each validation metric; that of the study is logged, too. is_told:
        whether the study was asked before, by an earlier attempt.
        """
        self.done += 1
        self.restored += restored
        by_replica: dict[int, dict[str, float]] = {}
        for replica in values:
            by_replica[replica] = dict(values[replica])
            if self.metric in best[replica]:
                by_replica[replica][self.metric] = best[replica][self.metric]
        metrics = ReplicaMetrics(by_replica)
        logged = metrics.epoch(self.replicas)
        self.run.log_metrics(epoch + 1, logged)
        if self.events:
            self.events.log(epoch + 1, logged)
        mean = metrics.mean()
        if not is_told:
            # Where replicas train one after the other the first one is judged, at the epochs where
            # others are.
            value = mean.get(self.metric) if 0 in values else None
            run_id = self.run.run_id
            trial.report(Progress(self.done, self.epochs, value, run_id, self.restored))
        if self.epoch_log:
            self.epoch_log.epoch_ended(mean, restored=restored)

    def finish(self, trained: Sequence[Trained]) -> dict[str, float]:
        """Log what came of it, with the best replica's predictions and model; returns metrics."""
        if self.epoch_log:
            self.epoch_log.training_ended()
        metrics = ReplicaMetrics.from_list([replica.metrics for replica in trained]).summary()
        metric = selected_by(self.dataset.labels)
        best_first = sorted(trained, key=lambda replica: replica.metrics[metric])
        best = best_first[-1 if direction_of(metric) == "maximize" else 0]
        epochs = max(int(replica.metrics["epochs"]) for replica in trained)
        self._log_outcome(epochs, metrics, best, trained)
        if self.events:
            self.events.log_outcome(epochs, metrics)
        return metrics

    def _log_outcome(
        self, epochs: int, metrics: Mapping[str, float], best: Trained, trained: Sequence[Trained]
    ) -> None:
        import numpy as np

        from cifar_hpo.tracking.attempts import Predictions
        from cifar_hpo.training.called import export_graph
        from cifar_hpo.training.signature import Signature
        from cifar_hpo.training.trainer import to_keras_model

        images, labels = self.dataset.test
        names = self.dataset.classes
        predictions = None
        if self.dataset.labels == CLASSES:
            wanted = labels.astype("int64")
            correct = np.stack([replica.predicted == wanted for replica in trained])
            predictions = Predictions(names, wanted, best.predicted, best.confidence, correct)
        self.run.log_outcome(epochs, metrics, predictions)
        signature = Signature.of(self.dataset)
        model = to_keras_model(self.checked, signature, best.weights)
        export = partial(export_graph, model, signature)
        self.run.log_model(model, names, images[:1], model_about(self.dataset), export)


def model_about(dataset: Dataset) -> dict[str, Any]:
    """What must be known of a model, beside its classes, to ask it: nothing of one of pixels from
    0 to 255 and classes.

    labels: their kind, where they are no classes. pixels: the largest that it takes, where they
    are no whole numbers; None for images of a scale of their own.
    """
    about: dict[str, Any] = {}
    if dataset.labels != CLASSES:
        about["labels"] = dataset.labels
    if dataset.dtype != "uint8":
        images = dataset.test[0][:LOOKED_AT]
        scales = [top for top in (UNIT_PIXELS, RAW_PIXELS) if images.max() <= top]
        about["pixels"] = scales[0] if scales and images.min() >= 0 else None
    return about


def _event_log(checked: Config, run: AttemptRun) -> EventLog | None:
    """TensorBoard's, where it is asked for: with what varies, outside a study what was given."""
    if not checked.training.tensorboard:
        return None
    from cifar_hpo.tracking.tensorboard import EventLog

    record = run.record
    varied = record.context.varied
    tried: dict[str, object] = {}
    for override in record.overrides:
        key, _, text = override.partition("=")
        if not varied or key in varied:
            key = key.lstrip("+")
            tried[key] = record.params.get(key, text)  # a group has no value of its own
    return EventLog(run.trial_folder / paths.TENSORBOARD, tried)


def attempt_record(
    config: DictConfig,
    checked: Config,
    dataset: Dataset,
    context: Context,
    *,
    number: int,
    overrides: tuple[str, ...],
) -> AttemptRecord:
    """What MLflow shows of an attempt, all of it plain values.

    Params are as written in the config: an interpolation, which may hold a password, is not
    resolved.
    """
    from cifar_hpo.tracking.attempts import AttemptRecord, DatasetRecord
    from cifar_hpo.tracking.store import experiment_name
    from cifar_hpo.training.devices import gpu_name

    values = flat(OmegaConf.to_container(config, resolve=False))
    # Where runs are stored says nothing of a trial.
    params = {key: value for key, value in values.items() if not key.startswith("mlflow.")}
    images, labels = dataset.train
    # A study's note stands on the study's run.
    notes = ["" if context.study else checked.mlflow.note]
    if dataset.fallback:
        notes.append(app.SYNTHETIC_NOTICE)
    computes_on = {"cpu": platform.processor() or platform.machine()}
    gpu = gpu_name()
    if gpu:
        computes_on["gpu"] = gpu
    return AttemptRecord(
        tracking_uri=checked.mlflow.tracking_uri,
        experiment_name=experiment_name(checked.mlflow.experiment, EXPERIMENT),
        overrides=overrides,
        params=params,
        config_yaml=OmegaConf.to_yaml(config),
        dataset=DatasetRecord(
            dataset.name, dataset.digest, images[:1], labels[:1], fallback=dataset.fallback
        ),
        context=context,
        number=number,
        note="\n\n".join(filter(None, notes)),
        tags={**(checked.mlflow.tags or {}), **computes_on},
        system_metrics=checked.mlflow.system_metrics,
    )


class EpochLog:
    """What a single run prints: a line for each epoch, and one whenever something takes long."""

    def __init__(self) -> None:
        self.epochs = 0
        self.done = 0
        self.trained = 0  # of those done, the ones that were not restored from a checkpoint
        self.started = time.monotonic()
        self.doing = "still preparing"
        self.heartbeat = Heartbeat(self._log_doing)

    def __enter__(self) -> Self:
        self.heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.heartbeat.__exit__()

    def training_begins(self, epochs: int) -> None:
        self.epochs = epochs
        self.started = time.monotonic()
        self.doing = f"in epoch 1 of {epochs}"

    def epoch_ended(self, metrics: Mapping[str, float], *, restored: bool) -> None:
        """Print an epoch's metrics, and the time left by those that were trained here."""
        self.done += 1
        self.trained += not restored
        self.doing = f"in epoch {min(self.done + 1, self.epochs)} of {self.epochs}"
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("epoch %d of %d  %s%s", self.done, self.epochs, values, self._time_left())
        self.heartbeat.heard()

    def _time_left(self) -> str:
        """Empty after the last epoch, and before one was trained here."""
        if not self.trained or self.done >= self.epochs:
            return ""
        seconds = (time.monotonic() - self.started) / self.trained
        return f"  {clock(seconds * (self.epochs - self.done))} left"

    def training_ended(self) -> None:
        self.doing = "scoring and logging"

    def _log_doing(self) -> None:
        log.info("%s, after %s", self.doing, clock(time.monotonic() - self.started))
