"""The schema against the configs that ship with it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins

from cifar_hpo.config import app as config
from cifar_hpo.config import sweep as options
from cifar_hpo.errors import ConfigError
from cifar_hpo.paths import CONF, SWEEPS

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
COMBINATIONS = [
    dict(zip(GROUPS, choice, strict=True)) for choice in itertools.product(*GROUPS.values())
]


@pytest.fixture(autouse=True, scope="module")
def composing() -> Any:
    Plugins.instance()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_there_are_groups() -> None:
    assert GROUPS["model"] == ["base", "deep", "enhanced", "wide"]
    assert GROUPS["optimizer"] == ["adam", "adamw", "muon", "nesterov", "rmsprop", "sgd"]


@pytest.mark.parametrize("choice", COMBINATIONS, ids=lambda choice: "-".join(choice.values()))
def test_every_combination_of_options_composes(choice: dict[str, str]) -> None:
    overrides = [f"{group}={name}" for group, name in choice.items()]
    checked = config.validate_config(compose("config", overrides))
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
    config.validate_config(composed)


def test_every_key_of_the_schema_stands_in_conf_and_has_a_meaning() -> None:
    for name, section in (
        ("model", config.Model),
        ("data", config.Data),
        ("training", config.Training),
        ("mlflow", config.Mlflow),
    ):
        composed = compose("config")[name]
        assert set(composed) == {field.name for field in dataclasses.fields(section)}
        assert all(field.metadata["meaning"] for field in dataclasses.fields(section))
        assert all(field.name in options.keys_help() for field in dataclasses.fields(section))


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


@pytest.mark.parametrize("uri", ["postgresql://me:secret@host/db", "https://me:secret@host"])
def test_a_password_is_refused_wherever_it_stands(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.refuse_secrets_and_calls({"hydra": {"sweeper": {"storage": uri}}})
    assert "hydra.sweeper.storage" in str(refused.value)
    assert "secret" not in str(refused.value)
    config.refuse_secrets_and_calls(
        {"storage": "${oc.env:STORE}", "uri": "postgresql://me@host/db"}
    )
