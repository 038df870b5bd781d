"""One trial from its config to its metrics.

`train` fits the network of each replica, or of all as one, keeps checkpoints, and returns a
`Trained` for each replica. Keras' callbacks act at the ends of epochs, as in `fit`.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config.app import Config, Training
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.errors import ConfigError, TrialError, disk_error
from cifar_hpo.metrics import VALIDATION, best_over_epochs, direction_of
from cifar_hpo.paths import CHECKPOINT
from cifar_hpo.training import _keras, checkpoint, devices
from cifar_hpo.training.callbacks import Callbacks, make_callbacks
from cifar_hpo.training.identity import groups_of, identity_of
from cifar_hpo.training.inputs import in_form, input_of
from cifar_hpo.training.networks import forget, initial_network, keras_model
from cifar_hpo.training.replicas import Weights
from cifar_hpo.training.signature import Signature

log = logging.getLogger(__name__)

NEVER = 10**9
"""The patience, in epochs, of early stopping that is off."""


class OnEpoch(Protocol):
    """Called after each epoch of a group of replicas that trains as one network."""

    def __call__(
        self,
        epoch: int,
        values: Mapping[int, Mapping[str, float]],
        *,
        best: Mapping[int, Mapping[str, float]],
        restored: bool,
        is_told: bool,
    ) -> None:
        """Take in an epoch.

        epoch: counted from 0. values: loss, accuracy (of numbers mae), and both as val_… of each
        replica that it trained, by its number; beside these what a compiled model brought along.
        best: the best so far of each validation metric, as val_…_best. restored: whether an
        earlier attempt trained it, or another training that this one extends. is_told: whether it
        was surely taken in before, by an earlier attempt.
        """


@dataclass(frozen=True)
class Trained:
    """A trained replica.

    metrics: the last epoch's (with early stopping the best epoch's), the best over the epochs of
    each validation metric, test_loss, test_accuracy (of numbers test_mae), parameters,
    train_seconds, epochs. outputs: for each test image, (n, k).
    """

    weights: Weights
    metrics: dict[str, float]
    outputs: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class of each test image, (n,)."""
        predicted: NDArray[np.int64] = self.outputs.argmax(axis=1)
        return predicted

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Its probability, (n,)."""
        confidence: NDArray[np.float32] = self.outputs.max(axis=1)
        return confidence


def set_up(config: Training) -> None:
    """Threads and determinism of this process; before its first TensorFlow operation.

    Keras' own settings are set back from what the user's keras.json says to its defaults.

    Raises ConfigError when the process has already computed with another number of threads, and
    where its GPU is none for this training.
    """
    devices.validate(config)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    os.environ["TF_DETERMINISTIC_OPS"] = str(int(config.deterministic))
    _keras.set_determinism(is_on=config.deterministic)  # as the trial before may not have had it
    if config.threads is None:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(config.threads)
        tf.config.threading.set_inter_op_parallelism_threads(config.threads)
    except RuntimeError:
        problem = (
            "this worker already computes with another number; in a sweep set "
            "hydra.launcher.threads_per_worker"
        )
        raise ConfigError("training.threads", problem) from None


def seed_users_code(config: Training) -> None:
    """Let what the user's code draws by TensorFlow, such as the order of a stream, follow from the
    seed, without which a deterministic process draws nothing; before it is called."""
    tf.random.set_seed(config.seed)


def train(
    config: Config, dataset: Dataset, on_epoch: OnEpoch, folder: Path | None = None
) -> list[Trained]:
    """Train all replicas, as one network where `is_fused`, else one after the other.

    A seed gives the same weights with the same number of threads, bit for bit, on one machine,
    unless training.deterministic is off; fused with others it gives them but for
    rounding. folder: where checkpoints lie, from which it goes on, and where it leaves one after
    each epoch. Raises TrialError when a loss diverges, ConfigError when a batch is larger than the
    training images.
    """
    trained = []
    for group in groups_of(config, is_streamed=dataset.streams is not None):
        trained += _train_group(config, dataset, group, on_epoch, folder)
    return trained


def _train_group(
    config: Config, dataset: Dataset, group: Sequence[int], on_epoch: OnEpoch, folder: Path | None
) -> list[Trained]:
    """Train the replicas of these numbers as one network."""
    training = _GroupTraining(config, dataset, group, folder)
    training.restore()
    restored = len(training.epochs)
    for epoch in range(restored):
        values, best = training.values(epoch), training.best(epoch)
        # The last one is saved before it is taken in, between which its process may have died.
        is_told = not training.is_extended and epoch < restored - 1
        on_epoch(epoch, values, best=best, restored=True, is_told=is_told)
    while not training.has_ended:
        metrics = training.train_epoch()
        _refuse_divergence(metrics, epoch=len(training.epochs))
        training.save()
        epoch = len(training.epochs) - 1
        values, best = training.values(epoch), training.best(epoch)
        on_epoch(epoch, values, best=best, restored=False, is_told=False)
    training.end()
    return _evaluate(training)


class _GroupTraining:
    """The training of a group of replicas as one network, and where it stands.

    epochs: the metrics of each epoch so far, for each replica. seconds: what they took.
    is_extended: whether it goes on behind the end of another training.
    """

    def __init__(
        self, config: Config, dataset: Dataset, group: Sequence[int], folder: Path | None
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.group = group
        self.input = input_of(dataset, config, group[0])
        seeds = [config.training.seed + number for number in group]
        self.network = initial_network(
            config, Signature.of(dataset), seeds, self.input.example, by_fit=self.input.by_fit
        )
        if config.training.callbacks:
            forget(self.network)  # they may change what no reset puts back
        metric = config.training.early_stopping_metric
        self.stopping = keras.callbacks.EarlyStopping(
            metric,
            patience=config.training.early_stopping or NEVER,
            mode="max" if direction_of(metric) == "maximize" else "min",
            restore_best_weights=True,
        )
        self.callbacks = Callbacks(
            self.network.model,
            config.training,
            self.stopping if config.training.early_stopping else None,
            make_callbacks(config.training),
            steps=self.input.steps,
        )
        is_streamed = dataset.streams is not None
        self.identity = identity_of(config, dataset.digest, group, is_streamed=is_streamed)
        self.checkpoint = folder and folder / CHECKPOINT.format(replica=group[0])
        self.epochs: list[list[dict[str, float]]] = []
        self.seconds = 0.0
        self.is_stopped = False  # by a callback, after the last epoch
        self.is_extended = False
        self.last_scores: dict[str, float] = {}  # of what callbacks made of the weights at the end
        self.is_loss_said = False  # of a checkpoint

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are trained, or early stopping or another callback has ended them."""
        return len(self.epochs) >= self.config.training.epochs or self.is_stopped

    def restore(self) -> None:
        """Begin, or go on from the checkpoint where there is one.

        As with Keras' own, the user's callbacks begin anew.
        """
        self.network.model.stop_training = False
        self.callbacks.train_begins()
        if self.checkpoint is None:
            return
        model = self.network.model
        state = checkpoint.load(self.checkpoint, self.identity, model, self.stopping)
        if not state and self.config.training.extend:
            state = self._restore_kept(Path(self.config.training.extend))
        if state:
            self.epochs = state.epochs
            self.seconds = state.seconds
            self.input.skip(len(state.epochs))
            self.is_stopped = state.stopped

    def _restore_kept(self, folder: Path) -> checkpoint.State | None:
        """Go on behind the end of a training that kept its checkpoint; None where there is none."""
        epochs, model = self.config.training.epochs, self.network.model
        state = checkpoint.load_kept(folder, self.identity, epochs, model, self.stopping)
        self.is_extended = state is not None
        if state:
            log.info("goes on behind epoch %d of what %s kept", len(state.epochs), folder)
        else:
            log.warning("nothing below %s is of this training: it begins anew", folder)
        return state

    def values(self, epoch: int) -> dict[int, dict[str, float]]:
        """The metrics of an epoch, counted from 0, of each replica by its number."""
        return dict(zip(self.group, self.epochs[epoch], strict=True))

    def best(self, epoch: int) -> dict[int, dict[str, float]]:
        """The best of each validation metric up to an epoch."""
        names = [name.removeprefix(VALIDATION) for name in self.epochs[0][0]]
        own = self.network.own_directions(names)
        best = {}
        for place, number in enumerate(self.group):
            history = [metrics[place] for metrics in self.epochs[: epoch + 1]]
            best[number] = best_over_epochs(history, own)
        return best

    def train_epoch(self) -> list[dict[str, float]]:
        """Train an epoch and score it on the validation images; its metrics for each replica."""
        started = time.perf_counter()
        epoch = len(self.epochs)
        self.callbacks.epoch_begins(epoch)
        metrics = self.input.fit(self.network, epoch, self.config.training.epochs)
        self.network.swap_averaged_weights()
        self.callbacks.test_begins()
        scores = self._scores()
        self.callbacks.test_ends(scores[0])
        for replica_metrics, replica_scores in zip(metrics, scores, strict=True):
            replica_metrics.update(replica_scores)
        _require_stopping_metric(self.config.training, metrics[0])
        self.callbacks.epoch_ends(epoch, metrics[0])
        self.is_stopped = self.network.model.stop_training
        self.network.swap_averaged_weights()
        self.epochs.append(metrics)
        self.seconds += time.perf_counter() - started
        return metrics

    def _scores(self) -> list[dict[str, float]]:
        """Each replica's metrics on the validation images."""
        scores = []
        for replica_scores in self.input.score(self.network):
            scores.append({VALIDATION + name: value for name, value in replica_scores.items()})
        return scores

    def save(self) -> None:
        """Leave a checkpoint, where there is a folder for it.

        One that can't be written costs what a restart would have to train again, not the training.
        """
        if self.checkpoint is None:
            return
        model = self.network.model
        state = checkpoint.State(self.identity, self.epochs, self.seconds, self.is_stopped)
        try:
            checkpoint.save(self.checkpoint, state, model, self.stopping)
        except OSError as error:
            if not self.is_loss_said:
                log.warning("no checkpoint could be written: %s", disk_error(error) or error)
            self.is_loss_said = True

    def counted_epoch(self, history: Sequence[dict[str, float]]) -> dict[str, float]:
        """Of a replica's epochs the last one, with early stopping the first of the best, whose
        weights it keeps; with the scores of the weights that callbacks left."""
        training = self.config.training
        if not training.early_stopping:
            return history[-1] | self.last_scores
        metric = training.early_stopping_metric
        best = max if direction_of(metric) == "maximize" else min
        return best(history, key=lambda metrics: metrics[metric]) | self.last_scores

    def end(self) -> None:
        """Leave the network with the weights that count: averaged, and the best epoch's."""
        self.network.swap_averaged_weights()
        self.callbacks.train_ends()  # early stopping puts the best epoch's weights back
        if self.callbacks.users:  # who may have put other weights there
            (self.last_scores,) = self._scores()


def _require_stopping_metric(config: Training, metrics: Mapping[str, float]) -> None:
    """Raise ConfigError where epochs have no such metric, of which Keras would only warn."""
    metric = config.early_stopping_metric
    if config.early_stopping and metric not in metrics:
        known = ", ".join(name for name in metrics if name.startswith(VALIDATION))
        problem = f"there is no {metric} with these labels; there is {known}"
        raise ConfigError("training.early_stopping_metric", problem)


def _refuse_divergence(metrics: Sequence[Mapping[str, float]], *, epoch: int) -> None:
    """Raise TrialError where a loss is not finite. epoch: counted from 1."""
    for replica_metrics in metrics:
        losses = {name: value for name, value in replica_metrics.items() if "loss" in name}
        if not all(map(math.isfinite, losses.values())):
            values = ", ".join(f"{name} {value}" for name, value in losses.items())
            raise TrialError(f"diverged: {values} in epoch {epoch}")


def _evaluate(training: _GroupTraining) -> list[Trained]:
    """Each replica with its metrics, on the test images too."""
    network = training.network
    images, labels = training.dataset.test
    sizes = {
        "parameters": float(network.model.count_params() // network.replica_count),
        "train_seconds": training.seconds / network.replica_count,
        "epochs": float(len(training.epochs)),
    }
    trained = []
    weights, outputs = network.weights(), network.predict(images)
    test_scores = network.scores(outputs, images, in_form(labels, network.signature))
    best = training.best(len(training.epochs) - 1)
    for replica in range(network.replica_count):
        history = [epoch[replica] for epoch in training.epochs]
        counted = training.counted_epoch(history)
        scored = {f"test_{name}": value for name, value in test_scores[replica].items()}
        metrics = {**counted, **best[training.group[replica]], **scored, **sizes}
        trained.append(Trained(weights[replica], metrics, outputs[replica]))
    return trained


def to_keras_model(config: Config, signature: Signature, weights: Weights) -> keras.Model:
    """A trained replica as a compiled Keras model like any other; its optimizer is at rest."""
    model = keras_model(config, signature)
    model.optimizer.build(model.trainable_variables)  # as Keras wants it to load the model
    model.set_weights(weights)
    return model
