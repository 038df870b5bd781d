"""Layers that do what Keras' own do, faster and for several replicas side by side.

`Conv2D` convolves in groups, `Dense`, `FusedOutput` and `Dropout` have an axis for replicas,
`Flatten` lies between, and `BatchNormalization` is one operation.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from cifar_hpo import processor
from cifar_hpo.training import _keras, devices


class Conv2D(keras.layers.Layer):  # type: ignore[misc]
    """A convolution in groups, from (n, h, w, groups × channels) to (n, h', w', groups × filters).

    Keras' own with groups is compiled by XLA on a CPU, which takes a hundred times as long.

    A group of few filters fills few of the processor's lanes. There a block of pixels is taken as
    one pixel with the numbers of all, and so is the result; the kernel, written once for each pixel
    of the block, multiplies more zeros, and yet takes 0.4 to 0.95 of the time.

    filters: of a group. padding: same or valid. groups: which divide the channels; with one all
    filters read all channels. block: rows and columns of pixels that are taken as one, which must
    divide the result's height and width; None takes what is fastest on this processor, and single
    pixels on a GPU.
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

    def build(self, shape: tuple[Any, ...]) -> None:
        channels = shape[-1] // self.groups
        width = self.filters * self.groups
        kernel_shape = (self.kernel_size, self.kernel_size, channels, width)
        self.kernel = self.add_weight(kernel_shape, name="kernel")
        self.bias = self.add_weight((width,), name="bias") if self.use_bias else None
        if self.block is None:
            self.block = self._fastest_block(channels, self._size(shape))

    def _fastest_block(self, channels: int, size: tuple[Any, Any]) -> tuple[int, int]:
        """What was measured for processors is nothing for a GPU, nor for float16; images of any
        size have none that divides it."""
        if None in size or devices.has_gpu() or self.compute_dtype == "float16":
            return 1, 1
        return processor.block(
            self.kernel_size, channels, self.filters, self.groups, size, dtype=self.compute_dtype
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
        down = -(-(self.kernel_size + rows - 1) // rows)
        across = -(-(self.kernel_size + columns - 1) // columns)

        before = (self.kernel_size - 1) // 2 if self.padding == "SAME" else 0
        below = height + rows * (down - 1) - before - x.shape[1]
        right = width + columns * (across - 1) - before - x.shape[2]
        x = tf.pad(x, ((0, 0), (before, below), (before, right), (0, 0)))
        x = self._blocks_of_image(x, rows, columns)  # (n, H/r, W/c, g·r·c·ch)
        kernel = self._blocks_of_kernel(kernel, rows, columns, down, across)
        if bias is not None:
            bias = tf.reshape(bias, (self.groups, 1, self.filters))
            bias = tf.tile(bias, (1, rows * columns, 1))  # (g, r·c, f)
            bias = tf.reshape(bias, (-1,))
        x = _convolve(x, kernel, bias, "VALID", self.groups)  # (n, h/r, w/c, g·r·c·f)

        high, wide = height // rows, width // columns
        x = tf.reshape(x, (-1, high, wide, self.groups, rows, columns, self.filters))
        x = tf.transpose(x, (0, 1, 4, 2, 5, 3, 6))  # (n, h/r, r, w/c, c, g, f)
        return tf.reshape(x, (-1, height, width, self.groups * self.filters))

    def _blocks_of_image(self, x: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
        """An image with r × c pixels as one: (n, H, W, g·ch) → (n, H/r, W/c, g·r·c·ch)."""
        _, height, width, all_channels = x.shape
        high, wide = height // rows, width // columns
        channels = all_channels // self.groups
        x = tf.reshape(x, (-1, high, rows, wide, columns, self.groups, channels))
        x = tf.transpose(x, (0, 1, 3, 5, 2, 4, 6))  # (n, H/r, W/c, g, r, c, ch)
        return tf.reshape(x, (-1, high, wide, self.groups * rows * columns * channels))

    def _blocks_of_kernel(
        self, kernel: tf.Tensor, rows: int, columns: int, down: int, across: int
    ) -> tf.Tensor:
        """The kernel for blocks: (k, k, ch, g·f) → (down, across, r·c·ch, g·p·f), with p = r·c."""
        size, channels, pixels = self.kernel_size, kernel.shape[2], rows * columns
        copies = []  # the kernel as each pixel of a block sees it: (r·down, c·across, ch, g·f)
        for row in range(rows):
            for column in range(columns):
                vertical = (row, rows * down - size - row)
                horizontal = (column, columns * across - size - column)
                copies.append(tf.pad(kernel, (vertical, horizontal, (0, 0), (0, 0))))
        kernel = tf.stack(copies)  # (p, r·down, c·across, ch, g·f)
        shape = (pixels, down, rows, across, columns, channels, self.groups, self.filters)
        kernel = tf.reshape(kernel, shape)
        kernel = tf.transpose(kernel, (1, 3, 2, 4, 5, 6, 0, 7))  # (down, across, r, c, ch, g, p, f)
        return tf.reshape(
            kernel, (down, across, pixels * channels, self.groups * pixels * self.filters)
        )

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shape[0], *self._size(shape), self.filters * self.groups)

    def _size(self, shape: tuple[Any, ...]) -> tuple[Any, Any]:
        """Height and width of the result for images (n, H, W, channels); None where they may be
        any."""
        lost = self.kernel_size - 1 if self.padding == "VALID" else 0
        height, width = (side and side - lost for side in shape[1:3])
        return height, width


def _convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, padding: str, groups: int
) -> tf.Tensor:
    """A convolution in groups, by one operation where TensorFlow has it for groups.

    Its own kernels have none on a CPU, nor the gradients: there each group is convolved by itself.
    """
    if groups == 1 or _has_grouped_convolutions(x.dtype):
        x = tf.nn.conv2d(x, kernel, 1, padding)
    else:
        parts = []
        images = tf.split(x, groups, axis=3)
        kernels = tf.split(kernel, groups, axis=3)
        for group in range(groups):
            parts.append(tf.nn.conv2d(images[group], kernels[group], 1, padding))
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
        image = tf.ones((1, 4, 4, 4), dtype)
        kernel = tf.ones((3, 3, 2, 4), dtype)  # of two groups
        bias = tf.ones((4,), dtype)
        try:
            gradients(image, kernel, bias)
        except tf.errors.OpError:
            return False
    return True


class BatchNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it.

    On a CPU a network trains 1.6 times as fast with it. momentum: the share of the running means
    that a step keeps.
    """

    EPSILON = 1e-3

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum

    def build(self, shape: tuple[int, ...]) -> None:
        channels = shape[-1]
        self.gamma = self._add_numbers(channels, "ones", "gamma", trainable=True)
        self.beta = self._add_numbers(channels, "zeros", "beta", trainable=True)
        self.mean = self._add_numbers(channels, "zeros", "mean", trainable=False)
        self.variance = self._add_numbers(channels, "ones", "variance", trainable=False)

    def _add_numbers(self, channels: int, initial: str, name: str, *, trainable: bool) -> Any:
        """One for each channel, float32 whatever the precision."""
        return self.add_weight(
            (channels,), initial, name=name, dtype="float32", autocast=False, trainable=trainable
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        normalise = tf.compat.v1.nn.fused_batch_norm
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        if not training:
            x, *_ = normalise(
                x, gamma, beta, mean, variance, epsilon=self.EPSILON, is_training=False
            )
            return x
        x, batch_mean, batch_variance = normalise(x, gamma, beta, epsilon=self.EPSILON)
        # Keras divides by n, TensorFlow by n - 1.
        n = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        batch_variance = batch_variance * (n - 1) / n
        self.mean.assign(self._moved(mean, batch_mean))
        self.variance.assign(self._moved(variance, batch_variance))
        return x

    def _moved(self, running: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        return self.momentum * running + (1 - self.momentum) * batch

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


class Flatten(keras.layers.Layer):  # type: ignore[misc]
    """From (n, h, w, replicas × channels) to (replicas, n, h × w × channels).

    Each replica's numbers are in the order of Keras' Flatten.
    """

    def __init__(self, replica_count: int) -> None:
        super().__init__()
        self.replica_count = replica_count

    def call(self, x: tf.Tensor) -> tf.Tensor:
        _, height, width, all_channels = x.shape
        pixels = height * width
        channels = all_channels // self.replica_count
        x = tf.reshape(x, (-1, pixels, self.replica_count, channels))  # (n, pixels, replicas, ch)
        x = tf.transpose(x, (2, 0, 1, 3))  # (replicas, n, pixels, ch)
        return tf.reshape(x, (self.replica_count, -1, pixels * channels))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        n, height, width, all_channels = shape
        return (self.replica_count, n, height * width * all_channels // self.replica_count)


class Dense(keras.layers.Layer):  # type: ignore[misc]
    """A dense layer for each replica, (replicas, n, features) → (replicas, n, units)."""

    def __init__(self, units: int, activation: str, dtype: str | None = None) -> None:
        super().__init__(dtype=dtype)
        self.units = units
        self.activation = keras.activations.get(activation)

    def build(self, shape: tuple[int, ...]) -> None:
        replica_count, _, features = shape
        self.kernel = self.add_weight((replica_count, features, self.units), name="kernel")
        self.bias = self.add_weight((replica_count, self.units), name="bias")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.activation(self.sums(x))

    def sums(self, x: tf.Tensor) -> tf.Tensor:
        """Before the activation: (replicas, n, units)."""
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        return tf.matmul(x, kernel) + bias[:, None]

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*shape[:2], self.units)


class FusedOutput(Dense):
    """The last dense layer, (replicas, n, features) → (n, replicas, classes)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.activation(tf.transpose(self.sums(x), (1, 0, 2)))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        replica_count, n, _ = shape
        return (n, replica_count, self.units)


class Dropout(keras.layers.Layer):  # type: ignore[misc]
    """Each replica drops what it would drop alone, of (replicas, n, features)."""

    def __init__(self, rate: float, replica_count: int) -> None:
        super().__init__()
        self.dropouts = [keras.layers.Dropout(rate) for _ in range(replica_count)]

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        kept = []
        for replica, dropout in enumerate(self.dropouts):
            kept.append(dropout(x[replica], training=training))
        return tf.stack(kept)

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


def random_states(model: keras.Model) -> list[Any]:
    """The variables from which a model's dropout layers draw.

    Layer by layer from the first, and in a fused layer replica by replica.
    """
    states = []
    for layer in model.layers:
        if isinstance(layer, Dropout):
            states += [_keras.random_state(dropout) for dropout in layer.dropouts]
        elif isinstance(layer, keras.layers.Dropout):
            states.append(_keras.random_state(layer))
    return states
