"""The fast path: a `Network` is a compiled Keras model with an epoch of it as one graph.

A loop inside the graph calls Keras' own `train_step` for each batch, so Python is entered once an
epoch; losses, metrics and optimizers are Keras', or do the same faster. Several replicas train as
one model (see `replicas`). A model that trains in a way of its own, or on a stream, is left to
Keras' `fit` (see `fitting`).

What is random in an epoch follows from its number and the state of the dropout layers, so a
training that goes on from a checkpoint equals one that was never interrupted; and replicas see the
same batches, alone or fused. That the order is no part of the spread over seeds costs little: by
Summers and Dinneen (2021, arXiv 2103.04514) any one source of randomness spreads results as far as
all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config.app import Config, Size, size_in_epoch
from cifar_hpo.training import _keras, devices, fitting, layers, optimizers, replicas
from cifar_hpo.training.augmentation import resized
from cifar_hpo.training.fitting import EVAL_BATCH, batch_of
from cifar_hpo.training.model import (
    WHITENING_IMAGES,
    build,
    mean_over_views,
    pass_channels_on,
    whitening_weights,
    with_tta,
)
from cifar_hpo.training.replicas import Weights
from cifar_hpo.training.schedules import SCHEDULES
from cifar_hpo.training.signature import Signature, scores

# It warns of the graphs of different networks as of one that is traced again and again.
tf.get_logger().setLevel("ERROR")


def keras_model(config: Config, signature: Signature) -> keras.Model:
    """A fresh compiled model of Keras' own parts, for its `fit` and for whoever loads it.

    One with model.mirror or model.shift is for predictions alone, and one of Muon, which Keras has
    not for convolutions, would go on by SGD.
    """
    set_precision(config)
    model = build(config.model, signature)
    if config.model.mirror or config.model.shift:
        model = with_tta(model, config.model)
    compile_by_keras(model, config, signature)
    return model


def compile_by_keras(model: keras.Model, config: Config, signature: Signature) -> None:
    """Compile a model with Keras' own optimizer, loss and metric of the config and the labels."""
    kind = signature.kind
    model.compile(
        optimizers.keras_optimizer(config),
        kind.loss,
        metrics=[kind.keras_metric()],
        jit_compile=False,
    )


def set_precision(config: Config) -> None:
    """Let Keras build layers of the config's precision; of float32 where bfloat16 can't be had."""
    precision = devices.computed_precision(config.training.precision)
    keras.mixed_precision.set_dtype_policy(precision)


class Network:
    """A compiled model of one or several replicas with graphs that train, score and predict.

    model: from images (n, h, w, c) to outputs (n, k), or (n, replicas, k); the outputs are
    probabilities unless labels are numbers. by_fit: whether Keras' `fit` trains it, which it does
    for one replica alone.
    """

    def __init__(
        self, config: Config, signature: Signature, replica_count: int, *, by_fit: bool = False
    ) -> None:
        _keras.release_global_state()
        self.config = config
        self.signature = signature
        self.replica_count = replica_count
        self.by_fit = by_fit
        # In any number, so that one graph serves all.
        self._images = tf.TensorSpec((None, *signature.shape), signature.dtype)
        self._labels = tf.TensorSpec((None, *signature.label_shape), signature.label_dtype)
        self.model = self._compiled()
        self._fits: dict[Size, Callable[..., None]] = {}  # by the size of images in a step
        self._score = self._score_graph()
        self._predict = tf.function(self._outputs, input_signature=[self._images])
        self._peak = tf.constant(0.0)

    @property
    def has_own_loss(self) -> bool:
        """Whether the model came with a loss of its own, which counts in the place of ours."""
        return False

    @property
    def keeps_loss(self) -> bool:
        """Whether the mean of the loss that Keras keeps is the one that is compared."""
        smoothing = self.config.training.label_smoothing
        return replicas.keras_loss_is_the_loss(self.replica_count, smoothing)

    def own_directions(self, names: Iterable[str]) -> Mapping[str, str]:  # noqa: ARG002
        """Which way of these metrics is better, by their names, where the model came with metrics:
        `minimize` or `maximize`; empty where it did not."""
        return {}

    def _compiled(self) -> keras.Model:
        set_precision(self.config)
        is_growing = self.config.training.initial_scale < 1
        model = build(self.config.model, self.signature, self.replica_count, any_size=is_growing)
        self._compile(model)
        _keras.create_variables(model, self.signature)
        return model

    def _compile(self, model: keras.Model) -> None:
        """With our optimizers, losses and metrics, which do what Keras' do, faster or for each
        replica."""
        labels = self.signature.labels
        if self.by_fit:
            metrics = replicas.plain_metrics(labels)
        else:
            with_loss = not self.keeps_loss
            metrics = replicas.metrics(labels, self.replica_count, with_loss=with_loss)
        model.compile(
            optimizers.fast_optimizer(self.config),
            replicas.PerImage(replicas.loss(labels, self.config.training.label_smoothing)),
            metrics=metrics,
            jit_compile=False,
        )

    def reset(self, learning_rate: float, seeds: Sequence[int], images: tf.Tensor | None) -> None:
        """Put everything where it is before the first step.

        Weights and dropout are as each replica's seed draws them, the optimizer is at rest.
        """
        set_precision(self.config)
        initial_models = self._initial_models(seeds, images)
        weights = [model.get_weights() for model in initial_models]
        self.model.set_weights(replicas.stack_replicas(weights))
        self._copy_random_states(initial_models)
        _keras.reset_optimizer(self.model.optimizer)
        self.model.optimizer.learning_rate.assign(learning_rate)
        self._peak = tf.constant(learning_rate)

    def _initial_models(self, seeds: Sequence[int], images: tf.Tensor | None) -> list[keras.Model]:
        """A model of Keras' own layers for each seed."""
        models = []
        for seed in seeds:
            _keras.seed_next_model(seed)
            models.append(build(self.config.model, self.signature))
        if self.config.model.dirac:
            for model in models:
                pass_channels_on(model)
        if self.config.model.whitening and images is not None:
            weights = whitening_weights(images[:WHITENING_IMAGES].numpy())
            for model in models:
                model.get_layer("whitening").set_weights(weights)
        return models

    def _copy_random_states(self, models: Sequence[keras.Model]) -> None:
        """From the dropout layers of each replica's own model."""
        initial_states: list[Any] = []
        states_by_model = [layers.random_states(model) for model in models]
        for states_of_layer in zip(*states_by_model, strict=True):
            initial_states.extend(states_of_layer)
        states = layers.random_states(self.model)
        for state, initial_state in zip(states, initial_states, strict=True):
            state.assign(initial_state)

    def fit(
        self, images: tf.Tensor, labels: tf.Tensor, epoch: int, epochs: int
    ) -> list[dict[str, float]]:
        """Train on all images once; loss and metric of each replica, by their names.

        images: (n, h, w, c). labels: (n,), whole numbers of any type, or (n, k) where they are no
        classes. epoch: from 0, which decides the order of the images and their augmentation.
        epochs: of the whole training, for the schedule.
        """
        if self.by_fit:
            training = self.config.training
            batches = fitting.shuffled_batches(
                images, labels, epoch, training.batch_size, self.config.data.augment
            )
            return self.fit_batches(batches, len(batches), epoch, epochs)
        self.model.reset_metrics()
        labels = tf.cast(labels, self._labels.dtype)
        fit = self._fit_graph(self._size_in_epoch(epoch, epochs))
        fit(images, labels, tf.constant(epoch), tf.constant(epochs), self._peak)
        return self._metrics()

    def score(self, images: tf.Tensor, labels: tf.Tensor) -> list[dict[str, float]]:
        """Loss and metric of each replica, on images and labels as `fit` takes them."""
        if self.by_fit:
            return self.scores(self.predict(images), images, np.asarray(labels))
        self.model.reset_metrics()
        self._score(images, tf.cast(labels, self._labels.dtype))
        return self._metrics()

    def fit_batches(
        self, batches: tf.data.Dataset, steps: int, epoch: int, epochs: int
    ) -> list[dict[str, float]]:
        """Train on batches of images and labels by Keras' `fit`; its metrics, by their names.

        steps: how many batches there are. epoch, epochs: as in `fit`.
        """
        assert self.by_fit
        callbacks = []
        if self.schedule:
            peak = float(self._peak)
            callbacks.append(
                fitting.ScheduledRate(self.schedule, peak, epoch * steps, epochs * steps)
            )
        return [self._named(fitting.fit_epoch(self.model, batches, epoch, callbacks))]

    def score_batches(self, batches: tf.data.Dataset) -> list[dict[str, float]]:
        """Loss and metric on batches of images and labels."""
        outputs, labels = fitting.outputs_and_labels(self._predict, batches, self._images.dtype)
        labels = labels.reshape(-1, *self.signature.label_shape)
        values = scores(self.signature.labels, outputs, labels)
        if self.has_own_loss:
            values |= fitting.evaluate(self.model, batches)
        return [values]

    def scores(
        self, outputs: NDArray[np.float32], images: Any, labels: NDArray[Any]
    ) -> list[dict[str, float]]:
        """Loss and metric of each replica, of its outputs (replicas, n, k) for these images.

        labels: (n,), or (n, k) where they are no classes.
        """
        values = [scores(self.signature.labels, of_replica, labels) for of_replica in outputs]
        if self.has_own_loss:
            values[0] |= fitting.evaluate(self.model, fitting.in_batches(images, labels))
        return values

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs (replicas, n, k) for images (n, h, w, c)."""
        parts = []
        for start in range(0, len(images), EVAL_BATCH):
            batch = tf.constant(images[start : start + EVAL_BATCH])
            parts.append(self._predict(batch))
        outputs = np.concatenate(parts)  # (n, k), or (n, replicas, k)
        outputs = outputs.reshape(len(images), self.replica_count, -1)
        return np.moveaxis(outputs, 1, 0)  # (replicas, n, k)

    @property
    def schedule(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """The learning rate's share of its peak, by the share of steps done; None for always 1."""
        return SCHEDULES.get(self.config.training.schedule)

    def weights(self) -> list[Weights]:
        """Those of each replica, as Keras' own model has them."""
        return replicas.unstack(self.model.get_weights(), self.replica_count)

    def swap_averaged_weights(self) -> None:
        """Exchange the last weights with their averages, if weights are averaged.

        A second call puts both back.
        """
        if not self.config.training.weight_averaging:
            return
        averages = _keras.averaged_weights(self.model.optimizer)
        for last, average in zip(self.model.trainable_variables, averages, strict=True):
            value = last.numpy()
            last.assign(average)
            average.assign(value)

    def _named(self, logs: Mapping[str, float]) -> dict[str, float]:
        """What `fit` says of an epoch, with our own loss and metric by their names."""
        named = dict(logs)
        if replicas.REPLICA_LOSS in named:
            named["loss"] = named.pop(replicas.REPLICA_LOSS)
        if replicas.REPLICA_METRIC in named:
            named[self.signature.kind.metric] = named.pop(replicas.REPLICA_METRIC)
        return named

    def _metrics(self) -> list[dict[str, float]]:
        results = self.model.get_metrics_result()
        losses = np.atleast_1d(results.get(replicas.REPLICA_LOSS, results["loss"]))  # (replicas,)
        values = np.asarray(results[replicas.REPLICA_METRIC])  # (replicas,)
        metrics = []
        for loss, value in zip(losses, values, strict=True):
            metrics.append({"loss": float(loss), self.signature.kind.metric: float(value)})
        return metrics

    def _size_in_epoch(self, epoch: int, epochs: int) -> Size:
        height, width, _ = self.signature.shape
        return size_in_epoch((height, width), self.config.training.initial_scale, epoch, epochs)

    def _fit_graph(self, size: Size) -> Callable[..., None]:
        """An epoch on images that are made of this size."""
        if size not in self._fits:
            self._fits[size] = self._new_fit_graph(size)
        return self._fits[size]

    def _new_fit_graph(self, size: Size) -> Callable[..., None]:
        model = self.model
        batch_size = self.config.training.batch_size
        changes = self.config.data.augment
        schedule = self.schedule
        integer, number = tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float32)
        signature = [self._images, self._labels, integer, integer, number]

        @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
        def fit(
            images: tf.Tensor,
            labels: tf.Tensor,
            epoch: tf.Tensor,
            epochs: tf.Tensor,
            peak: tf.Tensor,
        ) -> None:
            count = tf.shape(images)[0]
            steps = -(-count // batch_size)
            order = tf.random.experimental.stateless_shuffle(tf.range(count), (0, epoch))
            for step in tf.range(steps):
                chosen = order[step * batch_size : (step + 1) * batch_size]
                batch = batch_of(images, chosen, changes, epoch, step)
                batch = resized(batch, size)
                if schedule:
                    steps_done = tf.cast(epoch * steps + step, tf.float32)
                    done = steps_done / tf.cast(epochs * steps, tf.float32)
                    model.optimizer.learning_rate.assign(peak * schedule(done))
                _keras.train_step(model, batch, tf.gather(labels, chosen))

        return fit  # type: ignore[no-any-return]

    def _score_graph(self) -> Callable[..., None]:
        @tf.function(input_signature=[self._images, self._labels])  # type: ignore[untyped-decorator]
        def score(images: tf.Tensor, labels: tf.Tensor) -> None:
            for start in tf.range(0, tf.shape(images)[0], EVAL_BATCH):
                batch = images[start : start + EVAL_BATCH]
                batch_labels = labels[start : start + EVAL_BATCH]
                self._update_scores(batch, batch_labels, self._outputs(batch))

        return score  # type: ignore[no-any-return]

    def _update_scores(self, images: tf.Tensor, labels: tf.Tensor, outputs: tf.Tensor) -> None:
        _keras.score_step(self.model, images, labels, outputs, needs_loss=self.keeps_loss)

    def _outputs(self, images: tf.Tensor) -> tf.Tensor:
        """(n, k) or (n, replicas, k), the mean over the views of each image."""

        def predicted(view: tf.Tensor) -> tf.Tensor:
            return self.model(view, training=False)

        return mean_over_views(predicted, images, self.config.model)
