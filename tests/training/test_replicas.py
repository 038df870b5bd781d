"""Weights, losses and metrics of several replicas, together and apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.data.labels import CLASSES
from cifar_hpo.training import replicas

LABELS = np.array([0, 1, 2, 1], np.uint8)


def random_weights(seed: int) -> replicas.Weights:
    """Of a model with a convolution, a norm and two dense layers."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 3, 3, 4), (4,), (4,), (4,), (4,), (16, 5), (5,), (5, 10), (10,)]
    return [rng.normal(size=shape) for shape in shapes]


def random_probabilities(replica_count: int) -> NDArray[Any]:
    """(n, replicas, classes), for LABELS and three classes."""
    values = np.random.default_rng(0).uniform(0.1, 1, (len(LABELS), replica_count, 3))
    values /= values.sum(axis=2, keepdims=True)
    return values.astype(np.float32)


@pytest.mark.parametrize("replica_count", [1, 2, 5])
def test_unstack_takes_out_what_stack_replicas_put_in(replica_count: int) -> None:
    weights = [random_weights(seed) for seed in range(replica_count)]
    fused = replicas.stack_replicas(weights)
    if replica_count > 1:
        assert fused[0].shape == (3, 3, 3, 4 * replica_count)
        assert fused[5].shape == (replica_count, 16, 5)
    unstacked = replicas.unstack(fused, replica_count)
    assert len(unstacked) == replica_count
    for replica, wanted in zip(unstacked, weights, strict=True):
        for array, own in zip(replica, wanted, strict=True):
            assert np.array_equal(array, own)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_a_fused_model_is_the_sum_over_replicas(smoothing: float) -> None:
    probabilities = random_probabilities(2)
    loss = replicas.loss(CLASSES, smoothing)
    labels = tf.constant(LABELS)
    summed = loss(labels, tf.constant(probabilities)).numpy()
    apart = [loss(labels, tf.constant(probabilities[:, replica])).numpy() for replica in range(2)]
    assert summed.shape == (len(LABELS),)
    assert summed == pytest.approx(apart[0] + apart[1], rel=1e-5)


@pytest.mark.parametrize(
    ("replica_count", "with_loss", "names"),
    [
        (1, False, ["replica_metric"]),
        (1, True, ["replica_loss", "replica_metric"]),
        (2, True, ["replica_loss", "replica_metric"]),
    ],
)
def test_metrics_are_means_over_images_for_each_replica(
    replica_count: int, with_loss: bool, names: list[str]
) -> None:
    probabilities = random_probabilities(replica_count)
    metrics = replicas.metrics(CLASSES, replica_count, with_loss=with_loss)
    assert [metric.name for metric in metrics] == names
    given = probabilities if replica_count > 1 else probabilities[:, 0]
    for metric in metrics:
        for part in (slice(0, 3), slice(3, 4)):  # batches of different sizes
            metric.update_state(tf.constant(LABELS[part]), tf.constant(given[part]))
    is_correct = probabilities.argmax(axis=2) == LABELS[:, None]
    assert metrics[-1].result().numpy() == pytest.approx(is_correct.mean(axis=0))
    if len(metrics) == 2:
        of_label = np.take_along_axis(probabilities, LABELS[:, None, None].astype(int), axis=2)
        losses = -np.log(of_label[:, :, 0]).mean(axis=0)
        assert metrics[0].result().numpy() == pytest.approx(losses, rel=1e-5)
