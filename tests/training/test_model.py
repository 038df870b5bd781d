"""The article's models, and what options do to them."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from cifar_hpo.config.app import validate_config
from cifar_hpo.paths import CONF, SWEEPS
from cifar_hpo.training.model import build


def model(*overrides: str, config_name: str = "config") -> keras.Model:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(validate_config(compose(config_name, list(overrides))).model, 10)


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
    assert [
        layer.filters for layer in built.layers if isinstance(layer, keras.layers.Conv2D)
    ] == filters
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
    given = built(np.full((2, 32, 32, 3), 200, np.uint8))
    assert given.shape == (2, 10)
    assert np.allclose(np.sum(given, axis=1), 1, atol=1e-6)
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
    article = Path(__file__).parents[3] / "shared" / "article" / "results.json"
    if not article.exists():
        pytest.skip("the article's figures are not here")
    rows = json.loads(article.read_text())[table]
    import yaml

    sweep = yaml.safe_load((SWEEPS / f"{table}.yaml").read_text())
    (key,) = sweep["hydra"]["sweeper"]["params"]
    assert key == TABLES[table]
    assert sweep["data"]["validation"] == "test"
    values = yaml.safe_load(f"[{sweep['hydra']['sweeper']['params'][key]}]")
    base = next(
        (entry["override model"] for entry in sweep["defaults"] if isinstance(entry, dict)), "base"
    )
    assert len(values) == len(rows["rows"])
    for value, row in zip(values, rows["rows"], strict=True):
        built = (
            model(f"model={base}", f"{key}={value}".replace(" ", ""))
            if key != "model"
            else model(f"model={value}")
        )
        filters = row.get("filters") or rows.get("filters")
        kernel = row.get("kernel_size") or rows.get("kernel_size")
        assert built.count_params() == parameters(filters, kernel)
