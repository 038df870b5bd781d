"""Models of the user's: the config has a `Call`, which gives a Keras model.

`build_called` calls it, a `CalledNetwork` trains what it gives, and `examine` finds what is wrong
with it before a worker starts.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo import trust
from cifar_hpo.config.app import Config
from cifar_hpo.data.labels import CLASSES, NUMBERS
from cifar_hpo.errors import ConfigError, named_line
from cifar_hpo.metrics import likely_direction
from cifar_hpo.training import _keras, replicas
from cifar_hpo.training.compiled import Network, compile_by_keras, set_precision
from cifar_hpo.training.signature import Signature
from cifar_hpo.trust import TARGET, Call

MODEL = "model"
"""The path of the call in the config."""

SHAPE_NAMES = ("shape", "input_shape")
OUTPUTS_NAMES = ("classes", "num_classes", "outputs")
"""Arguments that say what the data is like; a function is given the first that it takes."""

MAX_CAUSE = 300
"""Characters of what a function raised; Keras lists all arguments of the layer at fault."""


def build_called(wanted: Call, signature: Signature, seed: int) -> keras.Model:
    """The model that a call gives for data of this signature; weights are drawn from the seed.

    Besides its own arguments a function is given the images' shape (h, w, c) and the number of
    outputs, by the names that it takes; one with `**` takes `shape` and `classes`, a class takes
    what it names alone. Raises ConfigError where it raises, or gives no Keras model.
    """
    function = trust.resolve(f"{MODEL}.{TARGET}", wanted.target)
    given = _given(function, wanted, signature)
    _refuse_arguments(function, wanted, given)
    keras.utils.set_random_seed(seed)
    try:
        model = trust.call(MODEL, wanted, **given)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(MODEL, f"{wanted.target} raised {_cause(error, function)}") from error
    if not isinstance(model, keras.Model):
        problem = f"{wanted.target} gives a {type(model).__name__}, which is no Keras model"
        raise ConfigError(MODEL, problem)
    return model


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Those of a function or class; empty where nobody can say."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def _given(function: Callable[..., Any], wanted: Call, signature: Signature) -> dict[str, Any]:
    """What a function is told of the data, where the config does not say it."""
    parameters = _parameters(function)
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds and not isinstance(function, type)
    given: dict[str, Any] = {}
    told = ((SHAPE_NAMES, signature.shape), (OUTPUTS_NAMES, signature.outputs))
    for names, value in told:
        taken = [name for name in names if name in parameters]
        if not taken and takes_all:
            taken = [names[0]]
        if taken and taken[0] not in wanted.arguments:
            given[taken[0]] = value
    return given


def _refuse_arguments(function: Callable[..., Any], wanted: Call, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that a function does not take, or one that it lacks."""
    parameters = _parameters(function)
    if not parameters:
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    for name in wanted.arguments:
        if name not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            problem = f"{wanted.target} has no such argument; it has {', '.join(parameters)}"
            raise ConfigError(f"{MODEL}.{name}", problem)
    for name, parameter in parameters.items():
        is_needed = parameter.default is inspect.Parameter.empty and parameter.kind in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        if is_needed and name not in wanted.arguments and name not in given:
            raise ConfigError(f"{MODEL}.{name}", f"missing: {wanted.target} needs it")


def _cause(error: Exception, function: Callable[..., Any]) -> str:
    """What a function raised, and where in its own file."""
    cause = named_line(error, MAX_CAUSE)
    try:
        file = inspect.getfile(function)
    except TypeError:
        return cause
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    name = file.rpartition("/")[2]
    return f"{cause} ({name}, line {lines[-1]})" if lines else cause


class CalledNetwork(Network):
    """A network of one replica whose model the user's code gives.

    One that comes compiled keeps its optimizer, its loss and its metrics; accuracy, or the mean
    absolute error, of the validation images is added where it has none of this name.
    """

    def _compiled(self) -> keras.Model:
        # Beside what the model itself keeps; the graphs are made for this one.
        self._own = replicas.metrics(self.signature.labels, 1, with_loss=False)[0]
        return self._built(seed=0)

    def _built(self, seed: int) -> keras.Model:
        """A model before its first step, with all of its variables."""
        set_precision(self.config)
        model = build_called(self.config.model, self.signature, seed)
        self._is_compiled = bool(model.compiled)
        self.by_fit = self.by_fit or _keras.trains_itself(model)
        if not self._is_compiled:
            model(tf.zeros((1, *self.signature.shape), self.signature.dtype), training=False)
            self._compile(model)
        _keras.create_variables(model, self.signature)
        return model

    @property
    def has_own_loss(self) -> bool:
        return self._is_compiled and _keras.has_loss(self.model)

    @property
    def keeps_loss(self) -> bool:
        """Only a loss of its own: what Keras keeps has the penalties of the model's layers in it,
        by which models can't be compared."""
        return self._is_compiled

    def own_directions(self, names: Iterable[str]) -> Mapping[str, str]:
        return _directions(self.model, names) if self._is_compiled else {}

    @property
    def schedule(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        return None if self._is_compiled else super().schedule

    def reset(self, learning_rate: float, seeds: Sequence[int], images: Any) -> None:  # noqa: ARG002
        """As a model that was just built with the first seed."""
        initial = self._built(seeds[0])
        variables = _keras.training_variables(self.model)
        for variable, value in zip(variables, _keras.training_variables(initial), strict=True):
            variable.assign(value)
        if not self._is_compiled:
            self.model.optimizer.learning_rate.assign(learning_rate)
        self._peak = tf.constant(learning_rate)

    def swap_averaged_weights(self) -> None:
        if not self._is_compiled:
            super().swap_averaged_weights()

    def score(self, images: tf.Tensor, labels: tf.Tensor) -> list[dict[str, float]]:
        self._own.reset_state()
        (values,) = super().score(images, labels)
        if self._is_compiled and not self.by_fit:
            values.setdefault(self.signature.kind.metric, float(self._own.result()[0]))
        return [values]

    def _update_scores(self, images: tf.Tensor, labels: tf.Tensor, outputs: tf.Tensor) -> None:
        super()._update_scores(images, labels, outputs)
        if self._is_compiled:
            self._own.update_state(labels, outputs)

    def _metrics(self) -> list[dict[str, float]]:
        if not self._is_compiled:
            return super()._metrics()
        results = self.model.get_metrics_result()
        return [{name: float(value) for name, value in results.items() if np.ndim(value) == 0}]

    def _outputs(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.model(images, training=False), tf.float32)


def keras_model(config: Config, signature: Signature) -> keras.Model:
    """A fresh compiled model of the user's, for its `fit` and for whoever loads it."""
    set_precision(config)
    model = build_called(config.model, signature, seed=0)
    model(tf.zeros((1, *signature.shape), signature.dtype), training=False)
    if not model.compiled:
        compile_by_keras(model, config, signature)
    return model


def export_graph(model: keras.Model, signature: Signature, folder: Path) -> None:
    """Write a model that was called before as TensorFlow's SavedModel, which needs no code of the
    user's.

    Its endpoint `serve` takes images (n, h, w, c) of the signature's dtype and gives the float32
    numbers (n, k) of `predict`.
    """

    def serve(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(images, training=False), tf.float32)

    images = keras.InputSpec(shape=(None, *signature.shape), dtype=signature.dtype)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [images])
    archive.write_out(str(folder), verbose=False)


@dataclass(frozen=True)
class Examined:
    """What is known of a user's model before it is trained.

    parameters: its weights. is_compiled: whether it came so. by_fit: whether it trains in a way of
    its own. layers: its config, as JSON can hold it; None where it has none, so that it can't be
    kept. metrics: those that it was compiled with, by the names that they have on training images,
    with the direction in which each is better.
    """

    parameters: int
    is_compiled: bool
    by_fit: bool
    layers: Any
    metrics: Mapping[str, str]


def examine(
    config: Config, signature: Signature, images: NDArray[Any], labels: NDArray[Any]
) -> Examined:
    """Build a user's model, and try it on a few images (n, h, w, c) and their labels.

    Raises ConfigError for what is wrong with it.
    """
    _share_gpus()
    target = config.model.target
    function = trust.resolve(f"{MODEL}.{TARGET}", target)
    set_precision(config)
    model = build_called(config.model, signature, config.training.seed)
    images = tf.constant(np.asarray(images))
    labels = np.asarray(labels).reshape(-1, *signature.label_shape)
    labels = tf.constant(labels.astype(signature.label_dtype))
    try:
        outputs = model(images, training=False)
    except Exception as error:
        problem = f"{target} takes no images {_shape(images)} of {signature.dtype}"
        raise ConfigError(MODEL, f"{problem}: {_cause(error, function)}") from error
    _refuse_outputs(target, signature, outputs)
    is_compiled, by_fit = bool(model.compiled), _keras.trains_itself(model)
    metrics: Mapping[str, str] = {}
    try:
        if not is_compiled:
            compile_by_keras(model, config, signature)
        _keras.create_variables(model, signature)
        if by_fit:
            _keras.train_step(model, images, labels)
        else:
            loss = model.compute_loss(images, labels, outputs, training=False)
            assert np.ndim(loss) == 0
        if is_compiled and _keras.has_loss(model):
            values = _keras.test_step(model, images, labels)
            logged = [name for name, value in values.items() if np.ndim(value) == 0]
            metrics = _directions(model, logged)
    except Exception as error:
        problem = f"{target} can't be trained on labels {_shape(labels)}"
        raise ConfigError(MODEL, f"{problem}: {_cause(error, function)}") from error
    return Examined(model.count_params(), is_compiled, by_fit, _layers(model), metrics)


def _directions(model: keras.Model, names: Iterable[str]) -> dict[str, str]:
    """Which way of a compiled model's metrics is better, by their names.

    Where Keras does not know it, as of a function of the user's, it is what the name says.
    """
    known = _keras.metric_directions(model)
    return {name: known.get(name) or likely_direction(name) for name in names}


def _share_gpus() -> None:
    """Take no more of the GPUs' memory than is needed: most of it is for those that train."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # it is in use
            tf.config.experimental.set_memory_growth(gpu, True)


def _shape(array: Any) -> str:
    return f"({', '.join(map(str, ['n', *array.shape[1:]]))})"


def _refuse_outputs(target: str, signature: Signature, outputs: Any) -> None:
    """Raise ConfigError for what are no outputs (n, k), or for classes and labels no
    probabilities."""
    wanted = f"expected (n, {signature.outputs}), {signature.kind.outputs}"
    if not tf.is_tensor(outputs):
        raise ConfigError(MODEL, f"{target} gives a {type(outputs).__name__}; {wanted}")
    if outputs.shape.rank != 2 or outputs.shape[1] != signature.outputs:
        raise ConfigError(MODEL, f"{target} gives {_shape(outputs)}; {wanted}")
    values = tf.cast(outputs, tf.float32).numpy()
    if signature.labels == NUMBERS or not np.isfinite(values).all():
        return
    is_share = bool((values >= -TOLERANCE).all() and (values <= 1 + TOLERANCE).all())
    is_sum = signature.labels != CLASSES or np.allclose(values.sum(axis=1), 1, atol=TOLERANCE)
    if not (is_share and is_sum):
        last = signature.kind.activation
        problem = f"{target} gives no probabilities, but {values[0, 0]:.3g} and the like"
        raise ConfigError(MODEL, f"{problem}; end it with a {last}")


TOLERANCE = 0.02
"""By which probabilities may miss 1: those of bfloat16 have eight bits."""


def _layers(model: keras.Model) -> Any:
    """A model's config as it is saved; None where it can't be."""
    try:
        return json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except Exception:  # noqa: BLE001  it is the model's own code
        return None
