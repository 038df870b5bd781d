"""One trial from its config to its metrics: `train` fits the network of each replica, keeps
checkpoints, and evaluates.

Keras' callbacks act at the ends of epochs, as in `fit`.
"""

from __future__ import annotations

import json
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
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.training import checkpoint
from cifar_hpo.training.compiled import Network, compiled, network
from cifar_hpo.training.replicas import Weights

Tensors = tuple[Any, Any]


class Epoch(Protocol):
    """Called after each epoch, counted from 0, with loss, accuracy, val_loss and val_accuracy of
    each replica that it trained."""

    def __call__(
        self, epoch: int, values: Mapping[int, Mapping[str, float]], *, restored: bool
    ) -> None:
        """`restored` says that the epoch was trained by an earlier attempt."""


@dataclass(frozen=True)
class Trained:
    """A trained replica.

    metrics: the last epoch's (with early stopping the best epoch's), test_loss, test_accuracy,
    parameters, train_seconds. predicted, confidence: the class of each test image (n,), int64, and
    its probability (n,), float32.
    """

    weights: Weights
    metrics: dict[str, float]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]


def set_up(config: Training) -> None:
    """Threads and determinism of this process; before its first TensorFlow operation.

    Raises ConfigError when the process has already computed with another number of threads.
    """
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
    config: Config, dataset: Dataset, on_epoch: Epoch, folder: Path | None = None
) -> list[Trained]:
    """Train all replicas, as one network where `Config.is_fused`, else one after the other.

    A seed gives the same weights with the same number of threads, bit for bit, on one machine;
    fused with others it gives them but for rounding. folder: where checkpoints lie, from which it
    goes on, and where it leaves one after each epoch. Raises TrialError when a loss diverges,
    ConfigError when a batch is larger than the training images.
    """
    numbers = list(range(config.training.replicas))
    groups = [numbers] if config.is_fused else [[number] for number in numbers]
    return [
        trained for group in groups for trained in _train(config, dataset, group, on_epoch, folder)
    ]


def _train(
    config: Config, dataset: Dataset, group: Sequence[int], on_epoch: Epoch, folder: Path | None
) -> list[Trained]:
    (images, labels), held_out = tensors(dataset, config.data)
    if config.training.batch_size > len(images):
        raise ConfigError(
            "training.batch_size",
            f"{config.training.batch_size} is more than the {len(images)} training images",
        )
    net = network(
        config, len(dataset.classes), [config.training.seed + number for number in group], images
    )
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", patience=config.training.early_stopping or 10**9, restore_best_weights=True
    )
    callbacks = [stopping] if config.training.early_stopping else []
    callback_list = keras.callbacks.CallbackList(callbacks, model=net.model)
    callback_list.on_train_begin()
    saved = folder and folder / f"replica_{group[0]}.checkpoint"
    training = _identity(config, dataset, group)
    state = checkpoint.load(saved, training, net.model, stopping) if saved else None
    epochs, seconds = (state.epochs, state.seconds) if state else ([], 0.0)
    for epoch, values in enumerate(epochs):
        on_epoch(epoch, dict(zip(group, values, strict=True)), restored=True)

    net.model.stop_training = bool(state and state.stopped)
    while len(epochs) < config.training.epochs and not net.model.stop_training:
        started = time.perf_counter()
        callback_list.on_epoch_begin(len(epochs))
        values = net.fit(images, labels, len(epochs), config.training.epochs)
        net.swap()
        for mine, scored in zip(values, net.score(*held_out), strict=True):
            mine |= {f"val_{name}": value for name, value in scored.items()}
        callback_list.on_epoch_end(len(epochs), values[0])
        net.swap()
        epochs.append(values)
        seconds += time.perf_counter() - started
        for mine in values:
            if not all(map(math.isfinite, mine.values())):
                raise TrialError(
                    f"diverged: loss {mine['loss']}, val_loss {mine['val_loss']} in epoch "
                    f"{len(epochs)}"
                )
        if saved:
            checkpoint.save(
                saved,
                checkpoint.State(training, epochs, seconds, stopped=net.model.stop_training),
                net.model,
                stopping,
            )
        on_epoch(len(epochs) - 1, dict(zip(group, values, strict=True)), restored=False)
    net.swap()
    callback_list.on_train_end()  # early stopping puts the best epoch's weights back
    return _evaluated(config, dataset, net, epochs, seconds)


def _identity(config: Config, dataset: Dataset, group: Sequence[int]) -> str:
    """All that decides how a training goes; threads, which decide its rounding alone, may change on
    the way."""
    meaning = asdict(config)
    del meaning["mlflow"], meaning["data"]["path"], meaning["training"]["threads"]
    return json.dumps([meaning, dataset.digest, list(group)], sort_keys=True)


def _evaluated(
    config: Config,
    dataset: Dataset,
    net: Network,
    epochs: list[list[dict[str, float]]],
    seconds: float,
) -> list[Trained]:
    """Each replica with what it came to, on the test images too."""
    images, labels = dataset.test[0], np.asarray(dataset.test[1], np.int64)
    sizes = {
        "parameters": float(net.model.count_params() // net.replicas),
        "train_seconds": seconds / net.replicas,
        "epochs": float(len(epochs)),
    }
    trained = []
    for replica, (weights, probabilities) in enumerate(
        zip(net.weights(), net.predict(images), strict=True)
    ):
        own = [epoch[replica] for epoch in epochs]
        last = (
            min(own, key=lambda epoch: epoch["val_loss"])
            if config.training.early_stopping
            else own[-1]
        )
        predicted = probabilities.argmax(axis=1)
        test_loss = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)).mean()
        scores = {
            "test_loss": float(test_loss),
            "test_accuracy": float((predicted == labels).mean()),
        }
        trained.append(
            Trained(weights, {**last, **scores, **sizes}, predicted, probabilities.max(axis=1))
        )
    return trained


def to_keras_model(config: Config, classes: int, weights: Weights) -> keras.Model:
    """A trained replica as a compiled Keras model like any other; its optimizer is at rest."""
    model = compiled(config, classes)
    model.optimizer.build(
        model.trainable_variables
    )  # as Keras wants it to be when the model is loaded
    model.set_weights(weights)
    return model


_tensor_cache: dict[tuple[Any, ...], tuple[Tensors, Tensors]] = {}


def tensors(dataset: Dataset, config: Data) -> tuple[Tensors, Tensors]:
    """Training and validation images and labels in memory, kept from one trial to the next."""
    key = (dataset.digest, config.train_size, config.validation)
    if key not in _tensor_cache:
        _tensor_cache.clear()
        train_split, validation = dataset.splits(config)
        _tensor_cache[key] = tuple(
            (tf.constant(images), tf.constant(labels))
            for images, labels in (train_split, validation)
        )  # type: ignore[assignment]
    return _tensor_cache[key]
