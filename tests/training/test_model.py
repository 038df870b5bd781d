"""The article's models, what options do to them, and whitening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from hydra import compose, initialize_config_dir

from cifar_hpo.config.app import ACTIVATIONS, Model
from cifar_hpo.config.validation import validate_config
from cifar_hpo.paths import CONF, SWEEPS
from cifar_hpo.training.model import NEVER_FALLING, build, whitening_weights, with_tta
from cifar_hpo.training.signature import Signature


def model_config(*overrides: str) -> Model:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        built_in: Model = validate_config(compose("config", list(overrides))).model
    return built_in


def model(*overrides: str) -> keras.Model:
    return build(model_config(*overrides), Signature(10))


def parameters(filters: list[int], kernel: int, dense: int = 64) -> int:
    """Weights and biases of the article's model, counted by hand."""
    total, depth, size = 0, 3, 32
    for layer, width in enumerate(filters):
        total += kernel**2 * depth * width + width
        depth = width
        size //= 2 if layer < len(filters) - 1 else 1
    flat = size**2 * depth
    return total + flat * dense + dense + dense * 10 + 10


@pytest.mark.parametrize(
    ("overrides", "filters", "kernel"),
    [
        ([], [4, 8, 16], 7),
        (["model.filters=8"], [8, 16, 32], 7),
        (["model=wide"], [16, 32, 64], 7),
        (["model=wide", "model.kernel_size=5"], [16, 32, 64], 5),
        (["model=enhanced"], [16, 32, 64], 3),
        (["model=enhanced", "model.filters=[16,32]"], [16, 32], 3),
        (["model=deep"], [16, 32, 32, 64], 3),
        (["model=deep", "model.filters=[16,32,32,32,32,64]"], [16, 32, 32, 32, 32, 64], 3),
    ],
)
def test_parameters_of_the_articles_models(
    overrides: list[str], filters: list[int], kernel: int
) -> None:
    built = model(*overrides)
    convolutions = [layer for layer in built.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == filters
    assert built.count_params() == parameters(filters, kernel)


def test_the_base_model_has_the_articles_74706_parameters() -> None:
    assert model().count_params() == 74_706


@pytest.mark.parametrize(
    "options",
    [
        ["model.padding=valid", "model.kernel_size=3"],
        ["model.dense_units=0"],
        ["model.dropout=0.5"],
        ["model.batch_norm=true"],
    ],
)
def test_every_option_takes_raw_images_and_gives_probabilities(options: list[str]) -> None:
    built = model(*options)
    probabilities = built(np.full((2, 32, 32, 3), 200, np.uint8))
    assert probabilities.shape == (2, 10)
    assert np.allclose(np.sum(probabilities, axis=1), 1, atol=1e-6)
    types = {type(layer).__name__ for layer in built.layers}
    assert ("Dropout" in types) == ("model.dropout=0.5" in options)
    assert ("BatchNormalization" in types) == ("model.batch_norm=true" in options)


TABLES = {
    "neuron_count": "model.filters",
    "kernel_size": "model.kernel_size",
    "depth": "model.filters",
    "final": "model",
}


@pytest.mark.parametrize("table", TABLES)
def test_the_named_sweeps_are_the_articles_tables(table: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "article" / "results.json"
    if not path.exists():
        pytest.skip("the article's figures are not here")
    article = json.loads(path.read_text())[table]
    sweep = yaml.safe_load((SWEEPS / f"{table}.yaml").read_text())
    (key,) = sweep["hydra"]["sweeper"]["params"]
    assert key == TABLES[table]
    assert sweep["data"]["validation"] == "test"
    values = yaml.safe_load(f"[{sweep['hydra']['sweeper']['params'][key]}]")
    assert len(values) == len(article["rows"])
    for value, row in zip(values, article["rows"], strict=True):
        overrides = [f"{key}={value}".replace(" ", "")]
        if key != "model":
            overrides.append(f"model={base_model(sweep)}")
        filters = row.get("filters") or article.get("filters")
        kernel = row.get("kernel_size") or article.get("kernel_size")
        assert model(*overrides).count_params() == parameters(filters, kernel)


def base_model(sweep: dict[str, Any]) -> str:
    """The model that a sweep varies."""
    for entry in sweep["defaults"]:
        if isinstance(entry, dict):
            return str(entry["override model"])
    return "base"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.filters=[3,5]", "model.convolutions=2", "model.pooling=last"],
        ["model.pooling=every", "model.batch_norm=true", "model.padding=valid"],
        ["model.whitening=true", "model.global_pooling=max", "model.dense_units=0"],
    ],
)
def test_parameters_are_counted_as_the_built_model_has_them(overrides: list[str]) -> None:
    config = model_config("model.kernel_size=3", *overrides)
    seven = Signature(7)
    assert config.parameters(7) == build(config, seven).count_params()
    assert config.parameters(7) == build(config, seven, 1).count_params()
    assert 3 * config.parameters(7) == build(config, seven, 3).count_params()


def test_several_replicas_are_one_model_with_an_axis_for_them() -> None:
    built = build(model_config("model.filters=2"), Signature(10), 3)
    assert built(np.zeros((4, 32, 32, 3), np.uint8)).shape == (4, 3, 10)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_a_prediction_is_the_mean_over_an_image_its_shifts_and_their_mirror_images(
    mirror: bool, shift: bool
) -> None:
    overrides = ["model.filters=2", f"model.mirror={mirror}", f"model.shift={shift}"]
    built, checked = model(*overrides), model_config(*overrides)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    shifted = [padded[:, :32, :32], padded[:, 2:, 2:]]
    shown = [images, images, *shifted] if shift else [images]
    if mirror:
        shown += [image[:, :, ::-1] for image in shown]
    mean = np.mean([built(image) for image in shown], axis=0)
    assert with_tta(built, checked)(images).numpy() == pytest.approx(mean, abs=1e-6)


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (200, 32, 32, 3)).cumsum(axis=2)
    images = np.clip(128 + noise, 0, 255).astype(np.uint8)
    kernel, bias = whitening_weights(images)
    whitened = tf.nn.conv2d(tf.constant(images / np.float32(255)), kernel, 1, "VALID") + bias
    channels = whitened.numpy().reshape(-1, 24)
    half = channels[:, :12]
    assert np.allclose(half, -channels[:, 12:], atol=1e-3)
    assert channels.mean(axis=0) == pytest.approx(0, abs=0.01)
    assert np.cov(half, rowvar=False) == pytest.approx(np.eye(12), abs=0.05)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pooling_goes_before_activations_that_never_fall(activation: str) -> None:
    values = keras.activations.get(activation)(tf.linspace(-8.0, 8.0, 4001)).numpy()
    rises = np.diff(values) > -1e-6  # tanh is 1 but for rounding
    assert (activation in NEVER_FALLING) == bool(rises.all())
