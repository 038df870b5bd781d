"""What Keras does not promise: every use of its private or undocumented parts, behind a name each.

tests/training/test_keras.py holds a test for each function, which says what a new version changed.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray

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


def create_variables(model: keras.Model) -> None:
    """Make the variables of a compiled model's optimizer and metrics, which no graph may make.

    Keras makes those of the metrics when the first batch is scored.
    """
    model.optimizer.build(model.trainable_variables)
    image = tf.zeros((1, *model.input_shape[1:]), tf.uint8)
    label = tf.zeros((1,), tf.int32)
    model.test_step((image, label))


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
    return list(optimizer._model_variables_moving_average)  # noqa: SLF001


def random_state(dropout: keras.layers.Dropout) -> Any:
    """The variable (2,) from which a dropout layer draws, and which each draw changes."""
    return dropout.seed_generator.state


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
