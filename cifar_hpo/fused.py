"""Several replicas as one network: their channels side by side, so that narrow layers fill the processor's lanes.

The image is shared. Convolutions hold the replicas' channels one after the other, the first over the same image, later ones in a
group for each replica; dense layers have an axis for replicas. The loss is the sum over replicas, and all optimizers on offer but
Muon act on each weight alone, so each replica trains exactly as it would by itself. One network is made of the same layers, where
they are faster than Keras' own. `join` puts the weights of plain models into a fused one, `cut` takes them out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config import LANES

Weights = list[NDArray[Any]]


class Conv2D(keras.layers.Layer):  # type: ignore[misc]
    """A convolution in groups, from (n, h, w, groups × channels). Keras' own one with groups is compiled by XLA on a CPU, which is slow.

    Where a group has few filters, a block of pixels becomes one: it has the numbers of all, and so has the result, which fills more of the
    processor's lanes. The kernel, written once for each place in the block, multiplies more zeros, and yet takes 0.4 to 0.95 of the time.
    """

    def __init__(self, filters: int, kernel_size: int, padding: str, groups: int, *, use_bias: bool) -> None:
        super().__init__()
        self.filters, self.kernel_size, self.edges, self.groups, self.use_bias = filters, kernel_size, padding.upper(), groups, use_bias

    def build(self, shape: tuple[int, ...]) -> None:
        width = self.filters * self.groups
        self.kernel = self.add_weight((self.kernel_size, self.kernel_size, shape[-1] // self.groups, width), name="kernel")
        self.bias = self.add_weight((width,), name="bias") if self.use_bias else None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        if (block := self.block(x.shape)) != (1, 1):
            return self._by_blocks(x, kernel, *block)
        x = tf.nn.conv2d(x, kernel, 1, self.edges)
        return x if self.bias is None else tf.nn.bias_add(x, tf.convert_to_tensor(self.bias))

    def block(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of pixels that are taken as one: what was fastest for kernels of 3, 5 and 7 pixels on a processor with AVX-512."""
        _, height, width, _ = self.compute_output_shape(shape)
        if self.filters > LANES // 2 or self.kernel_size == 1:
            wanted = 1, 1
        elif self.filters <= LANES // 4:
            wanted = 2, 2
        elif self.groups > 1:
            wanted = 2, 1
        elif self.kernel_size < 5:
            wanted = 1, 1
        else:
            wanted = (1, 2) if shape[-1] < LANES // 4 else (2, 2)
        return wanted if height % wanted[0] == 0 and width % wanted[1] == 0 else (1, 1)

    def _by_blocks(self, x: tf.Tensor, kernel: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
        _, height, width, _ = self.compute_output_shape(x.shape)
        size, groups, channels, filters, pixels = self.kernel_size, self.groups, kernel.shape[2], self.filters, rows * columns
        down, across = (-(-(size + side - 1) // side) for side in (rows, columns))  # blocks that a block of results looks at
        before = (size - 1) // 2 if self.edges == "SAME" else 0
        below, right = height + rows * (down - 1) - before - x.shape[1], width + columns * (across - 1) - before - x.shape[2]
        x = tf.pad(x, ((0, 0), (before, below), (before, right), (0, 0)))
        x = tf.reshape(x, (-1, x.shape[1] // rows, rows, x.shape[2] // columns, columns, groups, channels))
        x = tf.reshape(tf.transpose(x, (0, 1, 3, 5, 2, 4, 6)), (-1, x.shape[1], x.shape[3], groups * pixels * channels))
        places = [(row, column) for row in range(rows) for column in range(columns)]
        sides = [((row, rows * down - size - row), (column, columns * across - size - column)) for row, column in places]
        kernel = tf.reshape(
            tf.stack([tf.pad(kernel, (*side, (0, 0), (0, 0))) for side in sides]),
            (pixels, down, rows, across, columns, channels, groups, filters),
        )
        kernel = tf.reshape(tf.transpose(kernel, (1, 3, 2, 4, 5, 6, 0, 7)), (down, across, pixels * channels, groups * pixels * filters))
        x = tf.nn.conv2d(x, kernel, 1, "VALID")
        if self.bias is not None:
            bias = tf.reshape(tf.convert_to_tensor(self.bias), (groups, 1, filters))
            x = tf.nn.bias_add(x, tf.reshape(tf.tile(bias, (1, pixels, 1)), (-1,)))
        x = tf.reshape(x, (-1, height // rows, width // columns, groups, rows, columns, filters))
        return tf.reshape(tf.transpose(x, (0, 1, 4, 2, 5, 3, 6)), (-1, height, width, groups * filters))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        lost = self.kernel_size - 1 if self.edges == "VALID" else 0
        return (shape[0], shape[1] - lost, shape[2] - lost, self.filters * self.groups)


class BatchNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it, which on a CPU trains a network 1.6 times as fast."""

    EPSILON = 1e-3

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum

    def build(self, shape: tuple[int, ...]) -> None:
        def numbers(initial: str, name: str, *, trainable: bool) -> Any:
            return self.add_weight((shape[-1],), initial, name=name, dtype="float32", autocast=False, trainable=trainable)

        self.gamma, self.beta = numbers("ones", "gamma", trainable=True), numbers("zeros", "beta", trainable=True)
        self.mean, self.variance = numbers("zeros", "mean", trainable=False), numbers("ones", "variance", trainable=False)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        if not training:
            return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=self.EPSILON, is_training=False)[0]
        x, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=self.EPSILON)
        n = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        for old, new in ((self.mean, new_mean), (self.variance, new_variance * (n - 1) / n)):  # Keras divides by n, TensorFlow by n - 1
            old.assign(self.momentum * tf.convert_to_tensor(old) + (1 - self.momentum) * new)
        return x

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


class Flatten(keras.layers.Layer):  # type: ignore[misc]
    """From (n, h, w, replicas × channels) to (replicas, n, h × w × channels), each replica's numbers in the order of a plain Flatten."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas

    def call(self, x: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = x.shape
        x = tf.reshape(x, (-1, height * width, self.replicas, channels // self.replicas))
        return tf.reshape(tf.transpose(x, (2, 0, 1, 3)), (self.replicas, -1, height * width * channels // self.replicas))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.replicas, shape[0], shape[1] * shape[2] * shape[3] // self.replicas)


class Dense(keras.layers.Layer):  # type: ignore[misc]
    """A dense layer for each replica, on (replicas, n, features)."""

    def __init__(self, units: int, activation: str, dtype: str | None = None) -> None:
        super().__init__(dtype=dtype)
        self.units, self.activation = units, keras.activations.get(activation)

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight((shape[0], shape[2], self.units), name="kernel")
        self.bias = self.add_weight((shape[0], self.units), name="bias")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.activation(self.sums(x))

    def sums(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, tf.convert_to_tensor(self.kernel)) + tf.convert_to_tensor(self.bias)[:, None]

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*shape[:2], self.units)


class Classes(Dense):
    """The last one, to (n, replicas, classes)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.activation(tf.transpose(self.sums(x), (1, 0, 2)))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shape[1], shape[0], self.units)


class Dropout(keras.layers.Layer):  # type: ignore[misc]
    """Each replica drops what it would drop alone, on (replicas, n, features)."""

    def __init__(self, rate: float, replicas: int) -> None:
        super().__init__()
        self.each = [keras.layers.Dropout(rate) for _ in range(replicas)]

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.stack([one(x[replica], training=training) for replica, one in enumerate(self.each)])

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


def loss(smoothing: float) -> Any:
    """Cross-entropy of labels (n,) and probabilities (n, classes) or (n, replicas, classes), summed over replicas: (n,).

    smoothing: the share of a label that is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """

    def summed(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        if smoothing:
            labels = tf.one_hot(_for_each(y_true, y_pred), y_pred.shape[-1])
            losses = keras.losses.categorical_crossentropy(labels, y_pred, label_smoothing=smoothing)
        else:
            losses = _losses(y_true, y_pred)
        return losses if losses.shape.rank == 1 else tf.reduce_sum(losses, axis=1)

    return summed


class PerReplica(keras.metrics.Metric):  # type: ignore[misc]
    """The mean over images, for each replica: (replicas,); one replica's predictions need no axis for it."""

    def __init__(self, name: str, values: Any, replicas: int) -> None:
        super().__init__(name=name)
        self.values, self.replicas = values, replicas
        self.total = self.add_variable((replicas,), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> None:  # noqa: ARG002  Keras gives it
        values = tf.reshape(tf.cast(self.values(y_true, y_pred), tf.float32), (-1, self.replicas))
        self.total.value.assign_add(tf.reduce_sum(values, axis=0))  # one operation, where Keras takes three
        self.count.value.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))

    def result(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.total) / tf.convert_to_tensor(self.count)


def metrics(replicas: int, smoothing: float) -> list[keras.metrics.Metric]:
    """Accuracy of each replica, and its cross-entropy, without smoothing so that all are of one kind; unless Keras has it as its mean."""
    accuracy = PerReplica("replica_accuracy", _hits, replicas)
    return [accuracy] if is_mean(replicas, smoothing) else [PerReplica("replica_loss", _losses, replicas), accuracy]


def is_mean(replicas: int, smoothing: float) -> bool:
    """Whether the mean of the loss, which Keras keeps, is the cross-entropy of the one replica."""
    return replicas == 1 and not smoothing


def _losses(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    return keras.losses.sparse_categorical_crossentropy(_for_each(y_true, y_pred), y_pred)


def _hits(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(y_pred, axis=-1), tf.int32) == _for_each(y_true, y_pred)


def _for_each(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    labels = tf.cast(y_true, tf.int32)
    return labels if y_pred.shape.rank == 2 else tf.broadcast_to(labels[:, None], tf.shape(y_pred)[:-1])


def join(replicas: Sequence[Weights]) -> Weights:
    """The weights of a fused model from those of plain ones."""
    if len(replicas) == 1:
        return list(replicas[0])
    dense = _first(replicas[0], dimensions=2)
    return [np.concatenate(each, axis=-1) if place < dense else np.stack(each) for place, each in enumerate(zip(*replicas, strict=True))]


def cut(weights: Weights, replicas: int) -> list[Weights]:
    """The weights of each replica, as the plain model has them."""
    if replicas == 1:
        return [weights]
    dense = _first(weights, dimensions=3)
    parts = [np.split(one, replicas, axis=-1) if place < dense else list(one) for place, one in enumerate(weights)]
    return [[part[replica] for part in parts] for replica in range(replicas)]


def _first(weights: Weights, dimensions: int) -> int:
    """The place of the first matrix of a dense layer; from there on all weights belong to dense layers."""
    return next(place for place, one in enumerate(weights) if one.ndim == dimensions)


def generators(model: keras.Model) -> list[Any]:
    """The random states of the dropout layers, in each layer one for each replica."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout | Dropout):
            found += [one.seed_generator for one in getattr(layer, "each", [layer])]
    return found
