"""The fast path: a `Network` is a compiled Keras model with an epoch of it as one graph.

A `NetworkCache` keeps networks by their shape for the next trial. A loop inside the graph calls
Keras' own `train_step` for each batch, so Python is entered once an epoch; losses, metrics and
optimizers are Keras', or do the same faster. Several replicas train as one model (see `replicas`).

What is random in an epoch follows from its number and the state of the dropout layers, so a
training that goes on from a checkpoint equals one that was never interrupted; and replicas see the
same batches, alone or fused. That the order is no part of the spread over seeds costs little: by
Summers and Dinneen (2021, arXiv 2103.04514) any one source of randomness spreads results as far as
all of them together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo import processor
from cifar_hpo.config.app import COLOURS, IMAGE_SIZE, Config
from cifar_hpo.training import _keras, layers, optimizers, replicas
from cifar_hpo.training.augmentation import augment
from cifar_hpo.training.model import WHITENING_IMAGES, build, whitening_weights, with_flip_tta
from cifar_hpo.training.replicas import Weights
from cifar_hpo.training.schedules import SCHEDULES

EVAL_BATCH = 500
"""Images in a batch where nothing is learned."""

MAX_CACHED = 8
"""Networks of different shapes that a process keeps.

Each has its graphs and three times its weights in memory.
"""

# In any number, so that one graph serves all.
IMAGES = tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, COLOURS), tf.uint8)
LABELS = tf.TensorSpec((None,), tf.int32)

# It warns of the graphs of different networks as of one that is traced again and again.
tf.get_logger().setLevel("ERROR")


class NetworkCache:
    """The networks that were used last, by shape; a further one takes the place of the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.networks: dict[str, Network] = {}  # the one that was used last is the last

    def get(self, config: Config, classes: int, replica_count: int) -> Network:
        """The network of this shape, built where there is none; it is as its last use left it."""
        shape = network_shape(config, classes, replica_count)
        network = self.networks.pop(shape, None)
        if network is None:
            self._make_space()
            network = Network(config, classes, replica_count)
        self.networks[shape] = network
        return network

    def _make_space(self) -> None:
        while len(self.networks) >= self.capacity:
            oldest = next(iter(self.networks))
            del self.networks[oldest]


def network_shape(config: Config, classes: int, replica_count: int) -> str:
    """All that the graphs of a network depend on: not the seed, the epochs or the learning rate."""
    training = config.training
    optimizer = asdict(config.optimizer)
    del optimizer["learning_rate"]
    parts = [
        asdict(config.model),
        config.data.augment,
        classes,
        replica_count,
        optimizer,
        training.batch_size,
        training.precision,
        training.schedule,
        training.label_smoothing,
        training.weight_averaging,
    ]
    return json.dumps(parts)


cache = NetworkCache(MAX_CACHED)
"""The networks of this process."""


def initial_network(
    config: Config, classes: int, seeds: Sequence[int], images: tf.Tensor | None = None
) -> Network:
    """A network as it is before its first step, with a replica for each seed.

    The process has one network of a shape, so the next call for this shape resets the one returned.
    images: those it will train on, which model.whitening looks at; None leaves whitening as it was
    drawn.
    """
    network = cache.get(config, classes, len(seeds))
    network.reset(config.optimizer.learning_rate, seeds, images)
    return network


def keras_model(config: Config, classes: int) -> keras.Model:
    """A fresh compiled model of Keras' own parts, for its `fit` and for whoever loads it.

    One with model.mirror is for predictions alone, and one of Muon, which Keras has not for
    convolutions, would go on by SGD.
    """
    _set_precision(config)
    model = build(config.model, classes)
    if config.model.mirror:
        model = with_flip_tta(model)
    model.compile(
        optimizers.keras_optimizer(config),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def _set_precision(config: Config) -> None:
    """Let Keras build layers of the config's precision; of float32 where bfloat16 can't be had."""
    precision = config.training.precision
    if precision == "mixed_bfloat16" and not processor.can_compute_in_bfloat16():
        precision = "float32"
    keras.mixed_precision.set_dtype_policy(precision)


class Network:
    """A compiled model of one or several replicas with graphs that train, score and predict.

    model: from images (n, 32, 32, 3) to probabilities (n, classes), or (n, replicas, classes).
    """

    def __init__(self, config: Config, classes: int, replica_count: int) -> None:
        _keras.release_global_state()
        self.config = config
        self.classes = classes
        self.replica_count = replica_count
        self.model = self._compiled()
        self._fit = self._fit_graph()
        self._score = self._score_graph()
        self._predict = tf.function(self._probabilities, input_signature=[IMAGES])
        self._peak = tf.constant(0.0)

    def _compiled(self) -> keras.Model:
        smoothing = self.config.training.label_smoothing
        _set_precision(self.config)
        model = build(self.config.model, self.classes, self.replica_count)
        model.compile(
            optimizers.fast_optimizer(self.config),
            replicas.loss(smoothing),
            metrics=replicas.metrics(self.replica_count, smoothing),
            jit_compile=False,
        )
        _keras.create_variables(model)
        return model

    def reset(self, learning_rate: float, seeds: Sequence[int], images: tf.Tensor | None) -> None:
        """Put everything where it is before the first step.

        Weights and dropout are as each replica's seed draws them, the optimizer is at rest.
        """
        _set_precision(self.config)
        initial_models = self._initial_models(seeds, images)
        weights = [model.get_weights() for model in initial_models]
        self.model.set_weights(replicas.stack_replicas(weights))
        self._copy_random_states(initial_models)
        optimizer = self.model.optimizer
        for variable in optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        optimizer.learning_rate.assign(learning_rate)
        self._peak = tf.constant(learning_rate)

    def _initial_models(self, seeds: Sequence[int], images: tf.Tensor | None) -> list[keras.Model]:
        """A model of Keras' own layers for each seed."""
        models = []
        for seed in seeds:
            _keras.seed_next_model(seed)
            models.append(build(self.config.model, self.classes))
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
        """Train on all images once; loss and accuracy of each replica.

        images: (n, 32, 32, 3), uint8. labels: (n,), whole numbers of any type. epoch: from 0, which
        decides the order of the images and their augmentation. epochs: of the whole training, for
        the schedule.
        """
        self.model.reset_metrics()
        self._fit(
            images, tf.cast(labels, tf.int32), tf.constant(epoch), tf.constant(epochs), self._peak
        )
        return self._metrics()

    def score(self, images: tf.Tensor, labels: tf.Tensor) -> list[dict[str, float]]:
        """Loss and accuracy of each replica, on images and labels as `fit` takes them."""
        self.model.reset_metrics()
        self._score(images, tf.cast(labels, tf.int32))
        return self._metrics()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (replicas, n, classes) of images (n, 32, 32, 3)."""
        parts = []
        for start in range(0, len(images), EVAL_BATCH):
            batch = tf.constant(images[start : start + EVAL_BATCH])
            parts.append(self._predict(batch))
        probabilities = np.concatenate(parts)  # (n, classes), or (n, replicas, classes)
        probabilities = probabilities.reshape(len(images), self.replica_count, -1)
        return np.moveaxis(probabilities, 1, 0)  # (replicas, n, classes)

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

    def _metrics(self) -> list[dict[str, float]]:
        results = self.model.get_metrics_result()
        losses = np.atleast_1d(results.get("replica_loss", results["loss"]))  # (replicas,)
        accuracies = np.asarray(results["replica_accuracy"])  # (replicas,)
        metrics = []
        for loss, accuracy in zip(losses, accuracies, strict=True):
            metrics.append({"loss": float(loss), "accuracy": float(accuracy)})
        return metrics

    def _fit_graph(self) -> Callable[..., None]:
        model = self.model
        batch_size = self.config.training.batch_size
        changes = self.config.data.augment
        schedule = SCHEDULES.get(self.config.training.schedule)
        integer, number = tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float32)

        @tf.function(input_signature=[IMAGES, LABELS, integer, integer, number])  # type: ignore[untyped-decorator]
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
                batch = tf.gather(images, chosen)
                if changes:
                    batch = augment(batch, changes, tf.stack((epoch, step)))
                if schedule:
                    steps_done = tf.cast(epoch * steps + step, tf.float32)
                    done = steps_done / tf.cast(epochs * steps, tf.float32)
                    model.optimizer.learning_rate.assign(peak * schedule(done))
                _keras.train_step(model, batch, tf.gather(labels, chosen))

        return fit  # type: ignore[no-any-return]

    def _score_graph(self) -> Callable[..., None]:
        model = self.model
        smoothing = self.config.training.label_smoothing
        needs_loss = replicas.keras_loss_is_cross_entropy(self.replica_count, smoothing)

        @tf.function(input_signature=[IMAGES, LABELS])  # type: ignore[untyped-decorator]
        def score(images: tf.Tensor, labels: tf.Tensor) -> None:
            for start in tf.range(0, tf.shape(images)[0], EVAL_BATCH):
                batch = images[start : start + EVAL_BATCH]
                batch_labels = labels[start : start + EVAL_BATCH]
                probabilities = self._probabilities(batch)
                _keras.score_step(model, batch, batch_labels, probabilities, needs_loss=needs_loss)

        return score  # type: ignore[no-any-return]

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """(n, classes) or (n, replicas, classes), with model.mirror the mean over both images."""
        probabilities = self.model(images, training=False)
        if not self.config.model.mirror:
            return probabilities
        mirrored = images[:, :, ::-1]
        return (probabilities + self.model(mirrored, training=False)) / 2
