"""A CNN from its config: widths of convolutions, pooled between, then a dense layer and the
classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE, WHITENING_CHANNELS, Model
from cifar_hpo.training import replicas as fused

NEVER_FALLING = ("relu", "elu", "selu", "leaky_relu", "tanh", "sigmoid")
"""Activations that give no smaller number for a larger one."""

LOOKED_AT = 1_000
"""Images that whitening is computed from: a million patches for a dozen numbers each."""


def build(config: Model, classes: int, replicas: int = 0) -> keras.Model:
    """The uncompiled model: uint8 images (n, 32, 32, 3) in, float32 probabilities (n, classes) out;
    (n, replicas, classes) for several.

    replicas: 0 builds it of Keras' own layers, to be kept and loaded anywhere; otherwise of the
    ones in `fused`, which compute the same faster. Weights are drawn from Keras' global seed. With
    batch norm a convolution has no bias, which the norm would cancel.
    """
    build_one = _Layers(config, replicas)
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    if config.whitening:
        x = layers.Conv2D(
            max(replicas, 1) * WHITENING_CHANNELS, 2, trainable=False, name="whitening"
        )(x)
        x = layers.Activation(config.activation)(x)
    for number, layer in enumerate(config.layers()):
        place = layer.position
        is_pooled_late = (
            layer.is_pooled and config.pooling == "last" and not build_one.swaps_pooling
        )
        x = build_one.convolution(
            x,
            layer.filters,
            shared=number == 0 and not config.whitening,
            pooled=layer.is_pooled and not is_pooled_late,
        )
        if place == 0:
            first = x
        if place == config.convolutions - 1 and config.residual:
            x = layers.Add()([first, x])
        if is_pooled_late:
            x = layers.MaxPooling2D()(x)
    if config.global_pooling != "none":
        x = {"average": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[
            config.global_pooling
        ](keepdims=True)(x)
    x = build_one.flatten(x)
    if config.dense_units:
        x = build_one.dropout(x)
        x = build_one.dense(x, config.dense_units, config.activation)
    x = build_one.dropout(x)
    return keras.Model(inputs, build_one.classes(x, classes))


def mirrored(model: keras.Model) -> keras.Model:
    """One with the same weights whose probabilities are the mean over an image and its mirror
    image."""
    image = model.inputs[0]
    return keras.Model(
        image, layers.Average(dtype="float32")([model(image), model(keras.ops.flip(image, axis=2))])
    )


class _Layers:
    """Layers as the config has them, in as many replicas."""

    def __init__(self, config: Model, replicas: int) -> None:
        self.config, self.replicas = config, replicas

    @property
    def swaps_pooling(self) -> bool:
        """Whether pooling goes before the activation, which then has a quarter of the work.

        The largest of some numbers stays the largest under an activation that never falls, so the
        result is the same; base models train up to 9 % faster (4 neurons, kernel 7, AVX-512). A
        plain model has its layers in the order that the config says.
        """
        is_between = self.config.batch_norm or self.config.residual
        return bool(self.replicas and self.config.activation in NEVER_FALLING and not is_between)

    def convolution(
        self, x: Any, filters: int, *, shared: bool = False, pooled: bool = False
    ) -> Any:
        """`shared`: of the image, which all replicas have; `pooled`: before the norm, which then
        has a quarter of the work."""
        size, padding = self.config.kernel_size, self.config.padding
        use_bias = not self.config.batch_norm
        if not self.replicas:
            x = layers.Conv2D(filters, size, padding=padding, use_bias=use_bias)(x)
        elif shared:
            x = fused.Conv2D(self.replicas * filters, size, padding, 1, use_bias=use_bias)(x)
        else:
            x = fused.Conv2D(filters, size, padding, self.replicas, use_bias=use_bias)(x)
        if pooled:
            x = layers.MaxPooling2D()(x)
        if self.config.batch_norm:
            x = (fused.BatchNormalization if self.replicas else layers.BatchNormalization)(
                momentum=self.config.norm_momentum
            )(x)
        return layers.Activation(self.config.activation)(x)

    def flatten(self, x: Any) -> Any:
        return (fused.Flatten(self.replicas) if self.replicas > 1 else layers.Flatten())(x)

    def dense(self, x: Any, units: int, activation: str) -> Any:
        return (fused.Dense if self.replicas > 1 else layers.Dense)(units, activation)(x)

    def classes(self, x: Any, classes: int) -> Any:
        return (fused.FusedOutput if self.replicas > 1 else layers.Dense)(
            classes, activation="softmax", dtype="float32"
        )(x)

    def dropout(self, x: Any) -> Any:
        rate = self.config.dropout
        if not rate:
            return x
        return (fused.Dropout(rate, self.replicas) if self.replicas > 1 else layers.Dropout(rate))(
            x
        )


def whitening(images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
    """Kernel (2, 2, 3, 24) and bias (24,) that take the 2×2 patches of images (n, 32, 32, 3) to
    their principal components, each of variance 1 and with either sign, so that a ReLU loses
    nothing (Jordan 2024, arXiv 2404.00498)."""
    windows = np.lib.stride_tricks.sliding_window_view(
        images[:LOOKED_AT] / np.float32(255), (2, 2), axis=(1, 2)
    )
    patches = np.moveaxis(windows, 3, -1).reshape(
        -1, 12
    )  # (n, 31, 31, 3, 2, 2) to rows, columns, colours
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    half = vectors / np.sqrt(values + 5e-5 * values[-1] + 1e-9)  # what varies least is mostly noise
    kernel = np.concatenate([half, -half], axis=1)
    return kernel.reshape(2, 2, 3, WHITENING_CHANNELS).astype(np.float32), (-mean @ kernel).astype(
        np.float32
    )
