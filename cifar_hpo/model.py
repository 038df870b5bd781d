"""A CNN from its config: convolutions, each but the last pooled, then a dense layer and the classes."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from cifar_hpo import fused
from cifar_hpo.config import IMAGE_SIZE, Model


def build(config: Model, classes: int, replicas: int = 1) -> keras.Model:
    """The uncompiled model: uint8 images (n, 32, 32, 3) in, float32 probabilities (n, classes) out; (n, replicas, classes) for several.

    Weights are drawn from Keras' global seed. With batch norm a convolution has no bias, which the norm would cancel.
    """
    several = replicas > 1
    dense: Any = fused.Dense if several else layers.Dense
    inputs = x = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(x)
    for layer, filters in enumerate(config.widths, start=1):
        if several and layer > 1:
            x = fused.Conv2D(filters, config.kernel_size, config.padding, replicas, use_bias=not config.batch_norm)(x)
        else:
            x = layers.Conv2D(replicas * filters, config.kernel_size, padding=config.padding, use_bias=not config.batch_norm)(x)
        if config.batch_norm:
            x = layers.BatchNormalization()(x)
        x = layers.Activation(config.activation)(x)
        if layer < len(config.widths):
            x = layers.MaxPooling2D()(x)
    x = fused.Flatten(replicas)(x) if several else layers.Flatten()(x)
    if config.dense_units:
        x = _dropped(x, config.dropout, replicas)
        x = dense(config.dense_units, activation=config.activation)(x)
    x = _dropped(x, config.dropout, replicas)
    outputs = dense(classes, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs)


def _dropped(x: Any, rate: float, replicas: int) -> Any:
    if not rate:
        return x
    return (fused.Dropout(rate, replicas) if replicas > 1 else layers.Dropout(rate))(x)
