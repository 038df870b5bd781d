"""What a network is trained and validated on: an `ArrayInput` in memory, or a `StreamInput`.

`input_of` says which, and `tensors` keeps arrays from one trial to the next.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.config.app import Config, Data, Training
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.errors import ConfigError
from cifar_hpo.training import _keras
from cifar_hpo.training.compiled import Network
from cifar_hpo.training.signature import Signature

Tensors = tuple[tf.Tensor, tf.Tensor]
"""Images (n, h, w, c), and their labels as `Signature` has them."""


_tensor_cache: dict[tuple[Any, ...], tuple[Tensors, Tensors]] = {}


def tensors(dataset: Dataset, config: Data, replica: int = 0) -> tuple[Tensors, Tensors]:
    """Training and validation images and labels in memory, kept from one trial to the next.

    replica: whose split, with data.folds.
    """
    fold = replica % config.folds if config.folds else None
    key = (dataset.digest, config.train_size, config.validation, config.split_seed, fold)
    if key not in _tensor_cache:
        _tensor_cache.clear()
        training, validation = dataset.splits(config, replica)
        signature = Signature.of(dataset)
        _tensor_cache[key] = _to_tensors(training, signature), _to_tensors(validation, signature)
    return _tensor_cache[key]


def _to_tensors(split: tuple[NDArray[Any], NDArray[Any]], signature: Signature) -> Tensors:
    images, labels = split
    return tf.constant(images), tf.constant(in_form(labels, signature))


def in_form(labels: NDArray[Any], signature: Signature) -> NDArray[Any]:
    """Labels as a network of this signature learns them."""
    return labels.reshape(-1, *signature.label_shape).astype(signature.label_dtype)


def input_of(dataset: Dataset, config: Config, replica: int) -> ArrayInput | StreamInput:
    """What a replica is trained and validated on. Raises ConfigError for too few images."""
    if dataset.streams is not None:
        return StreamInput(dataset, config)
    return ArrayInput(dataset, config, replica)


class ArrayInput:
    """Images in memory, for training and validation.

    example: images that whitening is computed from. steps: of an epoch. by_fit: whether Keras'
    `fit` must train.
    """

    by_fit = False

    def __init__(self, dataset: Dataset, config: Config, replica: int) -> None:
        self.training, self.validation = tensors(dataset, config.data, replica)
        self.example = self.training[0]
        _validate_batch_size(config.training, len(self.example))
        self.steps = -(-len(self.example) // config.training.batch_size)

    def fit(self, network: Network, epoch: int, epochs: int) -> list[dict[str, float]]:
        return network.fit(*self.training, epoch, epochs)

    def score(self, network: Network) -> list[dict[str, float]]:
        return network.score(*self.validation)

    def skip(self, epochs: int) -> None:
        """Go on behind so many epochs, of which each has its own order by its number."""


class StreamInput:
    """The same for streams, which Keras' `fit` reads."""

    by_fit = True

    def __init__(self, dataset: Dataset, config: Config) -> None:
        streams, batch_size = dataset.streams, config.training.batch_size
        assert streams is not None
        _validate_batch_size(config.training, streams.count)
        signature = Signature.of(dataset)
        training, validation, _ = streams.in_batches(batch_size)
        self.training = training.map(partial(_with_labels_in_form, signature))
        self.validation = validation.map(partial(_with_labels_in_form, signature))
        self.steps = -(-streams.count // batch_size)
        self.example = tf.constant(dataset.train[0])

    def fit(self, network: Network, epoch: int, epochs: int) -> list[dict[str, float]]:
        return network.fit_batches(self.training, self.steps, epoch, epochs)

    def score(self, network: Network) -> list[dict[str, float]]:
        return network.score_batches(self.validation)

    def skip(self, epochs: int) -> None:
        """A stream that is shuffled anew each time it is read counts how often it was."""
        for _ in range(epochs * _keras.ITERATORS_OF_FIT):
            iter(self.training)


def _with_labels_in_form(
    signature: Signature, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch of a stream with labels as `in_form` has those of arrays."""
    labels = tf.reshape(labels, (-1, *signature.label_shape))
    return images, tf.cast(labels, signature.label_dtype)


def _validate_batch_size(config: Training, images: int) -> None:
    if config.batch_size > images:
        problem = f"{config.batch_size} is more than the {images} training images"
        raise ConfigError("training.batch_size", problem)
