"""Training: deterministic, honest about divergence, and every option trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hydra import compose, initialize_config_dir

from cifar_hpo.config.app import ACTIVATIONS, Config, validate_config
from cifar_hpo.data import dataset as data
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.paths import CONF
from cifar_hpo.training import compiled, optimizers, trainer
from cifar_hpo.training import replicas as fused
from cifar_hpo.training.model import NEVER_FALLING, whitening


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(data.PREPARED, raising=False)


@pytest.fixture
def config(small: list[str]) -> Any:
    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return validate_config(compose("config", [*small, "model.filters=4", *overrides]))

    return composed


def train(
    config: Config, folder: Path | None = None
) -> tuple[list[trainer.Trained], list[dict[int, dict[str, float]]]]:
    epochs: list[dict[int, dict[str, float]]] = []
    trainer.set_up(config.training)
    dataset = data.load(config.data)
    return trainer.train(
        config, dataset, lambda epoch, values, *, restored: epochs.append(dict(values)), folder
    ), epochs


def alone(config: Config, folder: Path | None = None) -> trainer.Trained:
    return train(config, folder)[0][0]


def chosen_for_processors(cases: list[tuple[str, str]], *chosen: tuple[str, str]) -> list[Any]:
    """The cases as parameters, and those marked that .ci/run has time for on each processor."""
    assert set(chosen) <= set(cases)
    marks = pytest.mark.processors
    return [pytest.param(*case, marks=marks if case in chosen else ()) for case in cases]


def weights(trained: trainer.Trained) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in trained.weights])


@pytest.mark.processors
@pytest.mark.parametrize(
    "options",
    [[], ["model.dropout=0.3", "data.augment=[flip,shift,cutout]", "model.batch_norm=true"]],
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(config: Any, options: list[str]) -> None:
    one, other, different = (
        alone(config(*options)),
        alone(config(*options)),
        alone(config(*options, "training.seed=1")),
    )
    assert np.array_equal(weights(one), weights(other))
    assert one.metrics["val_loss"] == other.metrics["val_loss"]
    assert not np.array_equal(weights(one), weights(different))


@pytest.mark.processors
@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        *((name, "float32") for name in ("adam", "adamw", "muon", "sgd", "rmsprop")),
        ("adam", "mixed_bfloat16"),
    ],
)
def test_every_optimizer_learns_and_either_precision(
    config: Any, optimizer: str, precision: str
) -> None:
    own = {
        "sgd": ["optimizer.learning_rate=0.01", "optimizer.momentum=0.9"],
        "muon": ["optimizer.learning_rate=0.005"],
    }
    options = own.get(optimizer, ["optimizer.learning_rate=0.003"])
    overrides = [
        f"optimizer={optimizer}",
        *options,
        f"training.precision={precision}",
        "training.epochs=6",
    ]
    (trained,), each = train(config(*overrides))
    epochs = [values[0] for values in each]
    assert len(epochs) == 6
    assert epochs[-1]["loss"] < epochs[0]["loss"] < 3
    assert trained.metrics["val_accuracy"] == pytest.approx(epochs[-1]["val_accuracy"])
    assert trained.metrics["test_accuracy"] > 0.2
    assert (
        trained.predicted == data.load(config(*overrides).data).test[1]
    ).mean() == pytest.approx(trained.metrics["test_accuracy"])
    assert (trained.confidence >= 0.25).all()
    assert (trained.confidence <= 1).all()
    model = trainer.to_keras_model(config(*overrides), 10, trained.weights)
    assert type(model.optimizer).__name__.lower() == {"muon": "sgd"}.get(optimizer, optimizer)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_decay_is_no_decay(config: Any, optimizer: str) -> None:
    built = compiled.network(config(f"optimizer={optimizer}", "optimizer.weight_decay=0"), 10, [0])
    assert not built.model.optimizer.weight_decay
    assert not compiled.compiled(built.config, 10).optimizer.weight_decay


def test_a_diverging_loss_ends_the_trial(config: Any) -> None:
    with pytest.raises(TrialError, match="diverged: loss"):
        train(config("optimizer=sgd", "optimizer.learning_rate=1e38"))


def test_early_stopping_keeps_the_best_epoch(config: Any) -> None:
    (trained,), epochs = train(
        config(
            "training.early_stopping=1",
            "training.epochs=30",
            "optimizer=sgd",
            "optimizer.learning_rate=1.5",
        )
    )
    assert len(epochs) < 30
    assert trained.metrics["val_loss"] == min(epoch[0]["val_loss"] for epoch in epochs)


def test_a_batch_larger_than_the_data_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: 600 is more than the 540"):
        train(config("training.batch_size=600"))


@pytest.mark.parametrize("change", ["flip", "shift", "cutout"])
def test_augmentation_changes_some_pixels_and_only_as_named(change: str) -> None:
    given = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    changed = compiled.augment(given, [change], tf.constant((0, 1))).numpy()
    assert changed.shape == given.shape
    assert changed.dtype == np.uint8
    different = (changed != given).any(axis=(1, 2, 3))
    assert different.any()
    if change == "flip":
        assert all(
            np.array_equal(one, other[:, ::-1])
            for one, other in zip(changed[different], given[different], strict=True)
        )
        assert 10 < different.sum() < 54
    if change == "cutout":
        assert (changed[(changed != given)] == 128).all()
        squares = [
            tuple((one == 128).all(axis=2).sum(axis=axis).max() for axis in (0, 1))
            for one in changed
        ]
        assert max(squares) == (8, 8), "whole ones, where they do not pass the edge"
        assert (changed != given).mean() < 0.06
    if change == "shift":
        padded = np.pad(given, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        offsets = [
            [
                (y, x)
                for y in range(9)
                for x in range(9)
                if np.array_equal(one, other[y : y + 32, x : x + 32])
            ]
            for one, other in zip(changed, padded, strict=True)
        ]
        assert all(len(fits) == 1 for fits in offsets)
        assert len({fits[0] for fits in offsets}) > 30


class Died(BaseException):
    """Stands in for a kill: nothing in training may catch it."""


OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "dropout, augmented, normalised": [
        "model.dropout=0.3",
        "data.augment=[flip,shift,cutout]",
        "model.batch_norm=true",
    ],
    "stopping early": ["training.early_stopping=2", "optimizer=sgd", "optimizer.learning_rate=1.5"],
    "fused": ["training.replicas=2", "model.dropout=0.3"],
    "averaged, smoothed, whitened": [
        "training.weight_averaging=0.9",
        "training.label_smoothing=0.1",
        "model.whitening=true",
    ],
    "averaged, stopping early": [
        "training.weight_averaging=0.5",
        "training.early_stopping=2",
        "optimizer=sgd",
        "optimizer.learning_rate=1.5",
    ],
    "muon": ["optimizer=muon"],
    "bf16, momentum, one cycle": [
        "training.schedule=one_cycle",
        "training.precision=mixed_bfloat16",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
    ],
}


@pytest.mark.parametrize(
    "changed",
    ["optimizer.learning_rate=0.02", "training.seed=1", "training.epochs=4", "data.train_size=500"],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_from(
    config: Any, changed: str, tmp_path: Path
) -> None:
    def die(epoch: int, values: Any, *, restored: bool) -> None:
        raise Died

    with pytest.raises(Died):
        trainer.train(config(), data.load(config().data), die, tmp_path)
    assert list(tmp_path.glob("replica_0.checkpoint"))
    fresh = []
    trainer.train(
        config(changed),
        data.load(config().data),
        lambda *_, restored: fresh.append(not restored),
        tmp_path,
    )
    assert all(fresh)


CASES = [
    *chosen_for_processors(
        [(name, "none") for name in OPTIONS],
        ("fused", "none"),
        ("bf16, momentum, one cycle", "none"),
    ),
    ("plain", "cut short"),
    ("plain", "garbled"),
]


@pytest.mark.parametrize(("case", "damage"), CASES)
def test_a_training_that_died_goes_on_and_ends_bit_for_bit_as_if_it_had_not(
    config: Any, case: str, damage: str, tmp_path: Path
) -> None:
    options = OPTIONS[case]
    (wanted, *_), epochs = train(config("training.epochs=6", *options))
    checked, saved = config("training.epochs=6", *options), tmp_path / "replica_0.checkpoint"
    dataset, trained = data.load(checked.data), []

    def dies(epoch: int, values: Any, *, restored: bool) -> None:
        if epoch == 3:
            raise Died

    with pytest.raises(Died):
        trainer.train(checked, dataset, dies, tmp_path)
    if damage == "cut short":
        saved.write_bytes(saved.read_bytes()[:-500])
    if damage == "garbled":
        garbled = bytearray(saved.read_bytes())
        garbled[len(garbled) // 2 : len(garbled) // 2 + 50] = bytes(50)
        saved.write_bytes(garbled)

    def counts(epoch: int, values: Any, *, restored: bool) -> None:
        trained.append(restored)

    again = trainer.train(checked, dataset, counts, tmp_path)[0]
    assert np.array_equal(weights(again), weights(wanted))
    assert trained.count(True) == (4 if damage == "none" else 3)
    assert len(trained) == len(epochs)
    for name in ("loss", "val_loss", "test_loss", "val_accuracy"):
        assert again.metrics[name] == wanted.metrics[name]


def test_the_average_of_the_weights_is_what_is_evaluated(config: Any) -> None:
    options = [
        "training.epochs=1",
        "training.batch_size=540",
        "optimizer=sgd",
        "optimizer.learning_rate=0.05",
    ]
    start = compiled.network(config(*options), 10, [0]).weights()[0]
    after = [
        alone(config(*options, f"training.epochs={epochs}")).weights for epochs in (1, 2)
    ]  # of a step each
    averaged = alone(config(*options, "training.epochs=2", "training.weight_averaging=0.75"))
    for first, one, two, mean in zip(start, *after, averaged.weights, strict=True):
        assert not np.array_equal(first, two)
        assert mean == pytest.approx(0.75 * one + 0.25 * two, abs=1e-6), (
            "it begins with the weights after the first step"
        )


def test_smoothing_is_for_learning_and_not_for_the_losses_that_are_compared(config: Any) -> None:
    options = [
        "training.epochs=1",
        "training.batch_size=540",
        "optimizer=sgd",
        "optimizer.learning_rate=1e-9",
    ]
    plain, smoothed = (
        alone(config(*options)),
        alone(config(*options, "training.label_smoothing=0.3")),
    )
    assert smoothed.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
    assert smoothed.metrics["val_loss"] == pytest.approx(plain.metrics["val_loss"], rel=1e-5)
    moved = [
        alone(config(*options[:-1], f"training.label_smoothing={share}")) for share in (0, 0.3)
    ]
    assert not np.allclose(weights(moved[0]), weights(moved[1]), atol=1e-5)
    model = trainer.to_keras_model(config(*options), 10, plain.weights)
    dataset = data.load(config().data)
    probabilities = tf.constant(model.predict(dataset.test[0], verbose=0))
    labels = tf.one_hot(dataset.test[1], 10) * 0.7 + 0.03
    wanted = -tf.reduce_sum(labels * tf.math.log(probabilities), axis=1)
    assert fused.loss(0.3)(tf.constant(dataset.test[1]), probabilities).numpy() == pytest.approx(
        wanted.numpy(), rel=1e-4
    )


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (200, 32, 32, 3)).cumsum(axis=2)
    images = np.clip(128 + noise, 0, 255).astype(np.uint8)
    kernel, bias = whitening(images)
    given = tf.nn.conv2d(tf.constant(images / np.float32(255)), kernel, 1, "VALID") + bias
    found = given.numpy().reshape(-1, 24)
    assert np.allclose(found[:, :12], -found[:, 12:], atol=1e-3)
    assert found.mean(axis=0) == pytest.approx(0, abs=0.01)
    assert np.cov(found[:, :12], rowvar=False) == pytest.approx(np.eye(12), abs=0.05)


@pytest.mark.processors
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("float32", []),
        ("mixed_bfloat16", []),
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
    config: Any, precision: str, options: list[str]
) -> None:
    fixed = [
        "training.epochs=1",
        "training.batch_size=60",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        f"training.precision={precision}",
    ]
    checked = config(*fixed, *options)
    dataset = data.load(checked.data)
    (x, y), (x_val, y_val) = dataset.splits(checked.data)
    ours, theirs = compiled.network(checked, 10, [0]), compiled.compiled(checked, 10)
    theirs.set_weights(ours.model.get_weights())
    order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), (0, 0)).numpy()
    mine = ours.fit(tf.constant(x), tf.constant(y), 0, 1)[0] | {
        f"val_{k}": v for k, v in ours.score(x_val, y_val)[0].items()
    }
    other = theirs.fit(
        x[order],
        y[order],
        batch_size=checked.training.batch_size,
        shuffle=False,
        verbose=0,
        validation_data=(x_val, y_val),
    ).history
    close = 1e-5 if precision == "float32" else 1e-2
    assert mine == pytest.approx({name: values[0] for name, values in other.items()}, rel=close)
    for own, weight in zip(ours.model.get_weights(), theirs.get_weights(), strict=True):
        assert own == pytest.approx(weight, abs=close)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras' own, where it saves
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_mirrored_model_finds_the_same_for_an_image_and_its_mirror_image(
    config: Any, precision: str, tmp_path: Path
) -> None:
    checked = config("model.mirror=true", "model.dropout=0.3", f"training.precision={precision}")
    images = data.load(checked.data).test[0][:8]
    net = compiled.network(checked, 10, [0])
    kept = trainer.to_keras_model(checked, 10, net.weights()[0])
    kept.save(tmp_path / "kept.keras")
    found = keras.models.load_model(tmp_path / "kept.keras")(images)
    assert found.dtype == tf.float32
    close = 1e-6 if precision == "float32" else 1e-2
    assert found.numpy() == pytest.approx(net.predict(images)[0], abs=close)
    assert found.numpy() == pytest.approx(net.predict(images[:, :, ::-1])[0], abs=close)
    assert not np.allclose(found, net.model(images), atol=1e-4)


@pytest.mark.processors
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("block", [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)])
def test_a_convolution_by_blocks_is_the_convolution(
    padding: str, kernel_size: int, groups: int, block: tuple[int, int]
) -> None:
    keras.mixed_precision.set_dtype_policy("float32")
    filters, channels = 4, 2
    lost = kernel_size - 1 if padding == "valid" else 0
    shape = (2, 8 + lost, 12 + lost, channels * groups)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = fused.Conv2D(filters, kernel_size, padding, groups, use_bias=True, block=block)
    layer(images)
    layer.bias.assign(np.arange(groups * filters))
    found = layer(images)
    kernels = np.split(layer.kernel.numpy(), groups, axis=3)
    parts = [
        tf.nn.conv2d(image, kernel, 1, padding.upper())
        for image, kernel in zip(np.split(images, groups, axis=3), kernels, strict=True)
    ]
    wanted = np.concatenate(parts, axis=3) + layer.bias.numpy()
    assert found.shape == wanted.shape == layer.compute_output_shape(images.shape)
    assert found.numpy() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pooling_goes_before_activations_that_never_fall(activation: str) -> None:
    values = keras.activations.get(activation)(tf.linspace(-8.0, 8.0, 4001)).numpy()
    rises = np.diff(values) > -1e-6  # tanh is 1 but for rounding
    assert (activation in NEVER_FALLING) == bool(rises.all())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "amsgrad": amsgrad})
            for name in ("Adam", "AdamW")
            for amsgrad in (False, True)
        ),
        ("SGD", {}),
        ("SGD", {"momentum": 0.8, "weight_decay": 0.1}),
        ("SGD", {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_an_optimizer_in_one_operation_is_the_optimizer(name: str, options: dict[str, Any]) -> None:
    ends = []
    for room in (optimizers, keras.optimizers):
        drawn = np.random.default_rng(0)
        variable = keras.Variable(drawn.normal(size=(5, 7)), dtype="float32")
        optimizer = getattr(room, name)(0.01, **options)
        for step in range(20):
            optimizer.learning_rate.assign(0.01 * (step + 1))
            optimizer.apply([tf.constant(drawn.normal(size=(5, 7)), tf.float32)], [variable])
        ends.append([variable.numpy(), *(one.numpy() for one in optimizer.variables)])
    for mine, other in zip(*ends, strict=True):
        assert mine == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 8, 20), (1, 1, 5, 9)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_takes_steps_that_are_equally_long_in_all_directions_and_keeps_a_kernel_at_its_size(
    shape: tuple[int, ...], nesterov: bool
) -> None:
    drawn = np.random.default_rng(0)
    kernel, bias = (
        keras.Variable(drawn.normal(size=size), dtype="float32") for size in (shape, (7,))
    )
    other = keras.Variable(bias)
    options = {"momentum": 0.6, "nesterov": nesterov}
    muon, sgd = (
        optimizers.Muon(learning_rate=0.1, others=3.0, **options),
        keras.optimizers.SGD(0.3, **options),
    )
    before = kernel.numpy().reshape(-1, shape[-1])
    sum_of_gradients = np.zeros(shape)
    for _ in range(5):
        gradients = [tf.constant(drawn.normal(size=size), tf.float32) for size in (shape, (7,))]
        muon.apply(gradients, [kernel, bias])
        sgd.apply(gradients[1:], [other])
        assert bias.numpy() == pytest.approx(other.numpy(), abs=1e-6)
        sum_of_gradients = sum_of_gradients * 0.6 + gradients[0]
        wanted = gradients[0] + 0.6 * sum_of_gradients if nesterov else sum_of_gradients
        scaled = before * shape[-1] ** 0.5 / np.linalg.norm(before)
        step = (scaled - kernel.numpy().reshape(before.shape)) / 0.1
        sizes = np.linalg.svd(step, compute_uv=False)
        assert sizes.min() > 0.4
        assert sizes.max() < 1.3
        left, _, right = np.linalg.svd(
            np.asarray(wanted).reshape(before.shape), full_matrices=False
        )
        assert (step * (left @ right)).sum() / np.linalg.norm(step) / len(sizes) ** 0.5 > 0.95, (
            "the nearest orthogonal matrix, but for the rounds"
        )
        before = kernel.numpy().reshape(before.shape)


LAYERS = {
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
        *(
            "model.whitening=true",
            "model.convolutions=2",
            "model.pooling=first",
            "model.global_pooling=max",
            "model.filters=[3,5]",
        ),
        *("training.label_smoothing=0.2", "model.dense_units=0"),
    ],
    "mirrored, pooled in every width": [
        "model.mirror=true",
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


FUSED = [
    *((layers, "adam") for layers in LAYERS),
    *(("base", name) for name in ("adamw", "sgd", "rmsprop")),
]


@pytest.mark.parametrize(
    ("layers", "optimizer"),
    chosen_for_processors(
        FUSED, ("base", "sgd"), ("batch norm", "adam"), ("residual, pooled late, averaged", "adam")
    ),
)
def test_a_fused_replica_ends_like_the_same_seed_alone(
    config: Any, layers: str, optimizer: str
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
    options.append(
        "optimizer.learning_rate=0.02" if optimizer == "sgd" else "optimizer.epsilon=0.001"
    )
    together, _ = train(config(*options, "training.replicas=2", "training.seed=5"))
    for replica, one in enumerate(together):
        single = alone(config(*options, f"training.seed={5 + replica}"))
        start = compiled.network(config(*options), 10, [5 + replica]).weights()[0]
        for mine, other in zip(one.weights, single.weights, strict=True):
            assert mine == pytest.approx(other, abs=2e-5)
        assert (
            max(abs(mine - before).max() for mine, before in zip(one.weights, start, strict=True))
            > 5e-4
        )
        assert one.metrics["val_loss"] == pytest.approx(single.metrics["val_loss"], abs=1e-4)
        assert one.metrics["parameters"] == single.metrics["parameters"]
        model = trainer.to_keras_model(config(*options), 10, one.weights)
        assert model.count_params() == one.metrics["parameters"]
        images, labels = data.load(config(*options).data).test
        scores = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert scores == pytest.approx(
            {"loss": one.metrics["test_loss"], "accuracy": one.metrics["test_accuracy"]}, rel=1e-4
        )
    assert not np.allclose(together[0].weights[-2], together[1].weights[-2])


@pytest.mark.parametrize(
    "apart", [["training.early_stopping=1"], ["model.filters=16"], ["optimizer=muon"]]
)
def test_replicas_that_stop_early_or_are_wide_or_muons_train_apart_and_equal_themselves_alone(
    config: Any, apart: list[str]
) -> None:
    options = ["optimizer=sgd", *apart, "optimizer.learning_rate=1.5", "training.epochs=4"]
    both = config(*options, "training.replicas=2")
    assert not both.is_fused
    together, _ = train(both)
    assert np.array_equal(weights(together[1]), weights(alone(config(*options, "training.seed=1"))))


def test_a_network_is_used_again_for_its_shape_and_starts_afresh(config: Any) -> None:
    first = alone(config("model.dropout=0.3"))
    kept = dict(compiled._kept)  # noqa: SLF001
    other = alone(config("model.dropout=0.3", "optimizer.learning_rate=0.01", "training.seed=3"))
    assert compiled._kept == kept, "another seed and another learning rate need no new graph"  # noqa: SLF001
    assert not np.allclose(first.weights[0], other.weights[0])
    assert np.array_equal(weights(first), weights(alone(config("model.dropout=0.3"))))


@pytest.mark.parametrize(
    ("schedule", "shares"), [("cosine", [1, 0.5, 0]), ("one_cycle", [0.04, 2 / 3, 0])]
)
def test_a_schedule_moves_the_learning_rate(
    config: Any, schedule: str, shares: list[float]
) -> None:
    rates = [float(compiled.SCHEDULES[schedule](tf.constant(done))) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx(shares, abs=1e-6)
    net = compiled.network(
        config(f"training.schedule={schedule}", "optimizer.learning_rate=0.01"), 10, [0]
    )
    seen = []
    (images, labels), _ = trainer.tensors(data.load(config().data), config().data)
    for epoch in range(4):
        net.fit(images, labels, epoch, 4)
        seen.append(float(net.model.optimizer.learning_rate))
    assert seen[1] > seen[2] > seen[3]
    assert 0 < seen[3] < 0.0015
