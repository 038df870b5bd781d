"""Optimizers in fewer and faster operations than Keras' own, and Muon.

`Adam`, `AdamW` and `SGD` do what Keras' do; `Muon` is one that Keras has not for convolutions.
`fast_optimizer` and `keras_optimizer` make one from a config.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from cifar_hpo.config import app
from cifar_hpo.training import _keras


class Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it, which takes a third of the time.

    What all weights share is computed once a step.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, tf.float32)
        # Tensors of the graph that is being traced, for the `update_step`s of this step.
        self._beta_1_power = self.beta_1**step
        self._beta_2_power = self.beta_2**step
        self._rate = tf.convert_to_tensor(self.learning_rate)
        super().apply(grads, trainable_variables)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum, velocity = _keras.adam_moments(self, variable)
        tf.raw_ops.ResourceApplyAdam(
            var=_keras.handle(variable),
            m=_keras.handle(momentum),
            v=_keras.handle(velocity),
            beta1_power=self._beta_1_power,
            beta2_power=self._beta_2_power,
            lr=self._rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class AdamW(Adam, keras.optimizers.AdamW):  # type: ignore[misc]
    """The same with Keras' decay of the weights, which comes before the step."""


class SGD(keras.optimizers.SGD):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        # A tensor of the graph that is being traced, as in Adam.
        self._rate = tf.convert_to_tensor(self.learning_rate)
        super().apply(grads, trainable_variables)

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,  # noqa: ARG002  Keras gives it
    ) -> None:
        self._take_step(gradient, variable, self._rate)

    def _take_step(self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor) -> None:
        weight = _keras.handle(variable)
        gradient = tf.cast(gradient, variable.dtype)
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=weight, alpha=rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=weight,
            accum=_keras.handle(_keras.sgd_momentum(self, variable)),
            lr=rate,
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


class Muon(SGD):
    """Steps of a convolution's kernel that are equally long in all directions.

    The kernel is taken as a matrix with a column for each filter, and is kept at one size (Jordan
    et al. 2024, kellerjordan.github.io/posts/muon). All other weights take SGD's steps.

    other_weights_lr_scale: the step size of these, times that of kernels.
    """

    NEWTON_SCHULZ_STEPS = 3
    NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(self, *, other_weights_lr_scale: float, **options: Any) -> None:
        super().__init__(**options)
        self.other_weights_lr_scale = other_weights_lr_scale

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,  # noqa: ARG002  Keras gives it
    ) -> None:
        is_kernel = variable.shape.rank == 4
        if not is_kernel:
            self._take_step(gradient, variable, self._rate * self.other_weights_lr_scale)
            return
        filters = variable.shape[-1]
        step = self._with_momentum(tf.cast(gradient, variable.dtype), variable)
        step = tf.reshape(step, (-1, filters))  # (h·w·channels, filters)
        step = tf.reshape(self._orthogonal(step), variable.shape)  # (h, w, channels, filters)
        scale = filters**0.5 / tf.norm(variable)
        variable.assign(variable * scale - self._rate * step)

    def _with_momentum(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """The running sum of a kernel's gradients, which is updated; the gradient without one."""
        if not self.momentum:
            return gradient
        total = _keras.sgd_momentum(self, variable).value
        total.assign(total * self.momentum + gradient)
        if self.nesterov:
            return gradient + self.momentum * total
        return tf.convert_to_tensor(total)

    def _orthogonal(self, matrix: tf.Tensor) -> tf.Tensor:
        """A matrix with about the same singular vectors and singular values all near 1.

        By the iteration of Newton and Schulz, on the side that has fewer rows.
        """
        is_wide = matrix.shape[0] < matrix.shape[1]
        if not is_wide:
            matrix = tf.transpose(matrix)
        first, third, fifth = self.NEWTON_SCHULZ_COEFFICIENTS
        matrix /= tf.norm(matrix) + 1e-7
        for _ in range(self.NEWTON_SCHULZ_STEPS):
            square = tf.matmul(matrix, matrix, transpose_b=True)
            polynomial = third * square + fifth * tf.matmul(square, square)
            matrix = first * matrix + tf.matmul(polynomial, matrix)
        return matrix if is_wide else tf.transpose(matrix)


FAST: dict[type, Any] = {app.Adam: Adam, app.AdamW: AdamW, app.SGD: SGD, app.Muon: Muon}
"""The optimizers here, by the class of their keys."""


def keras_optimizer(config: app.Config) -> keras.optimizers.Optimizer:
    """Keras' own; for Muon SGD, which takes the steps of its other weights."""
    kind = getattr(keras.optimizers, config.optimizer.KERAS)
    options = _options(config)
    options.pop("others", None)  # Muon's
    return _with_scaled_loss(kind(**options), config)


def fast_optimizer(config: app.Config) -> keras.optimizers.Optimizer:
    """The one of this module that does the same faster, Keras' own where there is none."""
    kind = FAST.get(type(config.optimizer))
    if kind is None:
        return keras_optimizer(config)
    options = _options(config)
    if isinstance(config.optimizer, app.Muon):
        options["other_weights_lr_scale"] = options.pop("others")
    return _with_scaled_loss(kind(**options), config)


def _with_scaled_loss(
    optimizer: keras.optimizers.Optimizer, config: app.Config
) -> keras.optimizers.Optimizer:
    """The same in float16 with a loss that is scaled, without which small gradients are 0.

    Keras does so by itself when a model is compiled, but not when it is loaded and the precision of
    that process is another.
    """
    if config.training.precision != app.FLOAT16:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def _options(config: app.Config) -> dict[str, Any]:
    """The config's keys as arguments of an optimizer, with the averaging of weights."""
    options = dict(vars(config.optimizer))
    del options["name"]
    if isinstance(config.optimizer, app.SGD) and not options["weight_decay"]:
        del options["weight_decay"]  # Keras would take nothing off each weight in each step
    if config.training.weight_averaging:
        options["use_ema"] = True
        options["ema_momentum"] = config.training.weight_averaging
    return options
