"""The schema against the configs that ship with it."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from cifar_hpo import trust
from cifar_hpo.config import app as config
from cifar_hpo.config import sweep as options
from cifar_hpo.config.validation import validate_config, validate_for_data
from cifar_hpo.errors import ConfigError
from cifar_hpo.paths import CONF, SWEEPS
from cifar_hpo.trust import Call

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
    ("overrides", "message"),
    [
        (["optimizer.name=adagrad"], "optimizer.name: 'adagrad' is none of adam, adamw"),
        (["+model.colour=red"], "model.colour: Key 'colour' not in 'Model'"),
        (["model.depth=deep"], "model.depth: Value 'deep' of type 'str'"),
        (["model.depth=0"], "model.depth: 0 is out of range"),
        (["model.batch_norm=1"], "model.batch_norm: 1 is neither true nor false"),
        (["model.depth=7"], "model: layer 6 has no pixels left"),
        (["model.depth=2", "model.padding=valid", "model.kernel_size=20"], "model: layer 2 has no"),
        (["training.callbacks=[3]"], "training.callbacks[0]: 3 is no callback; write {_target_: "),
        (["training.callbacks=[{every: 2}]"], "training.callbacks[0]: {'every': 2} is no callback"),
        (["training.callbacks=plot"], "training.callbacks: "),
        (["training.callbacks=null"], "training.callbacks: "),
        (
            ["training.callbacks=[{_target_: os.system, command: ls}]"],
            "training.callbacks[0]._target_: refused: a config does not call 'os.system'",
        ),
        (["training.early_stopping_metric=loss"], "'loss' is none of val_loss, val_accuracy, val_"),
        (["model.residual=true"], "model.residual: with one convolution of each width"),
        (
            [
                "model.residual=true",
                "model.convolutions=2",
                "model.padding=valid",
                "model.kernel_size=3",
            ],
            "model.residual: what is added must be of one size",
        ),
    ],
)
def test_the_first_wrong_value_is_refused_with_its_path(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate_config(compose("config", overrides))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("{study: mine}", "mlflow.tags.study: a tag that sweeps use"),
        ("{cpu: slow}", "mlflow.tags.cpu: a tag that sweeps use"),
        ("{cifar_hpo.x: 1}", "mlflow.tags.cifar_hpo.x: a tag that sweeps use"),
        ("{a@b: 1}", "mlflow.tags.a@b: no tag"),
        ("{a: [1]}", "mlflow.tags.a: '[1]' is no text"),
        ("{a: null}", "mlflow.tags.a: 'None' is no text"),
    ],
)
def test_tags_are_those_that_mlflow_takes_and_sweeps_do_not(tags: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate_config(compose("config", [f"mlflow.tags={tags}"]))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "tags", ["mlflow.tags={year: 1}", "+mlflow.tags={year: 1}", "+mlflow.tags.year=1"]
)
def test_tags_are_given_as_any_mapping_is(tags: str) -> None:
    assert validate_config(compose("config", [tags])).mlflow.tags == {"year": 1}


def test_tags_and_a_note_may_be_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "vision")
    tags = "mlflow.tags={team: '${oc.env:TEAM}', year: 2026}"
    given = compose("config", [tags, "mlflow.note=why"])
    mlflow = validate_config(given).mlflow
    assert mlflow.tags == {"team": "vision", "year": 2026}
    assert mlflow.note == "why"


def test_a_section_that_is_null_is_refused() -> None:
    composed = compose("config")
    composed.model = None
    with pytest.raises(ConfigError, match="model: null; choose one of its group"):
        validate_config(composed)


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


@pytest.mark.parametrize(
    ("metric", "has_numbers", "known"),
    [("val_mae", False, "val_loss, val_accuracy"), ("val_accuracy", True, "val_loss, val_mae")],
)
def test_early_stopping_by_a_metric_that_these_labels_do_not_have_is_refused(
    metric: str, has_numbers: bool, known: str
) -> None:
    overrides = [f"training.early_stopping_metric={metric}", "training.early_stopping=2"]
    checked = validate_config(compose("config", overrides))
    validate_for_data(checked, (32, 32, 3), has_numbers=not has_numbers)
    with pytest.raises(ConfigError) as refused:
        validate_for_data(checked, (32, 32, 3), has_numbers=has_numbers)
    problem = f"there is no {metric} with these labels; there is {known}"
    assert str(refused.value) == f"training.early_stopping_metric: {problem}"
    never = validate_config(compose("config", overrides[:1]))
    validate_for_data(never, (32, 32, 3), has_numbers=has_numbers)


def test_callbacks_are_calls_whose_interpolations_are_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("keras.callbacks",))
    logger = "{_target_: keras.callbacks.CSVLogger, filename: 'of_${training.seed}.csv'}"
    composed = compose("config", [f"training.callbacks=[{logger}]", "training.seed=7"])
    for _ in "ab":  # the second time from what is known
        checked = validate_config(composed)
        (call,) = checked.training.callbacks
        assert call == Call("keras.callbacks.CSVLogger", {"filename": "of_7.csv"})
        checked.training.callbacks.clear()


def test_tensorboard_that_is_not_there_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else found(name)
    )
    validate_config(compose("config"))
    with pytest.raises(ConfigError) as refused:
        validate_config(compose("config", ["training.tensorboard=true"]))
    assert str(refused.value) == (
        "training.tensorboard: needs tensorboard, which is not installed; pip install "
        "'cifar_hpo[tensorboard]'"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=muon", "model=enhanced"],
        ["model.filters=[4,8]", "data.train_size=100"],
        ["model.dropout=0", "training.epochs='3'"],
        ["model.batch_norm=true", "training.seed=1", "training.replicas=1"],
        ["training.seed=${training.epochs}"],
    ],
)
def test_values_that_are_converted_one_by_one_are_those_of_the_whole(overrides: list[str]) -> None:
    composed = compose("config", overrides)
    by_value = validate_config(composed)
    schema = config.Config(optimizer=config.OPTIMIZERS[composed.optimizer.name]())
    whole = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), composed))
    assert by_value == whole
    assert repr(by_value) == repr(whole), "1 is not true"


def test_configs_that_share_a_list_do_not_share_a_change() -> None:
    first, second = (validate_config(compose("config", ["model.filters=[4,8]"])) for _ in "ab")
    assert isinstance(first.model.filters, list)
    first.model.filters.append(16)
    assert second.model.filters == [4, 8]
