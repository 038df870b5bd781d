"""What a training's config may be: `validate_config` turns a composed one into a typed `Config`, or
raises ConfigError; `validate_for_data` and `validate_for_streams` hold it against the images at
hand. Nothing heavy is imported."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from cifar_hpo.config.app import (
    CIFAR10_SHAPE,
    CIFAR10_SOURCES,
    KERAS_SETS,
    SHIFT,
    Config,
    Data,
    Model,
    Shape,
    Training,
    size_in_epoch,
)
from cifar_hpo.config.fields import check_values, without_hydra
from cifar_hpo.config.secrets import refuse_secrets_and_calls
from cifar_hpo.config.tags import validate_tags
from cifar_hpo.config.typed import to_typed, without_function
from cifar_hpo.errors import ConfigError
from cifar_hpo.trust import TARGET, Call


def validate_config(config: DictConfig) -> Config:
    """The typed form of a composed config; its `hydra` section is left out.

    Raises ConfigError for the first wrong key, type, range or combination.
    """
    config = without_hydra(config)
    refuse_secrets_and_calls(config)
    config, function = without_function(config)
    typed = to_typed(config)
    typed.data.call = function
    for field in dataclasses.fields(typed):
        section = getattr(typed, field.name)
        if not isinstance(section, Call):
            _validate_section(field.name, section, config[field.name])
    if isinstance(typed.model, Model):
        if typed.data.source in CIFAR10_SOURCES:
            _validate_sizes(typed.model, CIFAR10_SHAPE)
        _validate_residual(typed.model)
    _validate_folds(typed)
    _validate_data(typed.data)
    validate_tags(typed.mlflow.tags, typed.mlflow.note)
    _validate_tensorboard(typed.training)
    _validate_extension(typed.training)
    if isinstance(typed.model, Call) and typed.training.initial_scale < 1:
        problem = "a model of your own may take images of one size alone; set it to 1"
        raise ConfigError("training.initial_scale", problem)
    typed.training.callbacks = _parsed_callbacks(typed.training.callbacks)
    return typed


def _validate_section(path: str, section: Any, given: Any) -> None:
    """Raise ConfigError for the first value of a section that its key does not allow.

    given: the same section of the composed config, before its values were converted.
    """
    if section is None:
        raise ConfigError(path, "null; choose one of its group, see --help")
    values = vars(section)
    check_values(path, type(section), values)
    for name, value in values.items():
        # OmegaConf takes any number for a truth value.
        if isinstance(value, bool) and not isinstance(given[name], bool):
            raise ConfigError(f"{path}.{name}", f"{given[name]!r} is neither true nor false")


def _validate_extension(training: Training) -> None:
    """Raise ConfigError for what ends with the last epoch, behind which no training goes on."""
    asked = [name for name in ("keep_checkpoint", "extend") if getattr(training, name)]
    if not asked:
        return
    path = f"training.{asked[0]}"
    if training.schedule != "constant":
        problem = f"with training.schedule={training.schedule} the last epoch is the end of it"
        raise ConfigError(path, f"{problem}; constant alone can go on")
    if training.initial_scale < 1:
        problem = f"with training.initial_scale={training.initial_scale:g} images grow to the end"
        raise ConfigError(path, f"{problem}; those of one size can go on")


def _validate_tensorboard(training: Training) -> None:
    if training.tensorboard and not importlib.util.find_spec("tensorboard"):
        problem = "needs tensorboard, which is not installed; pip install 'cifar_hpo[tensorboard]'"
        raise ConfigError("training.tensorboard", problem)


def _parsed_callbacks(callbacks: Sequence[Any]) -> list[Call]:
    """Each as a call; that its target may be called was seen before."""
    calls = []
    for place, node in enumerate(callbacks):
        if not isinstance(node, dict) or not isinstance(node.get(TARGET), str):
            problem = f"{node!r} is no callback; write {{{TARGET}: my_callbacks.Plot}}"
            raise ConfigError(f"training.callbacks[{place}]", problem)
        calls.append(Call.parse(node))
    return calls


def _validate_sizes(model: Model, shape: Shape) -> None:
    """Walk an image through the layers: valid convolutions and pooling shrink it.

    Raises ConfigError where no pixels are left.
    """
    for number, layer in enumerate(model.layers(shape), start=1):
        if min(*layer.size, *layer.pooled_size) < 1:
            problem = (
                f"layer {number} has no pixels left: lower model.depth or model.kernel_size, or "
                "pad same"
            )
            raise ConfigError("model", problem)


def validate_for_data(config: Config, shape: Shape, *, has_numbers: bool) -> None:
    """Hold a config against the data at hand: images of a shape, whose labels may be numbers.

    Raises ConfigError for what does not fit.
    """
    if isinstance(config.model, Model):
        _validate_sizes(config.model, shape)
        _validate_growth(config, shape)
        if config.model.shift and min(shape[:2]) < 2:
            problem = f"images of {shape[0]}×{shape[1]} pixels have no edge to mirror"
            raise ConfigError("model.shift", problem)
    height, width, _ = shape
    if "shift" in config.data.augment and min(height, width) <= SHIFT:
        problem = f"shift moves images by up to {SHIFT} pixels, and these have {height}×{width}"
        raise ConfigError("data.augment", problem)
    if has_numbers and config.training.label_smoothing:
        problem = "these labels are numbers, which nothing can be taken off; set it to 0"
        raise ConfigError("training.label_smoothing", problem)
    metric = config.training.early_stopping_metric
    known = ("val_loss", "val_mae") if has_numbers else ("val_loss", "val_accuracy")
    if config.training.early_stopping and metric not in known:
        problem = f"there is no {metric} with these labels; there is {', '.join(known)}"
        raise ConfigError("training.early_stopping_metric", problem)


def _validate_growth(config: Config, shape: Shape) -> None:
    """Raise ConfigError where images can't be as small at first as they are to be."""
    path, training = "training.initial_scale", config.training
    if training.initial_scale == 1:
        return
    if config.model.global_pooling == "none":
        problem = "the dense layer reads images of one size; choose model.global_pooling"
        raise ConfigError(path, problem)
    height, width = size_in_epoch(shape[:2], training.initial_scale, 0, training.epochs)
    try:
        _validate_sizes(config.model, (height, width, shape[2]))
    except ConfigError:
        problem = f"of {height}×{width} pixels at first the layers leave none; raise it"
        raise ConfigError(path, problem) from None


def validate_for_streams(config: Config) -> None:
    """Raise ConfigError for what can't be done with data that comes as streams."""
    if config.data.augment:
        problem = "data that comes as streams is changed by its own map; leave it empty"
        raise ConfigError("data.augment", problem)
    if isinstance(config.model, Model) and config.model.whitening:
        problem = "data that comes as streams shows no images beforehand; set it to false"
        raise ConfigError("model.whitening", problem)
    refuse_with_fit(config, "data comes as streams")


def refuse_with_fit(config: Config, reason: str) -> None:
    """Raise ConfigError for what Keras' `fit` can't do. reason: why it has to train."""
    if config.training.initial_scale < 1:
        problem = f"{reason}, so Keras' fit trains, for which images have one size; set it to 1"
        raise ConfigError("training.initial_scale", problem)
    if config.training.weight_averaging:
        problem = f"{reason}, so Keras' fit trains, which has no average to evaluate; set it to 0"
        raise ConfigError("training.weight_averaging", problem)


def _validate_residual(model: Model) -> None:
    """A residual stage needs two convolutions or more, which keep the image's size."""
    if not model.residual:
        return
    if model.convolutions == 1:
        problem = (
            "with one convolution of each width there is nothing to add; set "
            "model.convolutions=2 or more"
        )
        raise ConfigError("model.residual", problem)
    if model.padding == "valid":
        problem = "what is added must be of one size: set model.padding=same"
        raise ConfigError("model.residual", problem)


def _validate_data(data: Data) -> None:
    """Keys that belong to one source alone."""
    if data.source == "keras" and data.name is None:
        problem = f"null; data=keras needs one of {', '.join(KERAS_SETS)}"
        raise ConfigError("data.name", problem)
    if data.source != "keras" and data.name is not None:
        raise ConfigError("data.name", f"{data.name!r} is one of Keras' own sets; set data=keras")
    if {"flip", "alternating_flip"} <= set(data.augment):
        problem = "flip and alternating_flip are two ways to flip; take one"
        raise ConfigError("data.augment", problem)


def _validate_folds(config: Config) -> None:
    """Folds are of the training images, and each replica takes the next one."""
    if config.data.folds is None:
        return
    if config.data.validation == "test":
        problem = "with data.validation=test nothing is divided; leave one of them out"
        raise ConfigError("data.folds", problem)
    if config.training.replicas == 1:
        wanted = f"set training.replicas={config.data.folds}, or data.split_seed for another split"
        problem = (
            "replica r of a trial is validated on fold r, so that one would see the first alone, "
            "as would each seed of training.seed and of hydra.sweeper.replicas"
        )
        raise ConfigError("data.folds", f"{problem}; {wanted}")
