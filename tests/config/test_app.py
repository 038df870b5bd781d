"""The schema against the configs that ship with it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml
from hydra import compose

from cifar_hpo import trust
from cifar_hpo.config import app as config
from cifar_hpo.config import sweep as options
from cifar_hpo.config.validation import validate_config
from cifar_hpo.paths import CONF, SWEEPS


@pytest.mark.parametrize(
    ("size", "scale", "epochs", "heights"),
    [
        ((32, 32), 0.625, 10, [20, 20, 24, 24, 28, 28, 32, 32, 32, 32]),
        ((32, 32), 1.0, 3, [32, 32, 32]),
        ((9, 30), 1.0, 3, [9, 9, 9]),
        ((32, 32), 0.5, 2, [16, 32]),
        ((32, 32), 0.5, 1, [32]),
        ((8, 6), 0.01, 3, [1, 4, 8]),
    ],
)
def test_images_grow_to_the_whole(
    size: tuple[int, int], scale: float, epochs: int, heights: list[int]
) -> None:
    sizes = [config.size_in_epoch(size, scale, epoch, epochs) for epoch in range(epochs)]
    assert [height for height, _ in sizes] == heights
    assert sizes[-1] == size


pytestmark = pytest.mark.usefixtures("composing")


GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
NEEDS = {"keras": ["data.name=mnist"]}
"""What a choice of data needs beside itself."""

GROUPS["data"].remove("function")  # which needs a function that is allowed
COMBINATIONS = [
    dict(zip(GROUPS, choice, strict=True)) for choice in itertools.product(*GROUPS.values())
]


def test_there_are_groups() -> None:
    assert GROUPS["model"] == ["base", "deep", "enhanced", "wide"]
    assert GROUPS["optimizer"] == ["adam", "adamw", "muon", "nesterov", "rmsprop", "sgd"]


@pytest.mark.parametrize("choice", COMBINATIONS, ids=lambda choice: "-".join(choice.values()))
def test_every_combination_of_options_composes(choice: dict[str, str]) -> None:
    overrides = [f"{group}={name}" for group, name in choice.items()]
    overrides += NEEDS.get(choice["data"], [])
    checked = validate_config(compose("config", overrides))
    assert checked.optimizer.name == {"nesterov": "sgd"}.get(
        choice["optimizer"], choice["optimizer"]
    )
    assert checked.data.source == choice["data"]


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_named_sweep_composes(path: Path) -> None:
    swept = yaml.safe_load(path.read_text())["hydra"]["sweeper"]
    assert swept["study_name"] == path.stem
    composed = compose(path.stem, [], return_hydra_config=True)
    assert composed.hydra.mode.name == "MULTIRUN"
    validate_config(composed)


def test_every_key_of_the_schema_stands_in_conf_and_has_a_meaning() -> None:
    for name, section in (
        ("model", config.Model),
        ("data", config.Data),
        ("training", config.Training),
        ("mlflow", config.Mlflow),
    ):
        composed = compose("config")[name]
        fields = dataclasses.fields(section)
        keys = [field for field in fields if "omegaconf_ignore" not in field.metadata]
        assert set(composed) == {field.name for field in keys}
        assert all(field.metadata["meaning"] for field in keys)
        assert all(field.name in options.keys_help() for field in keys)


def test_optimizers_have_keras_own_defaults() -> None:
    import keras

    for name, schema in config.OPTIMIZERS.items():
        if name == "muon":
            continue  # Keras' own leaves convolutions to AdamW
        options = dict(compose("config", [f"optimizer={name}"]).optimizer)
        options.pop("name")
        wanted = getattr(keras.optimizers, schema.KERAS)().get_config()
        assert options == pytest.approx({key: wanted[key] or 0 for key in options}), (
            "None is Keras' word for no weight decay"
        )


@pytest.mark.parametrize(
    ("overrides", "sizes"),
    [
        ([], [(32, 16), (16, 8), (8, 8)]),
        (["model.depth=1"], [(32, 32)]),
        (["model.depth=2", "model.pooling=every"], [(32, 16), (16, 8)]),
        (["model.depth=2", "model.padding=valid", "model.kernel_size=3"], [(30, 15), (13, 13)]),
        (["model.depth=1", "model.whitening=true", "model.pooling=every"], [(31, 15)]),
        (
            ["model.depth=2", "model.convolutions=2", "model.pooling=first"],
            [(32, 16), (16, 16), (16, 16), (16, 16)],
        ),
        (
            ["model.depth=2", "model.convolutions=2", "model.pooling=last"],
            [(32, 32), (32, 16), (16, 16), (16, 16)],
        ),
    ],
)
def test_an_image_shrinks_from_layer_to_layer(
    overrides: list[str], sizes: list[tuple[int, int]]
) -> None:
    model = validate_config(compose("config", overrides)).model
    wanted = [((size, size), (pooled, pooled)) for size, pooled in sizes]
    assert [(layer.size, layer.pooled_size) for layer in model.layers()] == wanted


@pytest.mark.parametrize(
    ("overrides", "multiply_adds"),
    [
        (["model.depth=1", "model.dense_units=0"], 32**2 * 7**2 * 3 * 4),
        (["model.depth=1", "model.dense_units=5"], 32**2 * 7**2 * 3 * 4 + 32**2 * 4 * 5),
        (
            ["model.depth=1", "model.dense_units=0", "model.whitening=true"],
            31**2 * 2**2 * 3 * 24 + 31**2 * 7**2 * 24 * 4,
        ),
    ],
)
def test_multiplications_are_those_of_each_pixel_and_kernel(
    overrides: list[str], multiply_adds: int
) -> None:
    model = validate_config(compose("config", overrides)).model
    assert model.multiply_adds() == multiply_adds


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], ""),
        (["training.early_stopping=2"], "training.early_stopping"),
        (["training.callbacks=[{_target_: keras.callbacks.History}]"], "training.callbacks"),
        (["optimizer=muon"], "optimizer=muon"),
        (["training.precision=mixed_float16"], "training.precision=mixed_float16"),
        (["model.filters=16"], "neurons or more in the first layer"),
    ],
)
def test_replicas_that_are_not_fused_have_a_reason(
    overrides: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("keras.callbacks",))
    checked = validate_config(compose("config", ["training.replicas=2", *overrides]))
    assert checked.is_fused is not bool(reason)
    assert checked.reason_not_fused.endswith(reason)
