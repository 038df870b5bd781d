"""One trial from its config to its metrics.

`train` fits the network of each replica, or of all as one, keeps checkpoints, and returns a
`Trained` for each replica. Keras' callbacks act at the ends of epochs, as in `fit`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config.app import Config, Data, Training
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.errors import ConfigError, TrialError, disk_error
from cifar_hpo.paths import CHECKPOINT
from cifar_hpo.training import checkpoint
from cifar_hpo.training.compiled import initial_network, keras_model
from cifar_hpo.training.replicas import Weights

log = logging.getLogger(__name__)

NEVER = 10**9
"""The patience, in epochs, of early stopping that is off."""

Tensors = tuple[tf.Tensor, tf.Tensor]
"""Images (n, 32, 32, 3) of uint8 and labels (n,) of int32."""


class OnEpoch(Protocol):
    """Called after each epoch of a group of replicas that trains as one network."""

    def __call__(
        self, epoch: int, values: Mapping[int, Mapping[str, float]], *, restored: bool
    ) -> None:
        """Take in an epoch.

        epoch: counted from 0. values: loss, accuracy, val_loss and val_accuracy of each replica
        that it trained, by its number. restored: whether an earlier attempt trained it.
        """


@dataclass(frozen=True)
class Trained:
    """A trained replica.

    metrics: the last epoch's (with early stopping the best epoch's), test_loss, test_accuracy,
    parameters, train_seconds, epochs. predicted, confidence: the class of each test image (n,),
    int64, and its probability (n,), float32.
    """

    weights: Weights
    metrics: dict[str, float]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]


def set_up(config: Training) -> None:
    """Threads and determinism of this process; before its first TensorFlow operation.

    Keras' own settings are set back from what the user's keras.json says to its defaults.

    Raises ConfigError when the process has already computed with another number of threads.
    """
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    tf.config.experimental.enable_op_determinism()
    if config.threads is None:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(config.threads)
        tf.config.threading.set_inter_op_parallelism_threads(config.threads)
    except RuntimeError:
        problem = (
            "this worker already computes with another number; in a sweep set "
            "hydra.launcher.threads_per_worker"
        )
        raise ConfigError("training.threads", problem) from None


def train(
    config: Config, dataset: Dataset, on_epoch: OnEpoch, folder: Path | None = None
) -> list[Trained]:
    """Train all replicas, as one network where `Config.is_fused`, else one after the other.

    A seed gives the same weights with the same number of threads, bit for bit, on one machine;
    fused with others it gives them but for rounding. folder: where checkpoints lie, from which it
    goes on, and where it leaves one after each epoch. Raises TrialError when a loss diverges,
    ConfigError when a batch is larger than the training images.
    """
    numbers = list(range(config.training.replicas))
    groups = [numbers] if config.is_fused else [[number] for number in numbers]
    trained = []
    for group in groups:
        trained += _train_group(config, dataset, group, on_epoch, folder)
    return trained


def _train_group(
    config: Config, dataset: Dataset, group: Sequence[int], on_epoch: OnEpoch, folder: Path | None
) -> list[Trained]:
    """Train the replicas of these numbers as one network."""
    training = _GroupTraining(config, dataset, group, folder)
    training.restore()
    for epoch, metrics in enumerate(training.epochs):
        on_epoch(epoch, dict(zip(group, metrics, strict=True)), restored=True)
    while not training.has_ended:
        metrics = training.train_epoch()
        _refuse_divergence(metrics, epoch=len(training.epochs))
        training.save()
        epoch = len(training.epochs) - 1
        on_epoch(epoch, dict(zip(group, metrics, strict=True)), restored=False)
    training.end()
    return _evaluate(training)


class _GroupTraining:
    """The training of a group of replicas as one network, and where it stands.

    epochs: the metrics of each epoch so far, for each replica. seconds: what they took.
    """

    def __init__(
        self, config: Config, dataset: Dataset, group: Sequence[int], folder: Path | None
    ) -> None:
        self.config = config
        self.dataset = dataset
        (self.images, self.labels), self.validation = tensors(dataset, config.data, group[0])
        _validate_batch_size(config.training, len(self.images))
        seeds = [config.training.seed + number for number in group]
        self.network = initial_network(config, len(dataset.classes), seeds, self.images)
        self.stopping = keras.callbacks.EarlyStopping(
            "val_loss",
            patience=config.training.early_stopping or NEVER,
            restore_best_weights=True,
        )
        self.callbacks = keras.callbacks.CallbackList(
            [self.stopping] if config.training.early_stopping else [], model=self.network.model
        )
        self.identity = _identity(config, dataset, group)
        self.checkpoint = folder and folder / CHECKPOINT.format(replica=group[0])
        self.epochs: list[list[dict[str, float]]] = []
        self.seconds = 0.0
        self.is_loss_said = False  # of a checkpoint

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are trained, or early stopping has ended them."""
        is_complete = len(self.epochs) >= self.config.training.epochs
        return is_complete or self.network.model.stop_training

    def restore(self) -> None:
        """Begin, or go on from the checkpoint where there is one."""
        self.callbacks.on_train_begin()
        self.network.model.stop_training = False
        if self.checkpoint is None:
            return
        model = self.network.model
        state = checkpoint.load(self.checkpoint, self.identity, model, self.stopping)
        if state:
            self.epochs = state.epochs
            self.seconds = state.seconds
            model.stop_training = state.stopped

    def train_epoch(self) -> list[dict[str, float]]:
        """Train an epoch and score it on the validation images; its metrics for each replica."""
        started = time.perf_counter()
        epoch = len(self.epochs)
        self.callbacks.on_epoch_begin(epoch)
        metrics = self.network.fit(self.images, self.labels, epoch, self.config.training.epochs)
        self.network.swap_averaged_weights()
        scores = self.network.score(*self.validation)
        for replica_metrics, replica_scores in zip(metrics, scores, strict=True):
            for name, value in replica_scores.items():
                replica_metrics[f"val_{name}"] = value
        self.callbacks.on_epoch_end(epoch, metrics[0])
        self.network.swap_averaged_weights()
        self.epochs.append(metrics)
        self.seconds += time.perf_counter() - started
        return metrics

    def save(self) -> None:
        """Leave a checkpoint, where there is a folder for it.

        One that can't be written costs what a restart would have to train again, not the training.
        """
        if self.checkpoint is None:
            return
        model = self.network.model
        stopped = model.stop_training
        state = checkpoint.State(self.identity, self.epochs, self.seconds, stopped)
        try:
            checkpoint.save(self.checkpoint, state, model, self.stopping)
        except OSError as error:
            if not self.is_loss_said:
                log.warning("no checkpoint could be written: %s", disk_error(error) or error)
            self.is_loss_said = True

    def end(self) -> None:
        """Leave the network with the weights that count: averaged, and the best epoch's."""
        self.network.swap_averaged_weights()
        self.callbacks.on_train_end()  # early stopping puts the best epoch's weights back


def _validate_batch_size(config: Training, images: int) -> None:
    if config.batch_size > images:
        problem = f"{config.batch_size} is more than the {images} training images"
        raise ConfigError("training.batch_size", problem)


def _refuse_divergence(metrics: Sequence[Mapping[str, float]], *, epoch: int) -> None:
    """Raise TrialError where a loss is not finite. epoch: counted from 1."""
    for replica_metrics in metrics:
        if not all(map(math.isfinite, replica_metrics.values())):
            loss, val_loss = replica_metrics["loss"], replica_metrics["val_loss"]
            raise TrialError(f"diverged: loss {loss}, val_loss {val_loss} in epoch {epoch}")


def _identity(config: Config, dataset: Dataset, group: Sequence[int]) -> str:
    """All that decides how a training goes.

    Threads, which decide its rounding alone, may change on the way.
    """
    meaning = asdict(config)
    del meaning["mlflow"]
    del meaning["data"]["path"]
    del meaning["training"]["threads"]
    return json.dumps([meaning, dataset.digest, list(group)], sort_keys=True)


def _evaluate(training: _GroupTraining) -> list[Trained]:
    """Each replica with its metrics, on the test images too."""
    network = training.network
    images, labels = training.dataset.test[0], np.asarray(training.dataset.test[1], np.int64)
    sizes = {
        "parameters": float(network.model.count_params() // network.replica_count),
        "train_seconds": training.seconds / network.replica_count,
        "epochs": float(len(training.epochs)),
    }
    trained = []
    weights, probabilities = network.weights(), network.predict(images)
    for replica in range(network.replica_count):
        history = [epoch[replica] for epoch in training.epochs]
        counted = history[-1]
        if training.config.training.early_stopping:
            counted = min(history, key=lambda metrics: metrics["val_loss"])
        predicted = probabilities[replica].argmax(axis=1)
        metrics = {**counted, **_test_scores(probabilities[replica], labels), **sizes}
        confidence = probabilities[replica].max(axis=1)
        trained.append(Trained(weights[replica], metrics, predicted, confidence))
    return trained


def _test_scores(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Cross-entropy and accuracy of probabilities (n, classes) and labels (n,)."""
    of_label = probabilities[np.arange(len(labels)), labels]  # (n,)
    is_correct = probabilities.argmax(axis=1) == labels  # (n,)
    return {
        "test_loss": float(-np.log(np.clip(of_label, 1e-7, 1)).mean()),
        "test_accuracy": float(is_correct.mean()),
    }


def to_keras_model(config: Config, classes: int, weights: Weights) -> keras.Model:
    """A trained replica as a compiled Keras model like any other; its optimizer is at rest."""
    model = keras_model(config, classes)
    model.optimizer.build(model.trainable_variables)  # as Keras wants it to load the model
    model.set_weights(weights)
    return model


_tensor_cache: dict[tuple[Any, ...], tuple[Tensors, Tensors]] = {}


def tensors(dataset: Dataset, config: Data, replica: int = 0) -> tuple[Tensors, Tensors]:
    """Training and validation images and labels in memory, kept from one trial to the next.

    replica: whose split, with data.folds.
    """
    fold = replica % config.folds if config.folds else None
    key = (dataset.digest, config.train_size, config.validation, config.split_seed, fold)
    if key not in _tensor_cache:
        _tensor_cache.clear()
        training, validation = dataset.splits(config, replica)
        _tensor_cache[key] = (_to_tensors(training), _to_tensors(validation))
    return _tensor_cache[key]


def _to_tensors(split: tuple[NDArray[np.uint8], NDArray[Any]]) -> Tensors:
    images, labels = split
    return tf.constant(images), tf.constant(labels.astype(np.int32))
