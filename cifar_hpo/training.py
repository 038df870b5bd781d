"""One network from its config to its metrics: build, compile, fit, evaluate."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config import Config, Training
from cifar_hpo.data import Dataset, Split
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.model import build

Epoch = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number, from 0, and loss, accuracy, val_loss, val_accuracy."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    metrics: the last epoch's (with early stopping the best epoch's), test_loss, test_accuracy, parameters, train_seconds.
    confusion: test images counted by true class (rows) and predicted class, int64.
    """

    model: keras.Model
    metrics: dict[str, float]
    confusion: NDArray[np.int64]


@dataclass
class _History(keras.callbacks.Callback):  # type: ignore[misc]
    """Hands each epoch on, and ends a training whose loss is no number any more."""

    on_epoch: Epoch
    epochs: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.epochs.append(values)
        self.on_epoch(epoch, values)
        if not math.isfinite(values["loss"]) or not math.isfinite(values["val_loss"]):
            raise TrialError(f"diverged: loss {values['loss']}, val_loss {values['val_loss']} in epoch {epoch + 1}")


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


def train(config: Config, dataset: Dataset, seed: int, on_epoch: Epoch) -> Trained:
    """Train one replica; the same seed and number of threads give the same weights, bit for bit, on one machine.

    Raises TrialError when the loss diverges, ConfigError when a batch is larger than the training images.
    """
    (x_train, y_train), validation = dataset.splits(config.data)
    if config.training.batch_size > len(x_train):
        raise ConfigError("training.batch_size", f"{config.training.batch_size} is more than the {len(x_train)} training images")
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_dtype_policy(config.training.precision)
    model = build(config.model, len(dataset.classes))
    options = {name: value for name, value in vars(config.optimizer).items() if name != "name"}
    optimizer = getattr(keras.optimizers, config.optimizer.KERAS)(**options)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)

    history = _History(on_epoch)
    callbacks: list[keras.callbacks.Callback] = [history]
    if config.training.early_stopping:
        patience = config.training.early_stopping
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True))
    started = time.perf_counter()
    batches = _batches((x_train, y_train), config, seed)
    model.fit(batches, epochs=config.training.epochs, validation_data=_ordered(validation), callbacks=callbacks, shuffle=False, verbose=0)
    seconds = time.perf_counter() - started

    epochs = history.epochs
    last = min(epochs, key=lambda epoch: epoch["val_loss"]) if config.training.early_stopping else epochs[-1]
    test_loss, confusion = evaluate(model, dataset.test)
    accuracy = float(np.trace(confusion) / confusion.sum())
    sizes = {"parameters": float(model.count_params()), "train_seconds": seconds, "epochs": float(len(epochs))}
    return Trained(model, {**last, "test_loss": test_loss, "test_accuracy": accuracy, **sizes}, confusion)


def evaluate(model: keras.Model, split: Split) -> tuple[float, NDArray[np.int64]]:
    """Mean cross-entropy, and the images counted by true class (rows) and predicted class."""
    probabilities = model.predict(_ordered(split), verbose=0)
    labels, classes = np.asarray(split[1], np.int64), probabilities.shape[1]
    loss = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)).mean()
    counts = np.bincount(labels * classes + probabilities.argmax(axis=1), minlength=classes**2)
    return float(loss), counts.reshape(classes, classes)


def _batches(split: Split, config: Config, seed: int) -> tf.data.Dataset:
    """Training batches, shuffled anew each epoch."""
    images = tf.data.Dataset.from_tensor_slices(split).shuffle(len(split[0]), seed=seed)
    batches = images.batch(config.training.batch_size)
    if config.data.augment:
        batches = batches.map(lambda x, y: (augment(x, config.data.augment), y))
    return batches.prefetch(2)


def _ordered(split: Split) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(split).batch(500)


def augment(images: tf.Tensor, changes: list[str]) -> tf.Tensor:
    """Randomly changed uint8 images (n, 32, 32, 3).

    flip: left to right, half of them. shift: up to 4 pixels each way, the edges mirrored. cutout: a grey 8×8 square
    (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    n, size = tf.shape(images)[0], images.shape[1]
    if "flip" in changes:
        images = tf.where(tf.random.uniform((n, 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
    if "shift" in changes:
        padded = tf.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), "REFLECT")
        rows = tf.random.uniform((n, 1), 0, 9, tf.int32) + tf.range(size)
        columns = tf.random.uniform((n, 1), 0, 9, tf.int32) + tf.range(size)
        images = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    if "cutout" in changes:
        rows, columns = (tf.abs(tf.range(size) - tf.random.uniform((n, 1), 0, size, tf.int32)) < 4 for _ in range(2))
        hole = rows[:, :, None, None] & columns[:, None, :, None]
        images = tf.where(hole, tf.cast(128, images.dtype), images)
    return images
