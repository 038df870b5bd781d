"""Optimizers in one operation are Keras' own, and Muon is what its authors say."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.training import optimizers

ADAM = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adam", {**ADAM, "amsgrad": False}),
        ("Adam", {**ADAM, "amsgrad": True}),
        ("AdamW", {**ADAM, "amsgrad": False}),
        ("AdamW", {**ADAM, "amsgrad": True}),
        ("SGD", {}),
        ("SGD", {"momentum": 0.8, "weight_decay": 0.1}),
        ("SGD", {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_an_optimizer_in_one_operation_is_the_optimizer(name: str, options: dict[str, Any]) -> None:
    ours = after_twenty_steps(getattr(optimizers, name)(0.01, **options))
    keras_own = after_twenty_steps(getattr(keras.optimizers, name)(0.01, **options))
    for array, wanted in zip(ours, keras_own, strict=True):
        assert array == pytest.approx(wanted, abs=1e-6)


def after_twenty_steps(optimizer: Any) -> list[NDArray[Any]]:
    """A weight and the optimizer's variables, after steps at a rising learning rate."""
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.normal(size=(5, 7)), dtype="float32")
    for step in range(20):
        optimizer.learning_rate.assign(0.01 * (step + 1))
        optimizer.apply([tf.constant(rng.normal(size=(5, 7)), tf.float32)], [variable])
    return [variable.numpy(), *(own.numpy() for own in optimizer.variables)]


MOMENTUM = 0.6
RATE = 0.1


@pytest.mark.parametrize("shape", [(3, 3, 8, 20), (1, 1, 5, 9)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_takes_steps_that_are_equally_long_in_all_directions_and_keeps_a_kernel_at_its_size(
    shape: tuple[int, ...], nesterov: bool
) -> None:
    rng = np.random.default_rng(0)
    filters = shape[-1]
    kernel = keras.Variable(rng.normal(size=shape), dtype="float32")
    muon = optimizers.Muon(
        learning_rate=RATE, other_weights_lr_scale=3.0, momentum=MOMENTUM, nesterov=nesterov
    )
    total = np.zeros(shape)
    for _ in range(5):
        before = kernel.numpy().reshape(-1, filters)
        gradient = rng.normal(size=shape).astype(np.float32)
        muon.apply([tf.constant(gradient)], [kernel])
        total = total * MOMENTUM + gradient
        direction = gradient + MOMENTUM * total if nesterov else total
        scaled = before * filters**0.5 / np.linalg.norm(before)
        step = (scaled - kernel.numpy().reshape(before.shape)) / RATE

        lengths = np.linalg.svd(step, compute_uv=False)
        assert lengths.min() > 0.4
        assert lengths.max() < 1.3
        left, _, right = np.linalg.svd(direction.reshape(before.shape), full_matrices=False)
        nearest = left @ right
        cosine = (step * nearest).sum() / np.linalg.norm(step) / len(lengths) ** 0.5
        assert cosine > 0.95, "the nearest orthogonal matrix, but for the rounds"


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_takes_sgds_steps_for_other_weights_scaled(nesterov: bool) -> None:
    rng = np.random.default_rng(0)
    bias = keras.Variable(rng.normal(size=(7,)), dtype="float32")
    sgd_bias = keras.Variable(bias)
    options = {"momentum": MOMENTUM, "nesterov": nesterov}
    muon = optimizers.Muon(learning_rate=RATE, other_weights_lr_scale=3.0, **options)
    sgd = keras.optimizers.SGD(3 * RATE, **options)
    for _ in range(5):
        gradient = tf.constant(rng.normal(size=(7,)), tf.float32)
        muon.apply([gradient], [bias])
        sgd.apply([gradient], [sgd_bias])
        assert bias.numpy() == pytest.approx(sgd_bias.numpy(), abs=1e-6)
