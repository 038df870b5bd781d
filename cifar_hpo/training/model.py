"""A CNN from its config: stages of convolutions, then a dense layer and the outputs.

`build` makes it, of Keras' own layers or of ours; `with_tta` makes of it a model that averages over
the `views` of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as keras_layers
from numpy.typing import NDArray

from cifar_hpo.config.app import WHITENING_SIZE, Model, Shape, whitening_channels
from cifar_hpo.training import layers
from cifar_hpo.training.signature import Signature

NEVER_FALLING = ("relu", "elu", "selu", "leaky_relu", "tanh", "sigmoid")
"""Activations that give no smaller number for a larger one."""

WHITENING_IMAGES = 1_000
WHITENING_PIXELS = 1_024_000
"""Images, and pixels of them, that whitening is computed from at most: a million patches of a dozen
numbers each."""


def build(
    config: Model, signature: Signature, replica_count: int = 0, *, any_size: bool = False
) -> keras.Model:
    """The uncompiled model: raw images (n, h, w, c) in, float32 numbers (n, outputs) out, which are
    probabilities unless labels are numbers.

    replica_count: 0 builds it of Keras' own layers, to be kept and loaded anywhere; otherwise of
    those in `layers`, which compute the same faster. With more than one the numbers are
    (n, replicas, outputs). any_size: whether it takes images of other sizes, too, for which it
    needs global pooling. Weights are drawn from Keras' global seed. With batch norm a convolution
    has no bias, which the norm would cancel.
    """
    parts = _parts(config, signature, replica_count)
    height, width, colours = signature.shape
    shape = (None, None, colours) if any_size else (height, width, colours)
    inputs = keras.Input(shape, dtype=signature.dtype, name="image")
    x = keras_layers.Rescaling(1 / 255)(inputs) if signature.is_scaled else inputs
    if config.whitening:
        x = parts.whitening()(x)
        x = keras_layers.Activation(config.activation)(x)
    x = _with_convolutions(x, config, signature.shape, parts)  # (n, h, w, replicas × channels)
    if config.global_pooling == "average":
        x = keras_layers.GlobalAveragePooling2D(keepdims=True)(x)  # (n, 1, 1, …)
    if config.global_pooling == "max":
        x = keras_layers.GlobalMaxPooling2D(keepdims=True)(x)  # (n, 1, 1, …)
    x = parts.flatten()(x)  # (n, features), or (replicas, n, features)
    if config.dense_units:
        if config.dropout:
            x = parts.dropout()(x)
        x = parts.dense(config.dense_units)(x)
    if config.dropout:
        x = parts.dropout()(x)
    return keras.Model(inputs, parts.output()(x))


def _with_convolutions(x: Any, config: Model, shape: Shape, parts: KerasParts) -> Any:
    """What the trained convolutions make of an image, with their norms, activations and pooling."""
    pools_last = config.pooling == "last" and not parts.pools_before_activation
    first_of_stage = x
    for number, convolution in enumerate(config.layers(shape)):
        reads_image = number == 0 and not config.whitening
        x = parts.convolution(convolution.filters, reads_image=reads_image)(x)
        if convolution.is_pooled and not pools_last:
            x = keras_layers.MaxPooling2D()(x)  # before the norm, which has a quarter of the work
        if config.batch_norm:
            x = parts.batch_norm()(x)
        x = keras_layers.Activation(config.activation)(x)
        if convolution.position == 0:
            first_of_stage = x
        if config.residual and convolution.position == config.convolutions - 1:
            x = keras_layers.Add()([first_of_stage, x])
        if convolution.is_pooled and pools_last:
            x = keras_layers.MaxPooling2D()(x)
    return x


def views(images: Any, config: Model) -> list[tuple[float, Any]]:
    """What of images (n, h, w, c) is looked at outside of training, each view of their shape and
    with its weight; the weights are 1 in all.

    With model.shift an image has half of the weight, and a quarter each have the image shifted by a
    pixel up and left, and down and right, edges mirrored (Jordan 2024, arXiv 2404.00498). With
    model.mirror each view shares its weight with its mirror image.
    """
    weighted = [(1.0, images)]
    if config.shift:
        padded = keras.ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        weighted = [(0.5, images), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    if config.mirror:
        mirrored = [(weight / 2, keras.ops.flip(view, axis=2)) for weight, view in weighted]
        weighted = [(weight / 2, view) for weight, view in weighted] + mirrored
    return weighted


def mean_over_views(model: Callable[[Any], Any], images: Any, config: Model) -> Any:
    """What a model gives for images (n, h, w, c), as the mean over the views of each."""
    outputs = [weight * model(view) for weight, view in views(images, config)]
    return sum(outputs[1:], start=outputs[0])


def with_tta(model: keras.Model, config: Model) -> keras.Model:
    """A model with the same weights for predictions: the mean over the views of an image.

    Test-time augmentation, so it is not made for training.
    """
    image = model.inputs[0]
    return keras.Model(image, mean_over_views(model, image, config))


def whitening_weights(images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel (2, 2, c, 8·c) and bias (8·c,) that whiten the 2×2 patches of images (n, h, w, c).

    They take a patch to its principal components, each of variance 1 and with either sign, so that
    a ReLU loses nothing (Jordan 2024, arXiv 2404.00498).
    """
    side, colours = WHITENING_SIZE, images.shape[3]
    pixels = images.shape[1] * images.shape[2]
    count = max(1, min(WHITENING_IMAGES, WHITENING_PIXELS // pixels))
    scaled = images[:count]  # (n, h, w, c)
    if images.dtype == np.uint8:
        scaled = scaled / np.float32(255)
    patches = np.lib.stride_tricks.sliding_window_view(scaled, (side, side), axis=(1, 2))
    patches = np.moveaxis(patches, 3, -1)  # (n, h-1, w-1, rows, columns, c)
    patches = patches.reshape(-1, side * side * colours)  # (n·(h-1)·(w-1), 4·c)
    mean = patches.mean(axis=0, dtype=np.float64)  # (4·c,); float32 can't add up so many
    variances, components = np.linalg.eigh(np.cov(patches, rowvar=False))  # (4·c,), (4·c, 4·c)
    # What varies least is mostly noise, which is not scaled up to the full.
    spread = np.sqrt(variances + 5e-5 * variances[-1] + 1e-9)
    half = components / spread  # (4·c, 4·c), a column for each component
    kernel = np.concatenate([half, -half], axis=1)  # (4·c, 8·c)
    bias = -mean @ kernel  # (8·c,)
    kernel = kernel.reshape(side, side, colours, whitening_channels(colours))
    return kernel.astype(np.float32), bias.astype(np.float32)


def pass_channels_on(model: keras.Model) -> None:
    """Let each trained convolution of Keras' own give its channels as its first filters.

    Those filters are 1 for their channel of the pixel in the middle and 0 elsewhere, so a network
    begins with all that the first layer finds (Jordan 2024, arXiv 2404.00498; there, too, filters
    beyond the channels stay as they were drawn).
    """
    for layer in model.layers:
        if not isinstance(layer, keras_layers.Conv2D) or not layer.trainable:
            continue
        kernel, *bias = layer.get_weights()  # (k, k, channels, filters)
        side, _, channels, filters = kernel.shape
        passed = min(channels, filters)
        middle = (side - 1) // 2
        kernel[..., :passed] = 0
        kernel[middle, middle, range(passed), range(passed)] = 1
        layer.set_weights([kernel, *bias])


def _parts(config: Model, signature: Signature, replica_count: int) -> KerasParts:
    """The layers that a model of so many replicas is made of; 0 stands for Keras' own."""
    if replica_count == 0:
        return KerasParts(config, signature)
    if replica_count == 1:
        return FastParts(config, signature)
    return FusedParts(config, signature, replica_count)


class KerasParts:
    """Keras' own layers, in the order that the config says."""

    def __init__(self, config: Model, signature: Signature) -> None:
        self.config = config
        self.signature = signature
        self.whitening_channels = whitening_channels(signature.shape[2])

    @property
    def pools_before_activation(self) -> bool:
        return False

    def whitening(self) -> Any:
        return keras_layers.Conv2D(
            self.whitening_channels, WHITENING_SIZE, trainable=False, name="whitening"
        )

    def convolution(self, filters: int, *, reads_image: bool) -> Any:  # noqa: ARG002  for replicas
        return keras_layers.Conv2D(
            filters,
            self.config.kernel_size,
            padding=self.config.padding,
            use_bias=not self.config.batch_norm,
        )

    def batch_norm(self) -> Any:
        return keras_layers.BatchNormalization(momentum=self.config.norm_momentum)

    def flatten(self) -> Any:
        return keras_layers.Flatten()

    def dropout(self) -> Any:
        return keras_layers.Dropout(self.config.dropout)

    def dense(self, units: int) -> Any:
        return keras_layers.Dense(units, self.config.activation)

    def output(self) -> Any:
        activation = self.signature.kind.activation
        return keras_layers.Dense(self.signature.outputs, activation=activation, dtype="float32")


class FastParts(KerasParts):
    """The same for one replica, with faster layers for those that take most of the time."""

    @property
    def pools_before_activation(self) -> bool:
        """Whether pooling goes before the activation, which then has a quarter of the work.

        The largest of some numbers stays the largest under an activation that never falls, so the
        result is the same; base models train up to 9 % faster (4 neurons, kernel 7, AVX-512). A
        model of Keras' own layers has them in the order that the config says.
        """
        is_between = self.config.batch_norm or self.config.residual
        return self.config.activation in NEVER_FALLING and not is_between

    def convolution(self, filters: int, *, reads_image: bool) -> Any:  # noqa: ARG002  for replicas
        return self._convolution(filters, groups=1)

    def _convolution(self, filters: int, groups: int) -> Any:
        return layers.Conv2D(
            filters,
            self.config.kernel_size,
            self.config.padding,
            groups,
            use_bias=not self.config.batch_norm,
        )

    def batch_norm(self) -> Any:
        return layers.BatchNormalization(momentum=self.config.norm_momentum)


class FusedParts(FastParts):
    """The same for several replicas, whose channels lie side by side."""

    def __init__(self, config: Model, signature: Signature, replica_count: int) -> None:
        super().__init__(config, signature)
        self.replica_count = replica_count

    def whitening(self) -> Any:
        channels = self.replica_count * self.whitening_channels
        return keras_layers.Conv2D(channels, WHITENING_SIZE, trainable=False, name="whitening")

    def convolution(self, filters: int, *, reads_image: bool) -> Any:
        """All replicas read the same image, later a group of channels each."""
        if reads_image:
            return self._convolution(self.replica_count * filters, groups=1)
        return self._convolution(filters, groups=self.replica_count)

    def flatten(self) -> Any:
        return layers.Flatten(self.replica_count)

    def dropout(self) -> Any:
        return layers.Dropout(self.config.dropout, self.replica_count)

    def dense(self, units: int) -> Any:
        return layers.Dense(units, self.config.activation)

    def output(self) -> Any:
        activation = self.signature.kind.activation
        return layers.FusedOutput(self.signature.outputs, activation=activation, dtype="float32")
