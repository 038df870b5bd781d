"""Training by Keras' own `fit`, for what can't be one graph: a model that trains in a way of its
own, and streams of images.

`shuffled_batches` are those of the graph, in its order; `fit_epoch` trains on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.training.augmentation import augment, flipped_in

EVAL_BATCH = 500
"""Images in a batch where nothing is learned."""


def batch_of(
    images: tf.Tensor, chosen: tf.Tensor, changes: Sequence[str], epoch: tf.Tensor, step: tf.Tensor
) -> tf.Tensor:
    """The chosen ones of the images, augmented as follows from the epoch and its step.

    changes: as `augment` takes them.
    """
    batch = tf.gather(images, chosen)
    if not changes:
        return batch
    flips = None
    if "alternating_flip" in changes:
        flips = tf.gather(flipped_in(epoch, tf.shape(images)[0]), chosen)
    return augment(batch, changes, tf.stack((epoch, step)), flips)


def shuffled_batches(
    images: tf.Tensor, labels: tf.Tensor, epoch: int, batch_size: int, changes: Sequence[str]
) -> tf.data.Dataset:
    """The batches of an epoch, counted from 0, as a network in one graph has them."""
    count = len(images)
    order = tf.random.experimental.stateless_shuffle(tf.range(count), (0, epoch))

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step = tf.cast(step, tf.int32)
        chosen = order[step * batch_size : (step + 1) * batch_size]
        batch = batch_of(images, chosen, changes, tf.constant(epoch), step)
        return batch, tf.gather(labels, chosen)

    return tf.data.Dataset.range(-(-count // batch_size)).map(batch).prefetch(1)


def in_batches(images: Any, labels: Any) -> tf.data.Dataset:
    """Images and labels in their order, in batches for scoring."""
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(EVAL_BATCH)


class ScheduledRate(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the learning rate by a schedule.

    peak: the rate that the schedule gives a share of. first: step of the epoch, counted from the
    start of the training, which has so many steps.
    """

    def __init__(
        self, schedule: Callable[[tf.Tensor], tf.Tensor], peak: float, first: int, steps: int
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.peak = peak
        self.first = first
        self.steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        done = tf.constant((self.first + batch) / self.steps, tf.float32)
        self.model.optimizer.learning_rate.assign(self.peak * self.schedule(done))


def fit_epoch(
    model: keras.Model,
    batches: tf.data.Dataset,
    epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict[str, float]:
    """Train a model on an epoch, counted from 0; its metrics by their names."""
    history = model.fit(
        batches,
        initial_epoch=epoch,
        epochs=epoch + 1,
        shuffle=False,  # the batches are
        callbacks=list(callbacks),
        verbose=0,
    )
    return _numbers({name: values[-1] for name, values in history.history.items()})


def evaluate(model: keras.Model, batches: tf.data.Dataset) -> dict[str, float]:
    """A model's own loss and metrics, by their names."""
    return _numbers(model.evaluate(batches, verbose=0, return_dict=True))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are one number; a metric may be several, one for each class."""
    return {name: float(value) for name, value in values.items() if np.ndim(value) == 0}


def outputs_and_labels(
    predict: Callable[[tf.Tensor], tf.Tensor], batches: tf.data.Dataset, dtype: tf.DType
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """What is predicted for a stream's images, (n, k), and their labels.

    predict: of images of the dtype.
    """
    outputs, labels = [], []
    for images, batch_labels in batches:
        outputs.append(predict(tf.cast(images, dtype)).numpy())
        labels.append(batch_labels.numpy())
    return np.concatenate(outputs), np.concatenate(labels)
