"""A dataset that is not in memory: `Streams` are the tf.data.Datasets of a user's function.

`read_streams` passes through them once and keeps the test images. TensorFlow is not imported here:
what a stream can do it does by its own methods.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cifar_hpo.config.app import Data
from cifar_hpo.data import given
from cifar_hpo.data.arrays import DecodedImages, Streamed, understood
from cifar_hpo.data.labels import CLASSES
from cifar_hpo.data.untrusted import MAX_CAUSE, damage_refused
from cifar_hpo.errors import ConfigError, DataError, one_line
from cifar_hpo.printable import printable

INFINITE = -1
"""The cardinality of a stream without an end, and the size of a buffer that TensorFlow chooses."""

NODE = re.compile(r"\{\{[^{}]*\}\}\s*")
"""Where in its graph TensorFlow came to an error."""

OF_ARRAYS: dict[str, Any] = {"train_size": None, "augment": [], "split_seed": None, "folds": None}
"""Keys of data that change arrays, with the values that change nothing."""


@dataclass(frozen=True)
class Streams:
    """Training, validation and test images, each a tf.data.Dataset that ends by itself.

    Its elements are pairs of images and labels, single or in batches. count: of the training
    images.
    """

    train: Any
    validation: Any
    test: Any
    count: int

    @classmethod
    def of(cls, where: str, dataset: given.Dataset, data: Data, count: int) -> Streams:
        """Those of a function's dataset. Raises ConfigError for what can't be done with streams."""
        for name, nothing in OF_ARRAYS.items():
            if getattr(data, name) != nothing:
                problem = f"{where} gives tf.data.Datasets, which are trained on as they come"
                raise ConfigError(f"data.{name}", f"{problem}; do it there")
        if data.validation == "test":
            return cls(dataset.train, dataset.test, dataset.test, count)
        if dataset.validation is None:
            problem = f"{where} gives no tf.data.Dataset of validation images, of which no share"
            hint = "let it return (train, validation, test), or set data.validation=test"
            raise ConfigError("data.validation", f"{problem} of a stream can be taken; {hint}")
        return cls(dataset.train, dataset.validation, dataset.test, count)

    def in_batches(self, size: int) -> tuple[Any, Any, Any]:
        """All three as tf.data.Datasets of batches, images (size, h, w, c) and their labels."""
        train, validation, test = (
            _in_batches(stream, size) for stream in (self.train, self.validation, self.test)
        )
        return train, validation, test


def is_stream(value: Any) -> bool:
    """Whether this is a tf.data.Dataset."""
    return hasattr(value, "element_spec") and hasattr(value, "as_numpy_iterator")


def _in_batches(stream: Any, size: int) -> Any:
    is_batched = len(stream.element_spec[0].shape) == 4
    batches = stream.rebatch(size) if is_batched else stream.batch(size)
    return batches.prefetch(INFINITE)


def read_streams(where: str, dataset: given.Dataset, names: Sequence[str]) -> DecodedImages:
    """The test images, with one for an example of the others, and what all labels are.

    Passes through each stream once. Raises DataError for what can't be trained on.
    """
    streams = {"train": dataset.train, "test": dataset.test}
    if dataset.validation is not None:
        streams["validation"] = dataset.validation
    images: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[Any]] = {}
    for name, stream in streams.items():
        images[name], labels[name] = _read(f"{where}: {name}", stream, keeps_all=name == "test")
    for name, example in images.items():
        _validate_form(f"{where}: {name}", example, images["train"])
    names = list(names) or list(getattr(dataset.train, "class_names", ()))  # of Keras' own reader
    is_one_hot = labels["train"].ndim == 2
    kind, classes = understood(where, labels, names, dataset.labels)
    if kind == CLASSES and is_one_hot:
        hint = "Keras' readers give them with label_mode='int'"
        raise DataError(f"{where}: labels are one-hot, expected whole numbers; {hint}")
    digest = hashlib.sha256()
    for name in ("train", "validation"):
        if name in labels:  # in whatever order they came
            rows = labels[name].reshape(len(labels[name]), -1)
            digest.update(rows[np.lexsort(rows.T)].tobytes())
    train = images["train"][:1], labels["train"][:1]
    streamed = Streamed(len(labels["train"]), digest.hexdigest())
    return DecodedImages(train, (images["test"], labels["test"]), classes, kind, streamed)


def _read(where: str, stream: Any, *, keeps_all: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images (n, h, w, c), the first alone unless all are kept, and all labels (n,) or (n, k)."""
    spec = getattr(stream, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(hasattr(s, "shape") for s in spec):
        raise DataError(f"{where}: elements are {spec}, expected pairs of images and labels")
    if spec[0].shape.rank not in (3, 4):
        problem = f"images are of shape {spec[0].shape}"
        raise DataError(f"{where}: {problem}, expected (h, w, c), or (n, h, w, c) in batches")
    if int(stream.cardinality()) == INFINITE:
        raise DataError(f"{where}: has no end, expected one pass over the images: no .repeat()")
    images: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    size = 0
    for batch, batch_labels in _batches(where, stream):
        _validate_pixels(where, batch)
        if images:
            _validate_form(where, batch, images[0])
        if keeps_all or not images:
            images.append(batch if keeps_all else batch[:1])
            size += batch.nbytes
        if size > psutil.virtual_memory().available:
            raise DataError(f"{where}: images of {size / 2**30:.1f} GiB do not fit into memory")
        labels.append(batch_labels)
    if not labels:
        raise DataError(f"{where}: no images, expected at least one")
    with damage_refused(f"{where}: labels are of several shapes"):
        numbers = _column_free(np.concatenate(labels))
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels are {numbers.dtype}, expected numbers")
    return np.concatenate(images), numbers


def _batches(where: str, stream: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The elements of a stream, a single one as a batch of its own."""
    is_batched = stream.element_spec[0].shape.rank == 4
    elements = iter(stream.as_numpy_iterator())
    while True:
        try:
            element = next(elements, None)
        except Exception as error:
            cause = printable(NODE.sub("", one_line(error)))[:MAX_CAUSE]
            raise DataError(f"{where}: can't be read ({cause})") from error
        if element is None:
            return
        images, labels = (np.asarray(part) for part in element)
        if is_batched:
            yield images, labels
        else:
            yield images[np.newaxis], labels[np.newaxis]


def _column_free(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels (n, 1) as (n,)."""
    is_column = labels.ndim == 2 and labels.shape[1] == 1
    return labels.reshape(-1) if is_column else labels


def _validate_pixels(where: str, images: NDArray[Any]) -> None:
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"{where}: images are {images.dtype}, expected uint8 or float32")
    if images.dtype == np.float32 and not np.isfinite(images).all():
        raise DataError(f"{where}: some pixels are NaN or infinite")


def _validate_form(where: str, images: NDArray[Any], first: NDArray[Any]) -> None:
    """Raise DataError where images do not have the form of the first."""
    form, expected = ((array.shape[1:], array.dtype) for array in (images, first))
    if form != expected:
        found = f"images are {form[1]} of shape {form[0]}"
        raise DataError(
            f"{where}: {found}, expected {expected[1]} of shape {expected[0]} as others"
        )
