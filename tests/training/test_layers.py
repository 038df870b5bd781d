"""Our layers compute what Keras' own do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.training import layers


@pytest.fixture(autouse=True)
def float32() -> None:
    """The precision of layers, which a test before may have changed."""
    keras.mixed_precision.set_dtype_policy("float32")


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.processors
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("block", [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)])
def test_a_convolution_by_blocks_is_the_convolution(
    padding: str, kernel_size: int, groups: int, block: tuple[int, int]
) -> None:
    filters, channels = 4, 2
    lost = kernel_size - 1 if padding == "valid" else 0
    images = normal(2, 8 + lost, 12 + lost, channels * groups)
    layer = layers.Conv2D(filters, kernel_size, padding, groups, use_bias=True, block=block)
    layer(images)
    kernel, _ = layer.get_weights()
    bias = np.arange(groups * filters, dtype=np.float32)
    layer.set_weights([kernel, bias])
    result = layer(images)
    wanted = convolved_by_group(images, kernel, padding, groups) + bias
    assert result.shape == wanted.shape == layer.compute_output_shape(images.shape)
    assert result.numpy() == pytest.approx(wanted, abs=1e-5)


def convolved_by_group(
    images: NDArray[Any], kernel: NDArray[Any], padding: str, groups: int
) -> NDArray[Any]:
    parts = []
    image_parts = np.split(images, groups, axis=3)
    kernel_parts = np.split(kernel, groups, axis=3)
    for image, own_kernel in zip(image_parts, kernel_parts, strict=True):
        parts.append(tf.nn.conv2d(image, own_kernel, 1, padding.upper()))
    return np.concatenate(parts, axis=3)


def test_batch_normalization_is_keras_own() -> None:
    images = normal(6, 4, 4, 3) * 5 + 2
    ours, keras_own = layers.BatchNormalization(0.8), keras.layers.BatchNormalization(momentum=0.8)
    for _ in range(3):
        result, wanted = ours(images, training=True), keras_own(images, training=True)
        assert result.numpy() == pytest.approx(wanted.numpy(), abs=1e-4)
    for weight, wanted in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        assert weight == pytest.approx(wanted, abs=1e-4)
    assert ours(images).numpy() == pytest.approx(keras_own(images).numpy(), abs=1e-4)


def test_flatten_gives_each_replica_what_keras_flatten_gives_it_alone() -> None:
    images = normal(5, 2, 3, 8)
    layer = layers.Flatten(2)
    result = layer(images)
    assert result.shape == (2, 5, 24) == layer.compute_output_shape(images.shape)
    for replica, alone in enumerate(np.split(images, 2, axis=3)):
        assert np.array_equal(result[replica], keras.layers.Flatten()(alone))


@pytest.mark.parametrize("kind", [layers.Dense, layers.FusedOutput])
def test_a_fused_dense_layer_is_one_for_each_replica(kind: Any) -> None:
    features = normal(2, 5, 3)  # (replicas, n, features)
    layer = kind(4, "softmax")
    result = layer(features)
    assert result.shape == layer.compute_output_shape(features.shape)
    if kind is layers.FusedOutput:
        result = tf.transpose(result, (1, 0, 2))
    kernels, biases = layer.get_weights()
    for replica in range(2):
        alone = keras.layers.Dense(4, "softmax")
        alone(features[replica])
        alone.set_weights([kernels[replica], biases[replica]])
        assert result[replica].numpy() == pytest.approx(alone(features[replica]).numpy(), abs=1e-6)


def test_a_replica_drops_what_it_would_drop_alone() -> None:
    features = normal(2, 50, 8)
    layer = layers.Dropout(0.5, 2)
    states = []
    for dropout in layer.dropouts:
        states.append(dropout.seed_generator.state.numpy())
    result = layer(features, training=True)
    for replica, state in enumerate(states):
        alone = keras.layers.Dropout(0.5)
        alone.seed_generator.state.assign(state)
        assert np.array_equal(result[replica], alone(features[replica], training=True))
    assert np.array_equal(layer(features), features), "nothing outside of training"


def test_the_random_states_of_a_model_are_those_of_its_dropout_layers_in_order() -> None:
    inputs = keras.Input(batch_shape=(2, 5, 3))
    fused = layers.Dropout(0.5, 2)
    single = keras.layers.Dropout(0.5)
    model = keras.Model(inputs, single(keras.layers.Activation("relu")(fused(inputs))))
    first, second = fused.dropouts
    wanted = [layer.seed_generator.state for layer in (first, second, single)]
    states = layers.random_states(model)
    assert len(states) == 3
    assert all(state is own for state, own in zip(states, wanted, strict=True))
