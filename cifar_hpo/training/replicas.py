"""Several replicas as one network: their weights, losses and metrics, together and apart.

The replicas' channels lie side by side, so that narrow layers fill the processor's lanes. The
image is shared. Convolutions hold the replicas' channels one after the other, the first over the
same image, later ones in a group for each replica; dense layers have an axis for replicas. The loss
is the sum over replicas, and all optimizers on offer but Muon act on each weight alone, so each
replica trains exactly as it would by itself. `stack_replicas` puts the weights of Keras' own models
into a fused one, `unstack` takes them out again. Which configs are fused `Config.is_fused` says, in
config/app.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL

Weights = list[NDArray[Any]]
"""Of one replica, in the order in which Keras' own model has them."""

LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Of labels (n,), or (n, outputs) where they are no classes, and of outputs (n, outputs) or
(n, replicas, outputs)."""


def loss(labels: str, smoothing: float) -> LossFunction:
    """The loss of labels of a kind, summed over replicas: (n,).

    It is the cross-entropy, or of numbers the mean squared error. smoothing: the share of a label
    that is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """
    of_each = _losses(labels, smoothing)

    def summed(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        losses = of_each(labels, outputs)
        is_fused = losses.shape.rank == 2
        return tf.reduce_sum(losses, axis=1) if is_fused else losses

    return summed


class PerImage(keras.losses.Loss):  # type: ignore[misc]
    """The mean over images of a function as `loss` returns it.

    Given as it is to `compile`, Keras would take a single number for each replica, (n, replicas,
    1), for as many numbers of an image.
    """

    def __init__(self, function: LossFunction) -> None:
        super().__init__()
        self.function = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return self.function(y_true, y_pred)


class PerReplica(keras.metrics.Metric):  # type: ignore[misc]
    """The mean of a function over images, for each replica: (replicas,).

    function: of labels and outputs; (n,) where there is one replica, else (n, replicas).
    """

    def __init__(self, name: str, function: LossFunction, replica_count: int) -> None:
        super().__init__(name=name)
        self.function = function
        self.replica_count = replica_count
        self.total = self.add_variable((replica_count,), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: Any = None,  # noqa: ARG002  Keras gives it
    ) -> None:
        values = tf.cast(self.function(y_true, y_pred), tf.float32)
        values = tf.reshape(values, (-1, self.replica_count))  # (n, replicas)
        # TensorFlow's own assign_add is one operation, where Keras takes three.
        self.total.value.assign_add(tf.reduce_sum(values, axis=0))
        self.count.value.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))

    def result(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.total) / tf.convert_to_tensor(self.count)


REPLICA_LOSS = "replica_loss"
REPLICA_METRIC = "replica_metric"


def metrics(labels: str, replica_count: int, *, with_loss: bool) -> list[keras.metrics.Metric]:
    """How good each replica is: its accuracy, or of numbers the mean absolute error.

    with_loss: whether the loss of each is kept, too; it is without smoothing and without what a
    model's layers add to it, so that all configurations are compared by the same.
    """
    metric = PerReplica(REPLICA_METRIC, METRICS[labels], replica_count)
    if not with_loss:
        return [metric]
    return [PerReplica(REPLICA_LOSS, _losses(labels, 0), replica_count), metric]


def plain_metrics(labels: str) -> list[keras.metrics.Metric]:
    """The same of a single replica, with the loss, as Keras' own metrics, which `fit` can show."""
    mean = keras.metrics.MeanMetricWrapper
    return [mean(_losses(labels, 0), REPLICA_LOSS), mean(METRICS[labels], REPLICA_METRIC)]


def keras_loss_is_the_loss(replica_count: int, smoothing: float) -> bool:
    """Whether the mean of the loss, which Keras keeps, is that of the one replica as it is compared
    with others."""
    return replica_count == 1 and not smoothing


def _losses(labels: str, smoothing: float) -> LossFunction:
    """The loss of each image and replica: (n,) or (n, replicas)."""
    if labels == NUMBERS:
        return _squared_errors
    if labels == SEVERAL:
        return functools.partial(_binary_cross_entropies, smoothing=smoothing)
    if smoothing:
        return functools.partial(_smoothed_cross_entropies, smoothing=smoothing)
    return _cross_entropies


def _binary_cross_entropies(
    labels: tf.Tensor, probabilities: tf.Tensor, smoothing: float
) -> tf.Tensor:
    """Mean over the labels of each image: (n,) or (n, replicas)."""
    labels = _numbers_per_replica(labels, probabilities)
    return keras.losses.binary_crossentropy(labels, probabilities, label_smoothing=smoothing)


def _label_accuracies(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """The share of each image's labels that are right: (n,) or (n, replicas)."""
    is_correct = (_numbers_per_replica(labels, probabilities) > 0.5) == (probabilities > 0.5)
    return tf.reduce_mean(tf.cast(is_correct, tf.float32), axis=-1)


def _squared_errors(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Mean over the numbers of each image: (n,) or (n, replicas)."""
    return tf.reduce_mean((outputs - _numbers_per_replica(labels, outputs)) ** 2, axis=-1)


def _absolute_errors(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Mean over the numbers of each image: (n,) or (n, replicas)."""
    return tf.reduce_mean(tf.abs(outputs - _numbers_per_replica(labels, outputs)), axis=-1)


def _numbers_per_replica(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Labels (n, k) in the shape of the outputs, where they are the same for all replicas."""
    labels = tf.cast(labels, outputs.dtype)
    if outputs.shape.rank == 2:
        return labels
    return tf.broadcast_to(labels[:, None], tf.shape(outputs))  # (n, replicas, k)


def _cross_entropies(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Of each image and replica: (n,) or (n, replicas)."""
    labels = _labels_per_replica(labels, probabilities)
    return keras.losses.sparse_categorical_crossentropy(labels, probabilities)


def _smoothed_cross_entropies(
    labels: tf.Tensor, probabilities: tf.Tensor, smoothing: float
) -> tf.Tensor:
    """Of each image and replica: (n,) or (n, replicas)."""
    labels = _labels_per_replica(labels, probabilities)
    shares = tf.one_hot(labels, probabilities.shape[-1])  # (…, classes)
    return keras.losses.categorical_crossentropy(shares, probabilities, label_smoothing=smoothing)


def _is_correct(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Whether the likeliest class is the label: (n,) or (n, replicas), bool."""
    likeliest = tf.cast(tf.argmax(probabilities, axis=-1), tf.int32)
    return likeliest == _labels_per_replica(labels, probabilities)


def _labels_per_replica(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Labels (n,) in the shape of the probabilities without their classes, int32."""
    labels = tf.cast(labels, tf.int32)
    if probabilities.shape.rank == 2:
        return labels
    return tf.broadcast_to(labels[:, None], tf.shape(probabilities)[:-1])  # (n, replicas)


METRICS: dict[str, LossFunction] = {
    CLASSES: _is_correct,
    SEVERAL: _label_accuracies,
    NUMBERS: _absolute_errors,
}
"""By the kind of labels, what is averaged beside the loss."""


def stack_replicas(replicas: Sequence[Weights]) -> Weights:
    """The weights of a fused model from those of Keras' own models."""
    if len(replicas) == 1:
        return list(replicas[0])
    first_dense = _first_with_dimensions(replicas[0], 2)
    stacked = []
    for position, arrays in enumerate(zip(*replicas, strict=True)):
        if position < first_dense:
            stacked.append(np.concatenate(arrays, axis=-1))  # (…, replicas × filters)
        else:
            stacked.append(np.stack(arrays))  # (replicas, …)
    return stacked


def unstack(weights: Weights, replica_count: int) -> list[Weights]:
    """The weights of each replica, as Keras' own model has them."""
    if replica_count == 1:
        return [weights]
    first_dense = _first_with_dimensions(weights, 3)
    replicas: list[Weights] = [[] for _ in range(replica_count)]
    for position, array in enumerate(weights):
        is_dense = position >= first_dense
        parts = list(array) if is_dense else np.split(array, replica_count, axis=-1)
        for replica, part in zip(replicas, parts, strict=True):
            replica.append(part)
    return replicas


def _first_with_dimensions(weights: Weights, dimensions: int) -> int:
    """The position of the first dense layer's matrix; all weights from there are of dense layers.

    dimensions: of that matrix, 2 in Keras' own model and 3 in a fused one, which convolutions and
    norms do not have.
    """
    for position, array in enumerate(weights):
        if array.ndim == dimensions:
            return position
    raise ValueError(f"no weight has {dimensions} dimensions: the model has no dense layer")
