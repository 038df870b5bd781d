"""The fast path: a `Network` is a compiled Keras model with an epoch of it as one graph, kept by
its shape for the next trial.

A loop inside the graph calls Keras' own `train_step` for each batch, so Python is entered once an
epoch; losses, metrics and optimizers are Keras', or do the same faster. Several replicas train as
one model (see `replicas`). What is random in an epoch follows from its number and the state of the
dropout layers, so a training that goes on from a checkpoint equals one that was never interrupted;
and replicas see the same batches, alone or fused. That the order is no part of the spread over
seeds costs little: by Summers and Dinneen (2021, arXiv 2103.04514) any one source of randomness
spreads results as far as all of them together.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo import processor
from cifar_hpo.config.app import IMAGE_SIZE, SGD, Config
from cifar_hpo.training import optimizers
from cifar_hpo.training import replicas as fused
from cifar_hpo.training.model import LOOKED_AT, build, mirrored, whitening
from cifar_hpo.training.replicas import Weights

EVAL_BATCH = 500
"""Images in a batch where nothing is learned."""

MAX_CACHED = 8
"""Networks of different shapes that a process keeps; each has its graphs and three times its
weights in memory."""

BATCH = [
    tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 3), tf.uint8),
    tf.TensorSpec((None,), tf.uint8),
]
"""Images and labels in any number; one graph for all."""

WARMUP_SHARE = 0.25
"""Share of the training in which a one-cycle learning rate rises."""

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda done: 0.5 * (1 + tf.cos(math.pi * done)),
    "one_cycle": lambda done: tf.minimum(
        0.04 + 0.96 * done / WARMUP_SHARE, (1 - done) / (1 - WARMUP_SHARE)
    ),
}
"""The learning rate's share of its peak by the share of steps done: cosine to 0 (Loshchilov and
Hutter 2017, arXiv 1608.03983), or one triangle from a 25th up and down to 0 (Smith and Topin 2018,
arXiv 1708.07120)."""

tf.get_logger().setLevel(
    "ERROR"
)  # it takes the graphs of different networks for one that is made again and again

_kept: dict[str, Network] = {}


def network(
    config: Config, classes: int, seeds: Sequence[int], images: tf.Tensor | None = None
) -> Network:
    """A network as it is before its first step, a replica for each seed; its graphs are those of
    the last one of its shape.

    images: those it will train on, which model.whitening looks at.
    """
    shape = json.dumps([asdict(config.model), config.data.augment, classes, len(seeds)])
    training, optimizer = config.training, {**asdict(config.optimizer), "learning_rate": 0}
    shape += json.dumps([optimizer, training.batch_size, training.precision, training.schedule])
    shape += json.dumps([training.label_smoothing, training.weight_averaging])
    if shape in _kept:
        _kept[shape] = found = _kept.pop(shape)  # the latest is the last
    else:
        while len(_kept) >= MAX_CACHED:
            _kept.pop(next(iter(_kept)))
        _kept[shape] = found = Network(config, classes, len(seeds))
    found.reset(config.optimizer.learning_rate, seeds, images)
    return found


def compiled(config: Config, classes: int) -> keras.Model:
    """A fresh model of Keras' own parts, for its `fit` and for whoever loads it; a mirrored one is
    for predictions alone, and one of Muon, which Keras has not for convolutions, would go on by
    SGD."""
    _set_precision(config)
    model = build(config.model, classes)
    if config.model.mirror:
        model = mirrored(model)
    model.compile(
        _optimizer(config, plain=True),
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


def _optimizer(config: Config, *, plain: bool) -> keras.optimizers.Optimizer:
    """Keras' own, or the one in `optimizers` that does the same faster; Muon is there alone."""
    kind = type(config.optimizer)
    options = {name: value for name, value in vars(config.optimizer).items() if name != "name"}
    if isinstance(config.optimizer, SGD) and not options["weight_decay"]:
        del options["weight_decay"]  # Keras would take nothing off each weight in each step
    if config.training.weight_averaging:
        options |= {"use_ema": True, "ema_momentum": config.training.weight_averaging}
    if plain or not hasattr(optimizers, kind.__name__):
        options.pop("others", None)  # of Muon, whose place SGD takes
        return getattr(keras.optimizers, kind.KERAS)(**options)
    return getattr(optimizers, kind.__name__)(**options)


class Network:
    """A compiled model of one or several replicas, and graphs that train it for an epoch, score it,
    and predict."""

    def __init__(self, config: Config, classes: int, replicas: int) -> None:
        keras.utils.clear_session()
        self.config, self.classes, self.replicas = config, classes, replicas
        _set_precision(config)
        self.model = build(config.model, classes, replicas)
        optimizer, loss = (
            _optimizer(config, plain=False),
            fused.loss(config.training.label_smoothing),
        )
        self.model.compile(
            optimizer,
            loss,
            metrics=fused.metrics(replicas, config.training.label_smoothing),
            jit_compile=False,
        )
        self.model.optimizer.build(self.model.trainable_variables)  # no graph may make variables
        self.model.test_step(
            (tf.zeros((1, *self.model.input_shape[1:]), tf.uint8), tf.zeros((1,), tf.uint8))
        )
        self._fit, self._score = self._fit_graph(), self._score_graph()
        self._predict = tf.function(self._probabilities, input_signature=BATCH[:1])

    def reset(self, learning_rate: float, seeds: Sequence[int], images: tf.Tensor | None) -> None:
        """Put everything where it is before the first step: weights and dropout as each seed draws
        them, the optimizer at rest."""
        _set_precision(self.config)
        fresh = []
        for seed in seeds:
            # Keras draws all seeds from it; its own function would also make TensorFlow prepare
            # kept graphs anew.
            random.seed(seed)
            fresh.append(build(self.config.model, self.classes))
        if self.config.model.whitening and images is not None:
            white = whitening(images[:LOOKED_AT].numpy())
            for one in fresh:
                one.get_layer("whitening").set_weights(white)
        self.model.set_weights(fused.stack_replicas([one.get_weights() for one in fresh]))
        drawn = itertools.chain(*zip(*map(fused.generators, fresh), strict=True))
        for ours, other in zip(fused.generators(self.model), drawn, strict=True):
            ours.state.assign(other.state)
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.model.optimizer.learning_rate.assign(learning_rate)
        self.peak = tf.constant(learning_rate)

    def fit(
        self, images: tf.Tensor, labels: tf.Tensor, epoch: int, epochs: int
    ) -> list[dict[str, float]]:
        """Train on all images, in an order of this epoch's own; loss and accuracy of each
        replica."""
        self.model.reset_metrics()
        self._fit(images, labels, tf.constant(epoch), tf.constant(epochs), self.peak)
        return self._results()

    def score(self, images: tf.Tensor, labels: tf.Tensor) -> list[dict[str, float]]:
        """Loss and accuracy of each replica."""
        self.model.reset_metrics()
        self._score(images, labels)
        return self._results()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (replicas, n, classes)."""
        parts = [
            self._predict(tf.constant(images[at : at + EVAL_BATCH]))
            for at in range(0, len(images), EVAL_BATCH)
        ]
        return np.moveaxis(np.concatenate(parts).reshape(len(images), self.replicas, -1), 1, 0)

    def weights(self) -> list[Weights]:
        """Those of each replica, as the plain model has them."""
        return fused.unstack(self.model.get_weights(), self.replicas)

    def swap(self) -> None:
        """Put the averaged weights in the place of the last ones, and these in theirs, if weights
        are averaged."""
        if self.config.training.weight_averaging:
            optimizer = self.model.optimizer
            for last, average in zip(
                self.model.trainable_variables,
                optimizer._model_variables_moving_average,  # noqa: SLF001
                strict=True,
            ):
                value = last.numpy()
                last.assign(average)
                average.assign(value)

    def _results(self) -> list[dict[str, float]]:
        found = self.model.get_metrics_result()
        pairs = zip(
            np.atleast_1d(found.get("replica_loss", found["loss"])),
            np.asarray(found["replica_accuracy"]),
            strict=True,
        )
        return [{"loss": float(loss), "accuracy": float(accuracy)} for loss, accuracy in pairs]

    def _fit_graph(self) -> Any:
        model, size = self.model, self.config.training.batch_size
        changes, schedule = self.config.data.augment, SCHEDULES.get(self.config.training.schedule)

        @tf.function(
            input_signature=[
                *BATCH,
                *(tf.TensorSpec((), kind) for kind in (tf.int32, tf.int32, tf.float32)),
            ]
        )  # type: ignore[untyped-decorator]
        def fit(
            images: tf.Tensor,
            labels: tf.Tensor,
            epoch: tf.Tensor,
            epochs: tf.Tensor,
            peak: tf.Tensor,
        ) -> None:
            count = tf.shape(images)[0]
            steps = -(-count // size)
            order = tf.random.experimental.stateless_shuffle(tf.range(count), (0, epoch))
            for step in tf.range(steps):
                chosen = order[step * size : (step + 1) * size]
                batch = tf.gather(images, chosen)
                if changes:
                    batch = augment(batch, changes, tf.stack((epoch, step)))
                if schedule:
                    done = tf.cast(epoch * steps + step, tf.float32) / tf.cast(
                        epochs * steps, tf.float32
                    )
                    model.optimizer.learning_rate.assign(peak * schedule(done))
                model.train_step((batch, tf.gather(labels, chosen)))

        return fit

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        found = self.model(images, training=False)
        return (
            (found + self.model(images[:, :, ::-1], training=False)) / 2
            if self.config.model.mirror
            else found
        )

    def _score_graph(self) -> Any:
        model, is_mean = (
            self.model,
            fused.keras_loss_is_cross_entropy(self.replicas, self.config.training.label_smoothing),
        )

        @tf.function(input_signature=BATCH)  # type: ignore[untyped-decorator]
        def score(images: tf.Tensor, labels: tf.Tensor) -> None:
            for start in tf.range(0, tf.shape(images)[0], EVAL_BATCH):
                batch, true = images[start : start + EVAL_BATCH], labels[start : start + EVAL_BATCH]
                found = self._probabilities(batch)
                if is_mean:
                    # The first of the metrics is Keras' mean of the loss, which `train_step` keeps.
                    model.metrics[0].update_state(
                        model.compute_loss(y=true, y_pred=found), sample_weight=tf.shape(batch)[0]
                    )
                model.compute_metrics(batch, true, found)

        return score


def augment(images: tf.Tensor, changes: list[str], seed: tf.Tensor) -> tf.Tensor:
    """Randomly changed uint8 images (n, 32, 32, 3); the same seed (two whole numbers) changes them
    in the same way.

    flip: left to right, half of them. shift: up to 4 pixels each way, the edges mirrored. cutout: a
    grey 8×8 square (DeVries and Taylor 2017, arXiv 1708.04552). All are one lookup of pixels, grey
    being one more of them, which costs a third of padding and cutting.
    """
    n, size = tf.shape(images)[0], images.shape[1]
    drawn = tf.random.stateless_uniform((n, 5), seed, 0, 1 << 30, tf.int32)
    rows = columns = tf.range(size)[None]
    if "shift" in changes:
        rows, columns = (
            size - 1 - tf.abs(size - 1 - tf.abs(rows + drawn[:, place, None] % 9 - 4))
            for place in (0, 1)
        )
    if "flip" in changes:
        columns = tf.where(drawn[:, 2, None] % 2 == 0, size - 1 - columns, columns)
    places = (tf.range(n)[:, None] * size + rows)[:, :, None] * size + columns[:, None]
    pixels = tf.reshape(images, (-1, images.shape[3]))
    if "cutout" in changes:
        offsets = (tf.range(size) - drawn[:, place, None] % size for place in (3, 4))
        down, across = ((offset >= -4) & (offset < 4) for offset in offsets)
        places = tf.where(down[:, :, None] & across[:, None], tf.shape(pixels)[0], places)
        pixels = tf.concat(
            (pixels, tf.fill((1, images.shape[3]), tf.cast(128, images.dtype))), axis=0
        )
    return tf.gather(pixels, places)
