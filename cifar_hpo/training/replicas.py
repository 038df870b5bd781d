"""Several replicas as one network: their channels side by side, so that narrow layers fill the
processor's lanes.

The image is shared. Convolutions hold the replicas' channels one after the other, the first over
the same image, later ones in a group for each replica; dense layers have an axis for replicas. The
loss is the sum over replicas, and all optimizers on offer but Muon act on each weight alone, so
each replica trains exactly as it would by itself. One network is made of the same layers, where
they are faster than Keras' own. `join` puts the weights of plain models into a fused one, `cut`
takes them out again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo import processor

Weights = list[NDArray[Any]]


class Conv2D(keras.layers.Layer):  # type: ignore[misc]
    """A convolution in groups, from (n, h, w, groups × channels) to (n, h', w', groups × filters).

    Keras' own with groups is compiled by XLA on a CPU, which takes a hundred times as long.

    A group of few filters fills few of the processor's lanes. There a block of pixels is taken as
    one pixel with the numbers of all, and so is the result; the kernel, written once for each place
    in the block, multiplies more zeros, and yet takes 0.4 to 0.95 of the time.

    block: rows and columns of pixels that are taken as one, which must divide the result's height
    and width; None takes what is fastest on this processor.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        padding: str,
        groups: int,
        *,
        use_bias: bool,
        block: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.filters = filters
        self.kernel_size = kernel_size
        self.padding = padding.upper()
        self.groups = groups
        self.use_bias = use_bias
        self.block = block

    def build(self, shape: tuple[int, ...]) -> None:
        channels = shape[-1] // self.groups
        width = self.filters * self.groups
        kernel_shape = (self.kernel_size, self.kernel_size, channels, width)
        self.kernel = self.add_weight(kernel_shape, name="kernel")
        self.bias = self.add_weight((width,), name="bias") if self.use_bias else None
        if self.block is None:
            self.block = processor.block(
                self.kernel_size,
                channels,
                self.filters,
                self.groups,
                self._size(shape),
                dtype=self.compute_dtype,
            )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        if self.block in (None, (1, 1)):
            return _convolve(x, kernel, bias, self.padding, self.groups)
        return self._convolve_blocks(x, kernel, bias, *self.block)

    def _convolve_blocks(
        self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, rows: int, columns: int
    ) -> tf.Tensor:
        """The same, (n, H, W, g·ch) → (n, h, w, g·f), with r × c pixels of the result as one.

        A block of the result sees `down` × `across` blocks of the image.
        """
        height, width = self._size(x.shape)
        size, groups, filters, pixels = self.kernel_size, self.groups, self.filters, rows * columns
        channels = kernel.shape[2]
        down = -(-(size + rows - 1) // rows)
        across = -(-(size + columns - 1) // columns)

        before = (size - 1) // 2 if self.padding == "SAME" else 0
        below = height + rows * (down - 1) - before - x.shape[1]
        right = width + columns * (across - 1) - before - x.shape[2]
        x = tf.pad(x, ((0, 0), (before, below), (before, right), (0, 0)))
        high, wide = x.shape[1] // rows, x.shape[2] // columns
        x = tf.reshape(x, (-1, high, rows, wide, columns, groups, channels))
        x = tf.transpose(x, (0, 1, 3, 5, 2, 4, 6))  # (n, high, wide, g, r, c, ch)
        x = tf.reshape(x, (-1, high, wide, groups * pixels * channels))

        copies = []  # the kernel as each pixel of a block sees it: (r·down, c·across, ch, g·f)
        for row in range(rows):
            for column in range(columns):
                vertical = (row, rows * down - size - row)
                horizontal = (column, columns * across - size - column)
                copies.append(tf.pad(kernel, (vertical, horizontal, (0, 0), (0, 0))))
        kernel = tf.stack(copies)
        kernel = tf.reshape(
            kernel, (pixels, down, rows, across, columns, channels, groups, filters)
        )
        kernel = tf.transpose(kernel, (1, 3, 2, 4, 5, 6, 0, 7))  # (down, across, r, c, ch, g, p, f)
        kernel = tf.reshape(kernel, (down, across, pixels * channels, groups * pixels * filters))

        if bias is not None:
            bias = tf.tile(tf.reshape(bias, (groups, 1, filters)), (1, pixels, 1))  # (g, p, f)
            bias = tf.reshape(bias, (-1,))
        x = _convolve(x, kernel, bias, "VALID", groups)  # (n, h/r, w/c, g·p·f)
        x = tf.reshape(x, (-1, height // rows, width // columns, groups, rows, columns, filters))
        x = tf.transpose(x, (0, 1, 4, 2, 5, 3, 6))  # (n, h/r, r, w/c, c, g, f)
        return tf.reshape(x, (-1, height, width, groups * filters))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shape[0], *self._size(shape), self.filters * self.groups)

    def _size(self, shape: tuple[Any, ...]) -> tuple[int, int]:
        """Height and width of the result for images (n, H, W, channels)."""
        lost = self.kernel_size - 1 if self.padding == "VALID" else 0
        return shape[1] - lost, shape[2] - lost


def _convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, padding: str, groups: int
) -> tf.Tensor:
    """A convolution in groups, by one operation where TensorFlow has it for groups.

    Its own kernels have none on a CPU, nor the gradients: there each group is convolved by itself.
    """
    if groups == 1 or _has_grouped_convolutions(x.dtype):
        x = tf.nn.conv2d(x, kernel, 1, padding)
    else:
        images, kernels = tf.split(x, groups, axis=3), tf.split(kernel, groups, axis=3)
        parts = [tf.nn.conv2d(*pair, 1, padding) for pair in zip(images, kernels, strict=True)]
        x = tf.concat(parts, axis=3)
    return x if bias is None else tf.nn.bias_add(x, bias)


@functools.cache
def _has_grouped_convolutions(dtype: tf.DType) -> bool:
    """Whether TensorFlow has convolutions in groups here, with a bias and their gradients.

    Tried once in a process: oneDNN has them, TensorFlow's own kernels do not, and these take over
    what oneDNN has not, such as bfloat16 on AVX2.
    """

    @tf.function  # type: ignore[untyped-decorator]
    def gradients(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> list[tf.Tensor]:
        y = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
        return list(tf.gradients(y, (x, kernel, bias)))

    with tf.init_scope():
        try:
            shapes = ((1, 4, 4, 4), (3, 3, 2, 4), (4,))
            gradients(*(tf.ones(shape, dtype) for shape in shapes))
        except tf.errors.OpError:
            return False
    return True


class BatchNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it, which on a CPU trains a network 1.6 times as
    fast."""

    EPSILON = 1e-3

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum

    def build(self, shape: tuple[int, ...]) -> None:
        def numbers(initial: str, name: str, *, trainable: bool) -> Any:
            return self.add_weight(
                (shape[-1],),
                initial,
                name=name,
                dtype="float32",
                autocast=False,
                trainable=trainable,
            )

        self.gamma, self.beta = (
            numbers("ones", "gamma", trainable=True),
            numbers("zeros", "beta", trainable=True),
        )
        self.mean, self.variance = (
            numbers("zeros", "mean", trainable=False),
            numbers("ones", "variance", trainable=False),
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        if not training:
            return tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, epsilon=self.EPSILON, is_training=False
            )[0]
        x, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, epsilon=self.EPSILON
        )
        n = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        for old, new in (
            (self.mean, new_mean),
            (self.variance, new_variance * (n - 1) / n),
        ):  # Keras divides by n, TensorFlow by n - 1
            old.assign(self.momentum * tf.convert_to_tensor(old) + (1 - self.momentum) * new)
        return x

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


class Flatten(keras.layers.Layer):  # type: ignore[misc]
    """From (n, h, w, replicas × channels) to (replicas, n, h × w × channels), each replica's
    numbers in the order of a plain Flatten."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas

    def call(self, x: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = x.shape
        x = tf.reshape(x, (-1, height * width, self.replicas, channels // self.replicas))
        return tf.reshape(
            tf.transpose(x, (2, 0, 1, 3)),
            (self.replicas, -1, height * width * channels // self.replicas),
        )

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
        return (
            tf.matmul(x, tf.convert_to_tensor(self.kernel))
            + tf.convert_to_tensor(self.bias)[:, None]
        )

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*shape[:2], self.units)


class FusedOutput(Dense):
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
        return tf.stack(
            [one(x[replica], training=training) for replica, one in enumerate(self.each)]
        )

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


def loss(smoothing: float) -> Any:
    """Cross-entropy of labels (n,) and probabilities (n, classes) or (n, replicas, classes), summed
    over replicas: (n,).

    smoothing: the share of a label that is spread evenly over all classes (Szegedy et al. 2016,
    arXiv 1512.00567).
    """

    def summed(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        if smoothing:
            labels = tf.one_hot(_labels_per_replica(y_true, y_pred), y_pred.shape[-1])
            losses = keras.losses.categorical_crossentropy(
                labels, y_pred, label_smoothing=smoothing
            )
        else:
            losses = _losses(y_true, y_pred)
        return losses if losses.shape.rank == 1 else tf.reduce_sum(losses, axis=1)

    return summed


class PerReplica(keras.metrics.Metric):  # type: ignore[misc]
    """The mean over images, for each replica: (replicas,); one replica's predictions need no axis
    for it."""

    def __init__(self, name: str, values: Any, replicas: int) -> None:
        super().__init__(name=name)
        self.values, self.replicas = values, replicas
        self.total = self.add_variable((replicas,), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> None:  # noqa: ARG002  Keras gives it
        values = tf.reshape(tf.cast(self.values(y_true, y_pred), tf.float32), (-1, self.replicas))
        self.total.value.assign_add(
            tf.reduce_sum(values, axis=0)
        )  # one operation, where Keras takes three
        self.count.value.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))

    def result(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.total) / tf.convert_to_tensor(self.count)


def metrics(replicas: int, smoothing: float) -> list[keras.metrics.Metric]:
    """Accuracy of each replica, and its cross-entropy, without smoothing so that all are of one
    kind; unless Keras has it as its mean."""
    accuracy = PerReplica("replica_accuracy", _hits, replicas)
    return (
        [accuracy]
        if keras_loss_is_cross_entropy(replicas, smoothing)
        else [PerReplica("replica_loss", _losses, replicas), accuracy]
    )


def keras_loss_is_cross_entropy(replicas: int, smoothing: float) -> bool:
    """Whether the mean of the loss, which Keras keeps, is the cross-entropy of the one replica."""
    return replicas == 1 and not smoothing


def _losses(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    return keras.losses.sparse_categorical_crossentropy(_labels_per_replica(y_true, y_pred), y_pred)


def _hits(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(y_pred, axis=-1), tf.int32) == _labels_per_replica(y_true, y_pred)


def _labels_per_replica(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    labels = tf.cast(y_true, tf.int32)
    return (
        labels
        if y_pred.shape.rank == 2
        else tf.broadcast_to(labels[:, None], tf.shape(y_pred)[:-1])
    )


def stack_replicas(replicas: Sequence[Weights]) -> Weights:
    """The weights of a fused model from those of plain ones."""
    if len(replicas) == 1:
        return list(replicas[0])
    dense = _first(replicas[0], dimensions=2)
    return [
        np.concatenate(each, axis=-1) if place < dense else np.stack(each)
        for place, each in enumerate(zip(*replicas, strict=True))
    ]


def unstack(weights: Weights, replicas: int) -> list[Weights]:
    """The weights of each replica, as the plain model has them."""
    if replicas == 1:
        return [weights]
    dense = _first(weights, dimensions=3)
    parts = [
        np.split(one, replicas, axis=-1) if place < dense else list(one)
        for place, one in enumerate(weights)
    ]
    return [[part[replica] for part in parts] for replica in range(replicas)]


def _first(weights: Weights, dimensions: int) -> int:
    """The place of the first matrix of a dense layer; from there on all weights belong to dense
    layers."""
    return next(place for place, one in enumerate(weights) if one.ndim == dimensions)


def generators(model: keras.Model) -> list[Any]:
    """The random states of the dropout layers, in each layer one for each replica."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout | Dropout):
            found += [one.seed_generator for one in getattr(layer, "each", [layer])]
    return found
