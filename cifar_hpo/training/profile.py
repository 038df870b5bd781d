"""What a training takes, by its first steps: `profile` trains them and leaves nothing."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import keras
import psutil

from cifar_hpo.config.app import Config, Size, Training, size_in_epoch
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.task import Profile
from cifar_hpo.training import checkpoint
from cifar_hpo.training.compiled import Network
from cifar_hpo.training.identity import groups_of
from cifar_hpo.training.inputs import input_of
from cifar_hpo.training.networks import initial_network
from cifar_hpo.training.signature import Signature
from cifar_hpo.training.trainer import to_keras_model

STEPS = 20
"""Steps that are timed, behind as many in which graphs are built."""


def profile(config: Config, dataset: Dataset) -> Profile | None:
    """What a trial of this configuration takes on this machine, while nothing else runs.

    Its steps, the scoring of an epoch and of the test images are timed; an epoch and the trial
    follow from their counts. Callbacks and early stopping are left out. Returns None for images
    that come as a stream, of which nobody knows how long its first take. `trainer.set_up` comes
    before. Raises ConfigError where there are too few images for a batch.
    """
    if dataset.streams is not None:
        return None
    training = config.training
    (images, _), _ = dataset.splits(config.data)
    trained = min(len(images), STEPS * training.batch_size)
    first_images = dataclasses.replace(config.data, train_size=trained)
    first_steps = dataclasses.replace(config, data=first_images)
    replicas = len(groups_of(config, is_streamed=False)[0])

    started = time.perf_counter()
    batches = input_of(dataset, first_steps, 0)
    seeds = [training.seed + replica for replica in range(replicas)]
    signature = Signature.of(dataset)
    network = initial_network(config, signature, seeds, batches.example)
    last = training.epochs - 1  # where images grow, of the whole ones
    batches.fit(network, last, training.epochs)
    batches.score(network)
    built = time.perf_counter()
    batches.fit(network, last, training.epochs)
    stepped = time.perf_counter()
    batches.score(network)
    scored = time.perf_counter()
    network.predict(dataset.test[0])
    tested = time.perf_counter()

    steps = -(-len(images) // training.batch_size)
    epoch = (stepped - built) * steps / batches.steps + (scored - stepped)
    groups = training.replicas // replicas  # that train one after the other
    epochs = _epochs_of_whole_images(training, signature.shape[:2])
    seconds = built - started + groups * (epochs * epoch + tested - scored)
    memory = psutil.Process().memory_info().rss + images[trained:].nbytes
    return Profile(
        steps=batches.steps,
        seconds=seconds,
        memory=memory,
        checkpoint=_checkpoint_size(network),
        model=_model_size(config, signature, network),
    )


def _epochs_of_whole_images(training: Training, size: Size) -> float:
    """As how many epochs of whole images the epochs count, by their pixels."""
    epochs = 0.0
    for epoch in range(training.epochs):
        height, width = size_in_epoch(size, training.initial_scale, epoch, training.epochs)
        epochs += height * width / (size[0] * size[1])
    return epochs


def _checkpoint_size(network: Network) -> int:
    """Bytes that a training leaves on disk after each epoch."""
    state = checkpoint.State("", [], 0.0, stopped=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "profile")
        checkpoint.save(file, state, network.model, keras.callbacks.EarlyStopping())
        return file.stat().st_size


def _model_size(config: Config, signature: Signature, network: Network) -> int:
    """Bytes of a trained replica as Keras saves it."""
    model = to_keras_model(config, signature, network.weights()[0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.keras")
        model.save(file)
        return file.stat().st_size
