"""Training: deterministic, honest about divergence, and every option trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hydra import compose, initialize_config_dir

from cifar_hpo import data, training
from cifar_hpo.config import CONF, Config, check
from cifar_hpo.errors import ConfigError, TrialError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(data.PREPARED, raising=False)


@pytest.fixture
def config(small: list[str]) -> Any:
    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return check(compose("config", [*small, "model.filters=4", *overrides]))

    return composed


def train(config: Config, seed: int = 0, saved: Path | None = None) -> tuple[training.Trained, list[dict[str, float]]]:
    epochs: list[dict[str, float]] = []
    training.set_up(config.training)
    dataset = data.load(config.data)
    return training.train(config, dataset, seed, lambda epoch, values, *, restored: epochs.append(dict(values)), saved), epochs


def weights(trained: training.Trained) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in trained.model.get_weights()])


@pytest.mark.parametrize("options", [[], ["model.dropout=0.3", "data.augment=[flip,shift,cutout]", "model.batch_norm=true"]])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(config: Any, options: list[str]) -> None:
    one, other, different = train(config(*options))[0], train(config(*options))[0], train(config(*options), seed=1)[0]
    assert np.array_equal(weights(one), weights(other))
    assert one.metrics["val_loss"] == other.metrics["val_loss"]
    assert not np.array_equal(weights(one), weights(different))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_every_optimizer_learns_in_either_precision(config: Any, optimizer: str, precision: str) -> None:
    options = ["optimizer.learning_rate=0.01", "optimizer.momentum=0.9"] if optimizer == "sgd" else ["optimizer.learning_rate=0.003"]
    overrides = [f"optimizer={optimizer}", *options, f"training.precision={precision}", "training.epochs=6"]
    trained, epochs = train(config(*overrides))
    assert len(epochs) == 6
    assert epochs[-1]["loss"] < epochs[0]["loss"] < 3
    assert trained.metrics["val_accuracy"] == pytest.approx(epochs[-1]["val_accuracy"])
    assert trained.metrics["test_accuracy"] > 0.2
    assert trained.confusion.sum() == 100
    assert np.trace(trained.confusion) / 100 == pytest.approx(trained.metrics["test_accuracy"])
    assert type(trained.model.optimizer).__name__.lower() == optimizer


def test_a_diverging_loss_ends_the_trial(config: Any) -> None:
    with pytest.raises(TrialError, match="diverged: loss"):
        train(config("optimizer=sgd", "optimizer.learning_rate=1e38"))


def test_early_stopping_keeps_the_best_epoch(config: Any) -> None:
    trained, epochs = train(config("training.early_stopping=1", "training.epochs=30", "optimizer=sgd", "optimizer.learning_rate=1.5"))
    assert len(epochs) < 30
    assert trained.metrics["val_loss"] == min(epoch["val_loss"] for epoch in epochs)


def test_a_batch_larger_than_the_data_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: 600 is more than the 540"):
        train(config("training.batch_size=600"))


@pytest.mark.parametrize("change", ["flip", "shift", "cutout"])
def test_augmentation_changes_some_pixels_and_only_as_named(change: str) -> None:
    given = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    changed = training.augment(given, [change], tf.constant((0, 1))).numpy()
    assert changed.shape == given.shape
    assert changed.dtype == np.uint8
    different = (changed != given).any(axis=(1, 2, 3))
    assert different.any()
    if change == "flip":
        assert all(np.array_equal(one, other[:, ::-1]) for one, other in zip(changed[different], given[different], strict=True))
        assert 10 < different.sum() < 54
    if change == "cutout":
        assert (changed[(changed != given)] == 128).all()
        assert (changed != given).mean() < 0.06
    if change == "shift":
        assert all((one[:, :, 0].mean() - other[:, :, 0].mean()) < 30 for one, other in zip(changed, given, strict=True))


class Died(BaseException):
    """Stands in for a kill: nothing in training may catch it."""


OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "dropout, augmented, normalised": ["model.dropout=0.3", "data.augment=[flip,shift,cutout]", "model.batch_norm=true"],
    "stopping early": ["training.early_stopping=2", "optimizer=sgd", "optimizer.learning_rate=1.5"],
    "bf16, momentum": ["training.precision=mixed_bfloat16", "optimizer=sgd", "optimizer.momentum=0.9"],
}


CASES = [*((name, "none") for name in OPTIONS), ("plain", "cut short"), ("plain", "garbled")]


@pytest.mark.parametrize(("case", "damage"), CASES)
def test_a_training_that_died_goes_on_and_ends_bit_for_bit_as_if_it_had_not(config: Any, case: str, damage: str, tmp_path: Path) -> None:
    options = OPTIONS[case]
    wanted, epochs = train(config("training.epochs=6", *options))
    checked, saved = config("training.epochs=6", *options), tmp_path / "replica_0.checkpoint"
    dataset, trained = data.load(checked.data), []

    def dies(epoch: int, values: Any, *, restored: bool) -> None:
        if epoch == 3:
            raise Died

    with pytest.raises(Died):
        training.train(checked, dataset, 0, dies, saved)
    if damage == "cut short":
        saved.write_bytes(saved.read_bytes()[:-500])
    if damage == "garbled":
        garbled = bytearray(saved.read_bytes())
        garbled[len(garbled) // 2 : len(garbled) // 2 + 50] = bytes(50)
        saved.write_bytes(garbled)

    def counts(epoch: int, values: Any, *, restored: bool) -> None:
        trained.append(restored)

    again = training.train(checked, dataset, 0, counts, saved)
    assert np.array_equal(weights(again), weights(wanted))
    assert trained.count(True) == (4 if damage == "none" else 3)
    assert len(trained) == len(epochs)
    for name in ("loss", "val_loss", "test_loss", "val_accuracy"):
        assert again.metrics[name] == wanted.metrics[name]


def test_an_epoch_in_one_graph_agrees_with_keras_fit(config: Any) -> None:
    checked = config("training.epochs=1", "training.batch_size=60", "optimizer=sgd", "optimizer.momentum=0.9")
    dataset = data.load(checked.data)
    (x, y), _ = dataset.splits(checked.data)
    ours, theirs = training.compiled(checked, 10, 0), training.compiled(checked, 10, 0)
    order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), (0, 0)).numpy()
    training.epoch_graph(ours, checked, 0)(tf.constant(x), tf.constant(y), tf.constant(0))
    loss = theirs.fit(x[order], y[order], batch_size=60, shuffle=False, verbose=0).history["loss"][0]
    assert float(ours.get_metrics_result()["loss"]) == pytest.approx(loss, rel=1e-5)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
