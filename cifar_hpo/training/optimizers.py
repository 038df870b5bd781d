"""Optimizers: Keras' own in fewer and faster operations, and Muon, which Keras has not for
convolutions."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """Keras' own in TensorFlow's one operation for it, which takes a third of the time; what all
    weights share is computed once a step."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, tf.float32)
        self._shared = (
            self.beta_1**step,
            self.beta_2**step,
            tf.convert_to_tensor(self.learning_rate),
        )
        super().apply(grads, trainable_variables)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        place = self._get_variable_index(variable)
        beta_1_power, beta_2_power, rate = self._shared
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=rate,
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
        self._rate = tf.convert_to_tensor(
            self.learning_rate
        )  # a tensor of the graph that is being traced, as is what Adam shares
        super().apply(grads, trainable_variables)

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,  # noqa: ARG002
    ) -> None:
        self._step(gradient, variable, self._rate)

    def _step(self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor) -> None:
        gradient = tf.cast(gradient, variable.dtype)
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=rate,
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


class Muon(SGD):
    """A convolution's kernel, as a matrix with a column for each filter, is kept at one size and
    takes steps in which all directions are equally long (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon); all other weights take those of SGD, others times as
    long."""

    ROUNDS, POLYNOMIAL = 3, (3.4445, -4.7750, 2.0315)

    def __init__(self, *, others: float, **options: Any) -> None:
        super().__init__(**options)
        self.others = others

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,  # noqa: ARG002
    ) -> None:
        if variable.shape.rank != 4:
            self._step(gradient, variable, self._rate * self.others)
            return
        gradient = tf.cast(gradient, variable.dtype)
        step = gradient
        if self.momentum:
            step = self.momentums[self._get_variable_index(variable)].value
            step.assign(step * self.momentum + gradient)
            step = gradient + self.momentum * step if self.nesterov else tf.convert_to_tensor(step)
        step = tf.reshape(
            self._orthogonal(tf.reshape(step, (-1, variable.shape[-1]))), variable.shape
        )
        size = variable.shape[-1] ** 0.5
        variable.assign(variable * (size / tf.norm(variable)) - self._rate * step)

    def _orthogonal(self, matrix: tf.Tensor) -> tf.Tensor:
        """One with about the same singular vectors whose singular values are all near 1, by Newton
        and Schulz."""
        wide = matrix.shape[0] < matrix.shape[1]
        matrix = matrix if wide else tf.transpose(matrix)
        matrix /= tf.norm(matrix) + 1e-7
        for _ in range(self.ROUNDS):
            square = tf.matmul(matrix, matrix, transpose_b=True)
            first, third, fifth = self.POLYNOMIAL
            matrix = first * matrix + tf.matmul(
                third * square + fifth * tf.matmul(square, square), matrix
            )
        return matrix if wide else tf.transpose(matrix)
