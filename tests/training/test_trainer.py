"""Training: deterministic, honest about divergence, and every option trains."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from support_training import (
    ComposeConfig,
    all_weights,
    marked_for_processors,
    train,
    train_first,
)
from tensorflow.python.framework.config import is_op_determinism_enabled

from cifar_hpo.data.dataset import load_dataset
from cifar_hpo.data.labels import CLASSES
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.training import networks, replicas, trainer
from cifar_hpo.training.signature import Signature

ONE_STEP = [
    "training.epochs=1",
    "training.batch_size=540",
    "optimizer=sgd",
    "optimizer.learning_rate=0.05",
]
"""An epoch of a single step, which is of all images."""


@pytest.mark.processors
@pytest.mark.parametrize(
    "options",
    [[], ["model.dropout=0.3", "data.augment=[flip,shift,cutout]", "model.batch_norm=true"]],
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    config: ComposeConfig, options: list[str]
) -> None:
    first = train_first(config(*options))
    second = train_first(config(*options))
    different = train_first(config(*options, "training.seed=1"))
    assert np.array_equal(all_weights(first), all_weights(second))
    assert first.metrics["val_loss"] == second.metrics["val_loss"]
    assert not np.array_equal(all_weights(first), all_weights(different))


@pytest.mark.processors
@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("adam", "float32"),
        ("adamw", "float32"),
        ("muon", "float32"),
        ("sgd", "float32"),
        ("rmsprop", "float32"),
        ("adam", "mixed_bfloat16"),
        ("adam", "mixed_float16"),
    ],
)
def test_every_optimizer_learns_and_every_precision(
    config: ComposeConfig, optimizer: str, precision: str
) -> None:
    options = {
        "sgd": ["optimizer.learning_rate=0.01", "optimizer.momentum=0.9"],
        "muon": ["optimizer.learning_rate=0.005"],
    }
    checked = config(
        f"optimizer={optimizer}",
        *options.get(optimizer, ["optimizer.learning_rate=0.003"]),
        f"training.precision={precision}",
        "training.epochs=6",
    )
    (trained,), epochs = train(checked)
    assert len(epochs) == 6
    first, last = epochs[0][0], epochs[-1][0]
    assert last["loss"] < first["loss"] < 3
    assert trained.metrics["val_accuracy"] == pytest.approx(last["val_accuracy"])
    assert trained.metrics["test_accuracy"] > 0.2
    labels = load_dataset(checked.data).test[1]
    accuracy = (trained.predicted == labels).mean()
    assert accuracy == pytest.approx(trained.metrics["test_accuracy"])
    assert (trained.confidence >= 0.25).all()
    assert (trained.confidence <= 1).all()
    model = trainer.to_keras_model(checked, Signature(10), trained.weights)
    wanted = "sgd" if optimizer == "muon" else optimizer
    if precision == "mixed_float16":
        wanted = "lossscaleoptimizer"
    assert type(model.optimizer).__name__.lower() == wanted


@pytest.mark.parametrize("by_fit", [False, True])
def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_the_scale_halved(
    config: ComposeConfig, by_fit: bool
) -> None:
    """In an epoch of one graph as in Keras' own fit; the next training begins with Keras' scale."""
    checked = config(*ONE_STEP, "training.precision=mixed_float16")
    (images, labels), _ = load_dataset(checked.data).splits(checked.data)
    data = tf.constant(images), tf.constant(labels)
    network = networks.initial_network(checked, Signature(10), [0], by_fit=by_fit)
    before = network.weights()[0]
    optimizer = network.model.optimizer
    optimizer.dynamic_scale.assign(2.0**100)
    network.fit(*data, 0, 2)
    assert float(optimizer.dynamic_scale) == 2.0**99
    for weight, initial in zip(network.weights()[0], before, strict=True):
        assert np.array_equal(weight, initial)
    optimizer.dynamic_scale.assign(2.0**10)
    network.fit(*data, 1, 2)
    assert (float(optimizer.dynamic_scale), int(optimizer.step_counter)) == (2.0**10, 1)
    assert not np.array_equal(network.weights()[0][0], before[0])
    again = networks.initial_network(checked, Signature(10), [0], by_fit=by_fit)
    assert again is network, "a process keeps it"
    assert (float(optimizer.dynamic_scale), int(optimizer.step_counter)) == (2.0**15, 0)


def test_each_trial_of_a_process_is_deterministic_or_not_as_it_says(config: ComposeConfig) -> None:
    free, bound = config("training.deterministic=false"), config()
    wanted = train_first(bound)
    for checked in (free, bound):
        trained = train_first(checked)
        assert is_op_determinism_enabled() is checked.training.deterministic
        assert os.environ["TF_DETERMINISTIC_OPS"] == str(int(checked.training.deterministic))
        assert all_weights(trained) == pytest.approx(all_weights(wanted), abs=1e-3)
    assert np.array_equal(all_weights(trained), all_weights(wanted))


def test_a_diverging_loss_ends_the_trial(config: ComposeConfig) -> None:
    with pytest.raises(TrialError, match="diverged: loss"):
        train(config("optimizer=sgd", "optimizer.learning_rate=1e38"))


def test_early_stopping_keeps_the_best_epoch(config: ComposeConfig) -> None:
    (trained,), epochs = train(
        config(
            "training.early_stopping=1",
            "training.epochs=30",
            "optimizer=sgd",
            "optimizer.learning_rate=1.5",
        )
    )
    assert len(epochs) < 30
    assert trained.metrics["val_loss"] == min(metrics[0]["val_loss"] for metrics in epochs)


@pytest.mark.parametrize(("metric", "best"), [("val_loss", min), ("val_accuracy", max)])
def test_early_stopping_keeps_the_best_epoch_by_the_metric_that_is_asked_for(
    config: ComposeConfig, metric: str, best: Callable[..., float]
) -> None:
    checked = config(
        "training.early_stopping=2",
        f"training.early_stopping_metric={metric}",
        "training.epochs=30",
        "optimizer=sgd",
        "optimizer.learning_rate=0.1",
    )
    (trained,), epochs = train(checked)
    values = [metrics[0][metric] for metrics in epochs]
    assert len(epochs) < 30
    assert trained.metrics[metric] == best(values) == trained.metrics[f"{metric}_best"]
    kept = epochs[values.index(best(values))][0]
    assert {name: trained.metrics[name] for name in kept} == kept, "all metrics are of one epoch"
    dataset = load_dataset(checked.data)
    images, labels = dataset.splits(checked.data)[1]
    model = trainer.to_keras_model(checked, Signature.of(dataset), trained.weights)
    scores = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(kept["val_accuracy"])


def test_early_stopping_by_a_metric_that_there_is_not_is_refused(config: ComposeConfig) -> None:
    options = ["training.early_stopping=2", "training.early_stopping_metric=val_mae"]
    with pytest.raises(ConfigError) as raised:
        train(config(*options))
    assert str(raised.value) == (
        "training.early_stopping_metric: there is no val_mae with these labels; there is "
        "val_loss, val_accuracy"
    )
    train(config("training.early_stopping_metric=val_mae"))  # nothing stops by it


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_best_over_the_epochs_is_reported_beside_the_last(
    config: ComposeConfig, replicas: int
) -> None:
    trained, epochs = train(
        config(
            "training.epochs=12",
            "optimizer=sgd",
            "optimizer.learning_rate=0.1",
            f"training.replicas={replicas}",
        )
    )
    differs = False
    for number, replica in enumerate(trained):
        losses = [metrics[number]["val_loss"] for metrics in epochs]
        accuracies = [metrics[number]["val_accuracy"] for metrics in epochs]
        assert replica.metrics["val_loss_best"] == min(losses)
        assert replica.metrics["val_accuracy_best"] == max(accuracies)
        assert replica.metrics["val_accuracy"] == accuracies[-1]
        differs |= replica.metrics["val_loss_best"] < replica.metrics["val_loss"]
    assert differs, "a step so long is not always forward"


def test_a_batch_larger_than_the_data_is_refused(config: ComposeConfig) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: 600 is more than the 540"):
        train(config("training.batch_size=600"))


def test_the_average_of_the_weights_is_what_is_evaluated(config: ComposeConfig) -> None:
    start = networks.initial_network(config(*ONE_STEP), Signature(10), [0]).weights()[0]
    after_one = train_first(config(*ONE_STEP)).weights
    after_two = train_first(config(*ONE_STEP, "training.epochs=2")).weights
    averaged = train_first(
        config(*ONE_STEP, "training.epochs=2", "training.weight_averaging=0.75")
    ).weights
    for initial, first, second, mean in zip(start, after_one, after_two, averaged, strict=True):
        assert not np.array_equal(initial, second)
        assert mean == pytest.approx(0.75 * first + 0.25 * second, abs=1e-6), (
            "it begins with the weights after the first step"
        )


def test_smoothing_is_for_learning_and_not_for_the_losses_that_are_compared(
    config: ComposeConfig,
) -> None:
    at_rest = [*ONE_STEP, "optimizer.learning_rate=1e-9"]
    plain = train_first(config(*at_rest))
    smoothed = train_first(config(*at_rest, "training.label_smoothing=0.3"))
    assert smoothed.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
    assert smoothed.metrics["val_loss"] == pytest.approx(plain.metrics["val_loss"], rel=1e-5)

    moved = train_first(config(*ONE_STEP))
    moved_smoothed = train_first(config(*ONE_STEP, "training.label_smoothing=0.3"))
    assert not np.allclose(all_weights(moved), all_weights(moved_smoothed), atol=1e-5)

    model = trainer.to_keras_model(config(*at_rest), Signature(10), plain.weights)
    images, labels = load_dataset(config().data).test
    probabilities = tf.constant(model.predict(images, verbose=0))
    shares = tf.one_hot(labels, 10) * 0.7 + 0.03
    wanted = -tf.reduce_sum(shares * tf.math.log(probabilities), axis=1)
    losses = replicas.loss(CLASSES, 0.3)(tf.constant(labels), probabilities)
    assert losses.numpy() == pytest.approx(wanted.numpy(), rel=1e-4)


LAYERS: dict[str, list[str]] = {
    "base": [],
    "dropout": ["model.dropout=0.3"],
    "batch norm": [
        "model.batch_norm=true",
        "model.norm_momentum=0.8",
        "model.dropout=0.3",
        "training.epochs=1",
        "data.train_size=50",
    ],
    "no dense layer, valid": ["model.dense_units=0", "model.padding=valid", "model.depth=2"],
    "residual, pooled late, averaged": [
        "model.convolutions=3",
        "model.residual=true",
        "model.filters=[3,5]",
        "training.weight_averaging=0.9",
    ],
    "whitened, pooled first and globally": [
        "model.whitening=true",
        "model.convolutions=2",
        "model.pooling=first",
        "model.global_pooling=max",
        "model.filters=[3,5]",
        "training.label_smoothing=0.2",
        "model.dense_units=0",
    ],
    "mirrored, shifted, pooled in every width": [
        "model.mirror=true",
        "model.shift=true",
        "model.convolutions=2",
        "model.pooling=every",
        "model.filters=[3,5]",
    ],
    "a list, another activation": [
        "model.filters=[3,5]",
        "model.activation=gelu",
        "data.augment=[flip,shift]",
    ],
}

FUSED_CASES = [
    *((layers, "adam") for layers in LAYERS),
    ("base", "adamw"),
    ("base", "sgd"),
    ("base", "rmsprop"),
]


@pytest.mark.parametrize(
    ("layers", "optimizer"),
    marked_for_processors(
        FUSED_CASES,
        ("base", "sgd"),
        ("batch norm", "adam"),
        ("residual, pooled late, averaged", "adam"),
        rare=(
            ("base", "adamw"),
            ("base", "rmsprop"),
            ("dropout", "adam"),
            ("no dense layer, valid", "adam"),
            ("a list, another activation", "adam"),
            ("mirrored, shifted, pooled in every width", "adam"),
            ("whitened, pooled first and globally", "adam"),
        ),
    ),
)
def test_a_fused_replica_ends_like_the_same_seed_alone(
    config: ComposeConfig, layers: str, optimizer: str
) -> None:
    """But for rounding, which each further step makes larger: so there are four steps, and with
    batch norm, where the gradient of a weight goes with the inverse of a small variance, one."""
    options = [
        f"optimizer={optimizer}",
        "data.train_size=100",
        "training.epochs=2",
        *LAYERS[layers],
    ]
    # Where a gradient is about 0, Adam divides its rounding error by its own size; SGD takes large
    # steps to move as far, but not so large that one pixel counts, whose maximum or ReLU rounding
    # decides: with 0.05 such a one moves a weight by 4e-5, in one replica of eight.
    if optimizer == "sgd":
        options.append("optimizer.learning_rate=0.02")
    else:
        options.append("optimizer.epsilon=0.001")
    fused, _ = train(config(*options, "training.replicas=2", "training.seed=5"))
    for number, replica in enumerate(fused):
        single = train_first(config(*options, f"training.seed={5 + number}"))
        start = networks.initial_network(config(*options), Signature(10), [5 + number]).weights()[0]
        moved = 0.0
        for weight, alone, initial in zip(replica.weights, single.weights, start, strict=True):
            assert weight == pytest.approx(alone, abs=2e-5)
            moved = max(moved, abs(weight - initial).max())
        assert moved > 5e-4
        assert replica.metrics["val_loss"] == pytest.approx(single.metrics["val_loss"], abs=1e-4)
        assert replica.metrics["parameters"] == single.metrics["parameters"]

        model = trainer.to_keras_model(config(*options), Signature(10), replica.weights)
        assert model.count_params() == replica.metrics["parameters"]
        images, labels = load_dataset(config(*options).data).test
        scores = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert scores["loss"] == pytest.approx(replica.metrics["test_loss"], rel=1e-4)
        assert scores["accuracy"] == pytest.approx(replica.metrics["test_accuracy"], rel=1e-4)
    assert not np.allclose(fused[0].weights[-2], fused[1].weights[-2])


@pytest.mark.parametrize(
    "reason", [["training.early_stopping=1"], ["model.filters=16"], ["optimizer=muon"]]
)
def test_replicas_that_stop_early_or_are_wide_or_muons_train_apart_and_equal_themselves_alone(
    config: ComposeConfig, reason: list[str]
) -> None:
    options = ["optimizer=sgd", *reason, "optimizer.learning_rate=1.5", "training.epochs=4"]
    both = config(*options, "training.replicas=2")
    assert not both.is_fused
    trained, _ = train(both)
    alone = train_first(config(*options, "training.seed=1"))
    assert np.array_equal(all_weights(trained[1]), all_weights(alone))
