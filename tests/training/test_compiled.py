"""A network trains as Keras does, and is used again for its shape."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support_training import ComposeConfig, all_weights, train_first

from cifar_hpo.data.dataset import load_dataset
from cifar_hpo.training import inputs, networks, trainer
from cifar_hpo.training.networks import NetworkCache, network_shape
from cifar_hpo.training.signature import Signature

TEN = Signature(10)
"""Of small images of ten classes."""


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_decay_is_no_decay(config: ComposeConfig, optimizer: str) -> None:
    checked = config(f"optimizer={optimizer}", "optimizer.weight_decay=0")
    network = networks.initial_network(checked, TEN, [0])
    assert not network.model.optimizer.weight_decay
    assert not networks.keras_model(checked, TEN).optimizer.weight_decay


def test_muons_own_key_scales_the_steps_of_other_weights(config: ComposeConfig) -> None:
    checked = config("optimizer=muon", "optimizer.others=7")
    network = networks.initial_network(checked, TEN, [0])
    assert network.model.optimizer.other_weights_lr_scale == 7


@pytest.mark.parametrize("kernel", [2, 3])
def test_a_convolution_may_begin_by_passing_its_channels_on(
    config: ComposeConfig, kernel: int
) -> None:
    checked = config("model.dirac=true", f"model.kernel_size={kernel}", "model.filters=[5,4,6]")
    images = np.random.default_rng(0).random((2, 8, 8, 5), np.float32)
    of_seeds = networks.initial_network(checked, TEN, [0, 1]).weights()
    for weights in of_seeds:
        first, _, second, _, third, *_ = weights
        for passed, channels, whole in ((3, 3, first), (4, 5, second), (4, 4, third)):
            found = tf.nn.conv2d(images[..., :channels], whole, 1, "SAME")[..., :passed]
            np.testing.assert_allclose(found, images[..., :passed], rtol=1e-6)
    drawn, others = (weights[0][..., 3:] for weights in of_seeds)
    assert drawn.all()
    assert (drawn != others).all()


@pytest.mark.processors
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("float32", []),
        ("mixed_bfloat16", []),
        ("mixed_float16", []),
        (
            "float32",
            [
                "model.batch_norm=true",
                "model.norm_momentum=0.8",
                "training.batch_size=270",
                "optimizer.learning_rate=1e-3",
            ],
        ),
    ],
)
def test_an_epoch_in_one_graph_agrees_with_keras_fit(
    config: ComposeConfig, precision: str, options: list[str]
) -> None:
    checked = config(
        "training.epochs=1",
        "training.batch_size=60",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        f"training.precision={precision}",
        *options,
    )
    (x, y), (x_val, y_val) = load_dataset(checked.data).splits(checked.data)
    network = networks.initial_network(checked, TEN, [0])
    model = networks.keras_model(checked, TEN)
    model.set_weights(network.model.get_weights())

    metrics = network.fit(tf.constant(x), tf.constant(y), 0, 1)[0]
    for name, value in network.score(x_val, y_val)[0].items():
        metrics[f"val_{name}"] = value
    order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), (0, 0)).numpy()
    history = model.fit(
        x[order],
        y[order],
        batch_size=checked.training.batch_size,
        shuffle=False,
        verbose=0,
        validation_data=(x_val, y_val),
    ).history

    close = 1e-5 if precision == "float32" else 1e-2
    assert set(metrics) == set(history)
    for name, values in history.items():
        assert metrics[name] == pytest.approx(values[0], rel=close)
    for weight, wanted in zip(network.model.get_weights(), model.get_weights(), strict=True):
        assert weight == pytest.approx(wanted, abs=close)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras' own, where it saves
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_mirrored_model_finds_the_same_for_an_image_and_its_mirror_image(
    config: ComposeConfig, precision: str, shift: bool, tmp_path: Path
) -> None:
    views = ["model.mirror=true", f"model.shift={shift}"]
    checked = config(*views, "model.dropout=0.3", f"training.precision={precision}")
    images = load_dataset(checked.data).test[0][:8]
    network = networks.initial_network(checked, TEN, [0])
    model = trainer.to_keras_model(checked, TEN, network.weights()[0])
    model.save(tmp_path / "model.keras")
    keras.mixed_precision.set_dtype_policy("float32")  # as it is where the model is loaded
    probabilities = keras.models.load_model(tmp_path / "model.keras")(images)
    assert probabilities.dtype == tf.float32
    close = 1e-6 if precision == "float32" else 1e-2
    mirrored = images[:, :, ::-1]
    assert probabilities.numpy() == pytest.approx(network.predict(images)[0], abs=close)
    if not shift:  # else up and left is up and right in the mirror
        assert probabilities.numpy() == pytest.approx(network.predict(mirrored)[0], abs=close)
    assert not np.allclose(probabilities, network.model(images), atol=1e-4)


def test_a_network_is_used_again_for_its_shape_and_starts_afresh(config: ComposeConfig) -> None:
    first = train_first(config("model.dropout=0.3"))
    known = dict(networks.cache.networks)
    different = train_first(
        config("model.dropout=0.3", "optimizer.learning_rate=0.01", "training.seed=3")
    )
    assert networks.cache.networks == known, (
        "another seed and another learning rate need no new graph"
    )
    assert not np.allclose(first.weights[0], different.weights[0])
    again = train_first(config("model.dropout=0.3"))
    assert np.array_equal(all_weights(first), all_weights(again))


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ("training.seed=3", True),
        ("training.epochs=9", True),
        ("optimizer.learning_rate=0.5", True),
        ("training.early_stopping=1", True),
        ("optimizer.beta_1=0.5", False),
        ("optimizer=sgd", False),
        ("model.dropout=0.1", False),
        ("training.batch_size=10", False),
        ("training.precision=mixed_bfloat16", False),
        ("training.schedule=cosine", False),
        ("training.label_smoothing=0.1", False),
        ("training.weight_averaging=0.1", False),
        ("data.augment=[flip]", False),
    ],
)
def test_the_shape_of_a_network_is_what_its_graphs_depend_on(
    config: ComposeConfig, changed: str, is_same: bool
) -> None:
    base = network_shape(config(), TEN, 1)
    assert (network_shape(config(changed), TEN, 1) == base) is is_same
    assert network_shape(config(), Signature(9), 1) != base
    assert network_shape(config(), Signature(10, shape=(28, 28, 1)), 1) != base
    assert network_shape(config(), TEN, 2) != base
    assert network_shape(config(), TEN, 1, by_fit=True) != base


def test_a_cache_that_is_full_forgets_the_network_that_was_used_longest_ago(
    config: ComposeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    class Built:
        def __init__(self, *arguments: object, by_fit: bool) -> None:
            built.append(self)

    monkeypatch.setattr(networks, "Network", Built)
    cache = NetworkCache(2)
    first = cache.get(config("model.filters=2"), TEN, 1)
    second = cache.get(config("model.filters=3"), TEN, 1)
    assert cache.get(config("model.filters=2"), TEN, 1) is first
    cache.get(config("model.filters=4"), TEN, 1)
    assert len(cache.networks) == 2
    assert cache.get(config("model.filters=2"), TEN, 1) is first
    assert cache.get(config("model.filters=3"), TEN, 1) is not second
    assert len(built) == 4


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_moves_the_learning_rate(config: ComposeConfig, schedule: str) -> None:
    checked = config(f"training.schedule={schedule}", "optimizer.learning_rate=0.01")
    network = networks.initial_network(checked, TEN, [0])
    (images, labels), _ = inputs.tensors(load_dataset(checked.data), checked.data)
    rates = []
    for epoch in range(4):
        network.fit(images, labels, epoch, 4)
        rates.append(float(network.model.optimizer.learning_rate))
    assert rates[1] > rates[2] > rates[3]
    assert 0 < rates[3] < 0.0015
