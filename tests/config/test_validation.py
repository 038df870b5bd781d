"""What a training's config may be: the first wrong value is refused, with its path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hydra import compose

from cifar_hpo import trust
from cifar_hpo.config.validation import validate_config, validate_for_data, validate_for_streams
from cifar_hpo.errors import ConfigError
from cifar_hpo.trust import Call

pytestmark = pytest.mark.usefixtures("composing")


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.global_pooling=none"], "the dense layer reads images of one size"),
        (["training.keep_checkpoint=true"], "keep_checkpoint: with training.initial_scale=0.5 im"),
        (["model.depth=3", "model.padding=valid"], "of 16×16 pixels at first the layers leave"),
    ],
)
def test_images_grow_where_a_training_can_have_them_of_any_size(
    overrides: list[str], message: str
) -> None:
    growing = ["training.initial_scale=0.5", "model.global_pooling=max", "model.kernel_size=3"]
    validate_for_data(validate_config(compose("config", growing)), (32, 32, 3), has_numbers=False)
    with pytest.raises(ConfigError, match=message):
        validate_for_data(
            validate_config(compose("config", [*growing, *overrides])),
            (32, 32, 3),
            has_numbers=False,
        )


def test_a_model_of_the_user_s_has_images_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["keras"]\n')
    monkeypatch.chdir(tmp_path)
    trust.allowed_prefixes.cache_clear()
    request.addfinalizer(trust.allowed_prefixes.cache_clear)
    model = ["~model", "+model={_target_: keras.Sequential}"]
    with pytest.raises(ConfigError, match="initial_scale: a model of your own may take"):
        validate_config(compose("config", [*model, "training.initial_scale=0.5"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.initial_scale=0.5", "model.global_pooling=max"],
            "training.initial_scale: data comes as streams",
        ),
        (["model.whitening=true"], "model.whitening: data that comes as streams shows no images"),
    ],
)
def test_streams_have_no_images_beforehand_and_all_of_one_size(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_for_streams(validate_config(compose("config", overrides)))


def test_a_section_that_is_null_is_refused() -> None:
    composed = compose("config")
    composed.model = None
    with pytest.raises(ConfigError, match="model: null; choose one of its group"):
        validate_config(composed)


def test_a_shift_needs_an_edge_to_mirror() -> None:
    overrides = ["model.shift=true", "model.depth=1", "model.kernel_size=1"]
    checked = validate_config(compose("config", overrides))
    validate_for_data(checked, (2, 2, 1), has_numbers=False)
    with pytest.raises(ConfigError, match="shift: images of 8×1 pixels have no edge to mirror"):
        validate_for_data(checked, (8, 1, 1), has_numbers=False)


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
