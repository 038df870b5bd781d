"""A CNN from its config: convolutions, each but the last pooled, then a dense layer and the classes."""

from __future__ import annotations

import keras
from keras import layers

from cifar_hpo.config import IMAGE_SIZE, Model


def build(config: Model, classes: int) -> keras.Model:
    """The uncompiled model: uint8 images (n, 32, 32, 3) in, float32 probabilities (n, classes) out.

    Weights are drawn from Keras' global seed. With batch norm a convolution has no bias, which the norm would cancel.
    """
    inputs = x = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(x)
    for layer, filters in enumerate(config.widths, start=1):
        convolution = layers.Conv2D(filters, config.kernel_size, padding=config.padding, use_bias=not config.batch_norm)
        x = convolution(x)
        if config.batch_norm:
            x = layers.BatchNormalization()(x)
        x = layers.Activation(config.activation)(x)
        if layer < len(config.widths):
            x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    if config.dense_units:
        x = layers.Dropout(config.dropout)(x) if config.dropout else x
        x = layers.Dense(config.dense_units, activation=config.activation)(x)
    x = layers.Dropout(config.dropout)(x) if config.dropout else x
    outputs = layers.Dense(classes, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs)
