"""What Keras does not promise: every use of its private or undocumented parts, and one of
TensorFlow's, behind a name each.

tests/training/test_keras.py holds a test for each function, which says what a new version changed.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import config  # which alone can turn determinism off again

from cifar_hpo.training.signature import Signature

STOPPING_FIELDS = ("wait", "stopped_epoch", "best", "best_epoch")
"""The fields of EarlyStopping that change from epoch to epoch, beside its best weights."""


def seed_next_model(seed: int) -> None:
    """Let the layers that are made next draw their weights and dropout from a seed.

    Keras draws the seeds of all its initializers and generators from Python's `random`. Its own
    `set_random_seed` seeds TensorFlow too, which would then prepare cached graphs anew.
    """
    random.seed(seed)


def release_global_state() -> None:
    """Let go of what Keras keeps of earlier models: names of layers, and TensorFlow's kernels."""
    keras.utils.clear_session()


def set_determinism(*, is_on: bool) -> None:
    """Let TensorFlow's operations give the same bits each time, or be as fast as they can; from now
    on, in this process."""
    switch = config.enable_op_determinism if is_on else config.disable_op_determinism
    switch()


def create_variables(model: keras.Model, signature: Signature) -> None:
    """Make the variables of a compiled model's optimizers and metrics, which no graph may make.

    Keras makes those of the metrics when the first batch is scored.
    """
    if has_loss(model):
        image = tf.zeros((1, *signature.shape), signature.dtype)
        label = tf.zeros((1, *signature.label_shape), signature.label_dtype)
        model.test_step((image, label))
    for optimizer in optimizers(model):
        optimizer.build(model.trainable_variables)


def optimizers(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """A compiled model's own optimizer, and those that it has as attributes for a step of its
    own."""
    found = [model.optimizer]
    for value in vars(model).values():
        is_known = any(value is optimizer for optimizer in found)
        if isinstance(value, keras.optimizers.Optimizer) and not is_known:
            found.append(value)
    return found


def has_loss(model: keras.Model) -> bool:
    """Whether a compiled model can be scored by a loss: its own, or that of a step of its own."""
    has_own_step = type(model).test_step is not keras.Model.test_step
    has_own_loss = type(model).compute_loss is not keras.Model.compute_loss
    return model.loss is not None or has_own_step or has_own_loss


def training_variables(model: keras.Model) -> list[Any]:
    """All that a step of training changes: weights, random states, the optimizers' variables."""
    variables = list(model.variables)
    for optimizer in optimizers(model):
        variables += optimizer.variables
    return variables


ITERATORS_OF_FIT = 2
"""How often `fit` begins to read a tf.data.Dataset of which it trains one epoch."""

OWN_TRAINING = ("fit", "train_step", "make_train_function", "test_step", "make_test_function")
"""Methods of a model that are passed by where an epoch is one graph, unless they are Keras' own."""


def trains_itself(model: keras.Model) -> bool:
    """Whether a model has a way of its own to train or to be scored, which `fit` alone follows."""
    for name in OWN_TRAINING:
        own = name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
        if own:
            return True
    return False


def train_step(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> None:
    """One step of training on a batch, as `fit` does it; may be called while a graph is traced."""
    model.train_step((images, labels))


def score_step(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    probabilities: tf.Tensor,
    *,
    needs_loss: bool,
) -> None:
    """Update the model's metrics, and where it is needed its loss, by a batch's probabilities."""
    if needs_loss:
        loss = model.compute_loss(y=labels, y_pred=probabilities)
        loss_metric(model).update_state(loss, sample_weight=tf.shape(images)[0])
    model.compute_metrics(images, labels, probabilities)


def loss_metric(model: keras.Model) -> keras.metrics.Metric:
    """The mean of the loss that `train_step` keeps: the first of a compiled model's metrics."""
    return model.metrics[0]


def metric_directions(model: keras.Model) -> dict[str, str]:
    """Of a model's metrics, compiled ones and others, those of which Keras knows whether less is
    better, by their names: `minimize` or `maximize`, as its early stopping takes it."""
    metrics: list[Any] = []
    for metric in model.metrics:
        metrics += [metric, *getattr(metric, "metrics", [])]  # those of `compile` are in one
    directions = {}
    for metric in metrics:
        direction = getattr(metric, "_direction", None)
        if direction is not None:
            directions[str(metric.name)] = "maximize" if direction == "up" else "minimize"
    return directions


def test_step(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> dict[str, Any]:
    """A compiled model's own loss and metrics on a batch, as `evaluate` has them."""
    return dict(model.test_step((images, labels)))


def reset_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Put an optimizer at rest, as it is before its first step."""
    for variable in optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.dynamic_scale.assign(optimizer.initial_scale)


def handle(variable: Any) -> tf.Tensor:
    """The resource of a variable, for TensorFlow's operations that change it in place.

    A weight reaches an optimizer's `update_step` as TensorFlow's variable, while the optimizer's
    own variables are Keras'.
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    return variable.handle


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """The running means of a weight's gradient and of its square."""
    index = optimizer._get_variable_index(variable)  # noqa: SLF001
    return optimizer._momentums[index], optimizer._velocities[index]  # noqa: SLF001


def sgd_momentum(optimizer: keras.optimizers.SGD, variable: Any) -> Any:
    """The running sum of a weight's steps; exists where the optimizer has momentum."""
    return optimizer.momentums[optimizer._get_variable_index(variable)]  # noqa: SLF001


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The averages that `use_ema` keeps, in the order of the model's trainable variables."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return list(optimizer._model_variables_moving_average)  # noqa: SLF001


def random_state(dropout: keras.layers.Dropout) -> Any:
    """The variable (2,) from which a dropout layer draws, and which each draw changes."""
    return dropout.seed_generator.state


def saves_by_epoch(callback: keras.callbacks.Callback) -> bool:
    """Whether this is a ModelCheckpoint whose hook for batches does nothing."""
    is_checkpoint = isinstance(callback, keras.callbacks.ModelCheckpoint)
    return is_checkpoint and callback.save_freq == "epoch"


def stopping_state(stopping: keras.callbacks.EarlyStopping) -> dict[str, Any]:
    """Where early stopping stands, without its best weights; None for what has no value yet."""
    state = {}
    for name in STOPPING_FIELDS:
        state[name] = getattr(stopping, name, None)
    return state


def best_weights(stopping: keras.callbacks.EarlyStopping) -> list[NDArray[Any]]:
    """The weights of the best epoch so far; empty before the first epoch."""
    return list(stopping.best_weights or [])


def restore_stopping(
    stopping: keras.callbacks.EarlyStopping, state: dict[str, Any], best: list[NDArray[Any]]
) -> None:
    """Put early stopping where `stopping_state` and `best_weights` said that it was."""
    for name, value in state.items():
        setattr(stopping, name, value)
    stopping.best_weights = best or None
