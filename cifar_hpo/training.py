"""One network from its config to its metrics: build, compile, fit, evaluate.

An epoch is one TensorFlow graph: a loop over the batches inside it calls Keras' own `train_step`, so Python is entered once an
epoch. Losses, metrics, optimizers and callbacks stay Keras'. All that is random in an epoch follows from the seed and the
epoch's number, so a training that goes on from a checkpoint equals one that was never interrupted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo import checkpoint
from cifar_hpo.config import Config, Data, Training
from cifar_hpo.data import Dataset, Split
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.model import build

Tensors = tuple[Any, Any]

SCORED = 500
"""Images in a batch where nothing is learned."""


class Epoch(Protocol):
    """Called after each epoch, counted from 0, with loss, accuracy, val_loss and val_accuracy."""

    def __call__(self, epoch: int, values: Mapping[str, float], *, restored: bool) -> None:
        """`restored` says that the epoch was trained by an earlier attempt."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    metrics: the last epoch's (with early stopping the best epoch's), test_loss, test_accuracy, parameters, train_seconds.
    confusion: test images counted by true class (rows) and predicted class, int64.
    """

    model: keras.Model
    metrics: dict[str, float]
    confusion: NDArray[np.int64]


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
        problem = "this worker already computes with another number; in a sweep set hydra.launcher.threads_per_worker"
        raise ConfigError("training.threads", problem) from None


def train(config: Config, dataset: Dataset, seed: int, on_epoch: Epoch, saved: Path | None = None) -> Trained:
    """Train one replica; the same seed and number of threads give the same weights, bit for bit, on one machine.

    saved: where its checkpoint lies, from which it goes on, and where it leaves one after each epoch.
    Raises TrialError when the loss diverges, ConfigError when a batch is larger than the training images.
    """
    (images, labels), held_out = tensors(dataset, config.data)
    if config.training.batch_size > len(images):
        raise ConfigError("training.batch_size", f"{config.training.batch_size} is more than the {len(images)} training images")
    model = compiled(config, len(dataset.classes), seed)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=config.training.early_stopping or 10**9, restore_best_weights=True)
    callbacks = [stopping] if config.training.early_stopping else []
    followers = keras.callbacks.CallbackList(callbacks, model=model)
    followers.on_train_begin()
    state = checkpoint.load(saved, model, stopping) if saved else None
    epochs, seconds = (state.epochs, state.seconds) if state else ([], 0.0)
    for epoch, values in enumerate(epochs):
        on_epoch(epoch, values, restored=True)

    model.stop_training = bool(state and state.stopped)
    fit, score = epoch_graph(model, config, seed), _scoring(model)
    while len(epochs) < config.training.epochs and not model.stop_training:
        started = time.perf_counter()
        followers.on_epoch_begin(len(epochs))
        model.reset_metrics()
        fit(images, labels, tf.constant(len(epochs)))
        values = _results(model)
        model.reset_metrics()
        score(*held_out)
        values |= {f"val_{name}": value for name, value in _results(model).items()}
        followers.on_epoch_end(len(epochs), values)
        epochs.append(values)
        seconds += time.perf_counter() - started
        if not all(map(math.isfinite, values.values())):
            raise TrialError(f"diverged: loss {values['loss']}, val_loss {values['val_loss']} in epoch {len(epochs)}")
        if saved:
            checkpoint.save(saved, checkpoint.State(epochs, seconds, stopped=model.stop_training), model, stopping)
        on_epoch(len(epochs) - 1, values, restored=False)
    followers.on_train_end()

    last = min(epochs, key=lambda epoch: epoch["val_loss"]) if config.training.early_stopping else epochs[-1]
    test_loss, confusion = evaluate(model, dataset.test)
    accuracy = float(np.trace(confusion) / confusion.sum())
    sizes = {"parameters": float(model.count_params()), "train_seconds": seconds, "epochs": float(len(epochs))}
    return Trained(model, {**last, "test_loss": test_loss, "test_accuracy": accuracy, **sizes}, confusion)


def compiled(config: Config, classes: int, seed: int) -> keras.Model:
    """A fresh model with all of its variables, those of optimizer and metrics included, which no graph may make."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(config.training.precision)
    model = build(config.model, classes)
    options = {name: value for name, value in vars(config.optimizer).items() if name != "name"}
    optimizer = getattr(keras.optimizers, config.optimizer.KERAS)(**options)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    optimizer.build(model.trainable_variables)
    model.test_step((tf.zeros((1, *model.input_shape[1:]), tf.uint8), tf.zeros((1,), tf.uint8)))
    return model


_resident: dict[tuple[Any, ...], tuple[Tensors, Tensors]] = {}


def tensors(dataset: Dataset, config: Data) -> tuple[Tensors, Tensors]:
    """Training and validation images and labels in memory, kept from one trial to the next."""
    key = (dataset.digest, config.train_size, config.validation)
    if key not in _resident:
        _resident.clear()
        train_split, validation = dataset.splits(config)
        _resident[key] = tuple((tf.constant(images), tf.constant(labels)) for images, labels in (train_split, validation))  # type: ignore[assignment]
    return _resident[key]


def epoch_graph(model: keras.Model, config: Config, seed: int) -> Any:
    """A graph that trains one epoch on all images, in an order of its own."""
    size, changes = config.training.batch_size, config.data.augment

    @tf.function  # type: ignore[untyped-decorator]
    def fit(images: tf.Tensor, labels: tf.Tensor, epoch: tf.Tensor) -> None:
        count = tf.shape(images)[0]
        order = tf.random.experimental.stateless_shuffle(tf.range(count), (seed, epoch))
        for start in tf.range(0, count, size):
            chosen = order[start : start + size]
            batch = tf.gather(images, chosen)
            if changes:
                batch = augment(batch, changes, tf.stack((seed, epoch * count + start)))
            model.train_step((batch, tf.gather(labels, chosen)))

    return fit


def _scoring(model: keras.Model) -> Any:
    """A graph that fills the model's metrics from all images."""

    @tf.function  # type: ignore[untyped-decorator]
    def score(images: tf.Tensor, labels: tf.Tensor) -> None:
        for start in tf.range(0, tf.shape(images)[0], SCORED):
            model.test_step((images[start : start + SCORED], labels[start : start + SCORED]))

    return score


def _results(model: keras.Model) -> dict[str, float]:
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def evaluate(model: keras.Model, split: Split) -> tuple[float, NDArray[np.int64]]:
    """Mean cross-entropy, and the images counted by true class (rows) and predicted class."""
    predict = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    images, labels = split[0], np.asarray(split[1], np.int64)
    probabilities = np.concatenate([predict(tf.constant(images[at : at + SCORED])) for at in range(0, len(images), SCORED)])
    classes = probabilities.shape[1]
    loss = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)).mean()
    counts = np.bincount(labels * classes + probabilities.argmax(axis=1), minlength=classes**2)
    return float(loss), counts.reshape(classes, classes)


def augment(images: tf.Tensor, changes: list[str], seed: tf.Tensor) -> tf.Tensor:
    """Randomly changed uint8 images (n, 32, 32, 3); the same seed (two whole numbers) changes them in the same way.

    flip: left to right, half of them. shift: up to 4 pixels each way, the edges mirrored. cutout: a grey 8×8 square
    (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    n, size = tf.shape(images)[0], images.shape[1]

    def draw(shape: tuple[Any, ...], stream: int, high: int) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, seed + tf.constant((0, stream << 24)), 0, high, tf.int32)

    if "flip" in changes:
        images = tf.where(draw((n, 1, 1, 1), 1, 2) == 0, images[:, :, ::-1], images)
    if "shift" in changes:
        padded = tf.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), "REFLECT")
        rows, columns = draw((n, 1), 2, 9) + tf.range(size), draw((n, 1), 3, 9) + tf.range(size)
        images = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    if "cutout" in changes:
        rows, columns = (tf.abs(tf.range(size) - draw((n, 1), stream, size)) < 4 for stream in (4, 5))
        hole = rows[:, :, None, None] & columns[:, None, :, None]
        images = tf.where(hole, tf.cast(128, images.dtype), images)
    return images
