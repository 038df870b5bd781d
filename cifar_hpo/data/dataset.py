"""The dataset of a trial: `prepare_dataset` decodes a source once, `load_dataset` opens it.

The arrays are mapped into memory, where all workers share them.
Sources: CIFAR-10 (archive, unpacked folder, Keras' cache, download), others of Keras' sets, a
folder of images, an .npz file, a user's function, a synthetic set.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hpo.config.app import SYNTHETIC_NOTICE, Data
from cifar_hpo.data import cifar
from cifar_hpo.data.arrays import DecodedImages, Split, numbered_classes
from cifar_hpo.data.cifar import CIFAR10, CIFAR100, Cifar
from cifar_hpo.data.decoded import decode_once, is_whole, open_decoded, read_about
from cifar_hpo.data.functions import call_function, fingerprint, read_function
from cifar_hpo.data.keras_sets import KERAS_SETS
from cifar_hpo.data.labels import CLASSES
from cifar_hpo.data.sources import image_files, read_folder, read_npz
from cifar_hpo.data.streams import Streams
from cifar_hpo.data.synthetic import CLASS_COUNT, VERSION, synthetic
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import ConfigError, DataError, one_line
from cifar_hpo.paths import DATASET_ABOUT, DECODED_IMAGES
from cifar_hpo.printable import printable
from cifar_hpo.trust import Call

log = logging.getLogger(__name__)

PREPARED = "CIFAR_HPO_DATA"
"""The environment variable in which the parent tells its workers where prepared arrays lie, as
JSON."""

SYNTHETIC = "synthetic"
"""Name of the built-in dataset, which `data=auto` falls back to."""

NOT_IN_A_NAME = re.compile(r"[/\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What the name of a dataset may not hold, by which MLflow has its champion."""


@dataclass(frozen=True)
class Dataset:
    """Images (n, height, width, channels) of uint8 or float32 and their labels; memory-mapped and
    in a fixed random order.

    classes: the names of the outputs: of the classes; of each label that may apply; `value` or
    `value_0`, … for numbers. digest: of the arrays' content, 16 hex digits.
    fallback: whether these are synthetic images in place of CIFAR-10.
    labels: what they are, one of `labels.LABELS`, where their shapes and dtypes stand. streams:
    what is trained on in the place of arrays, where a user's function gives that; `train` has an
    example of it then, and `test` all test images.
    """

    name: str
    classes: tuple[str, ...]
    digest: str
    folder: Path
    fallback: bool
    train: Split
    test: Split
    labels: str = CLASSES
    streams: Streams | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width, channels."""
        height, width, channels = self.test[0].shape[1:]
        return height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the images: uint8 or float32."""
        return self.test[0].dtype

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for an image."""
        return len(self.classes)

    def splits(self, data: Data, replica: int = 0) -> tuple[Split, Split]:
        """Training and validation images as `data` divides them for a replica.

        With data.folds the validation split of replica r is fold r, counted round; else all
        replicas have the same. It does not depend on train_size. Raises ConfigError when there are
        too few images.
        """
        images, labels = self.train
        if data.validation == "test":
            size = self._train_size(data, len(images))
            return (images[:size], labels[:size]), self.test
        count = len(images)
        if data.folds:
            if data.folds > count:
                problem = f"{data.folds} parts of the {count} training images of {self.name}"
                raise ConfigError("data.folds", problem)
            fold = replica % data.folds
            begin, end = count * fold // data.folds, count * (fold + 1) // data.folds
        else:
            begin, end = count - max(1, int(count * float(data.validation))), count
        size = self._train_size(data, count - (end - begin))
        if data.split_seed is None and end == count:
            return (images[:size], labels[:size]), (images[begin:], labels[begin:])
        order = np.arange(count)
        if data.split_seed is not None:
            order = np.random.default_rng(data.split_seed).permutation(count)
        chosen = np.concatenate([order[:begin], order[end:]])[:size]
        left_out = order[begin:end]
        return (images[chosen], labels[chosen]), (images[left_out], labels[left_out])

    def _train_size(self, data: Data, available: int) -> int:
        """How many images are trained on. Raises ConfigError when there are too few."""
        size = available if data.train_size is None else data.train_size
        if not 0 < size <= available:
            raise ConfigError(
                "data.train_size",
                f"{size} images wanted, {self.name} has {available} beside its validation split",
            )
        return size


@dataclass(frozen=True)
class Form:
    """What a model must fit, and how many images it is trained on, as `Dataset` has them."""

    shape: tuple[int, int, int]
    dtype: str
    labels: str
    outputs: int
    images: int


def load_dataset(data: Data) -> Dataset:
    """The dataset, mapped into memory. Raises what `prepare_dataset` raises.

    What was damaged since it was decoded is decoded again.
    """
    folder = prepare_dataset(data)
    if not is_whole(folder):
        _forget(data)
        folder = prepare_dataset(data)
    dataset = _open(folder, source=data.source)
    count = open_decoded(folder).streamed
    if count is None:
        return dataset
    call = _call(data)
    streams = Streams.of(f"data: {call.target}", call_function(call), data, count)
    return replace(dataset, streams=streams)


def _open(folder: Path, source: str = "") -> Dataset:
    """The arrays of a folder. Raises DataError where it is not whole."""
    decoded = open_decoded(folder)
    arrays = decoded.arrays
    return Dataset(
        name=decoded.name,
        classes=decoded.classes,
        digest=decoded.digest,
        folder=folder,
        fallback=source == "auto" and decoded.name == SYNTHETIC,
        train=(arrays["x_train"], arrays["y_train"]),
        test=(arrays["x_test"], arrays["y_test"]),
        labels=decoded.labels,
    )


def dataset_form(data: Data) -> Form:
    """The form of the dataset, of which a process reads each folder once.

    Raises what `load_dataset` raises.
    """
    return _form_of(prepare_dataset(data))


def known_form(data: Data) -> Form | None:
    """The form of a dataset that was prepared before; None of one that was not."""
    folder = _prepared_folders().get(_source(data))
    with contextlib.suppress(DataError):
        return _form_of(Path(folder)) if folder else None
    return None


@functools.cache
def _form_of(folder: Path) -> Form:
    dataset = _open(folder)
    count = open_decoded(folder).streamed or len(dataset.train[0])
    return Form(dataset.shape, dataset.dtype.name, dataset.labels, dataset.outputs, count)


def find_decoded(digest: str) -> Dataset | None:
    """The dataset of this digest, if it was decoded in this folder before and is whole."""
    for about in DECODED_IMAGES.glob(f"*/{DATASET_ABOUT}"):
        with contextlib.suppress(DataError):
            if read_about(about.parent)["digest"] == digest:
                return _open(about.parent)
    return None


def prepare_dataset(data: Data) -> Path:
    """The folder of the decoded arrays, made on first use.

    A process and those that it starts look at a source once; what `auto` found holds for all of
    them. Raises DataError when the images can't be had or are not what they should be, ConfigError
    when data.path is missing.
    """
    prepared = _prepared_folders()
    source = _source(data)
    if source not in prepared:
        try:
            prepared[source] = str(PREPARE[data.source](data))
        except OSError as error:
            raise DataError(f"data.path: {printable(one_line(error))}") from error
        os.environ[PREPARED] = json.dumps(prepared)
    return Path(prepared[source])


def _forget(data: Data) -> None:
    """Let the source be looked at again."""
    prepared = _prepared_folders()
    prepared.pop(_source(data), None)
    os.environ[PREPARED] = json.dumps(prepared)


def _prepared_folders() -> dict[str, str]:
    """Where the arrays of each source lie that this process or its parent looked at."""
    folders: dict[str, str] = json.loads(os.environ.get(PREPARED, "{}"))
    return folders


def _source(data: Data) -> str:
    """What tells a source from others within a command."""
    if data.source == "keras":
        return f"keras:{data.name}:{data.path}"
    if data.call:
        return f"function:{data.call!r}"
    return f"{data.source}:{data.path}"


def _prepare_auto(data: Data) -> Path:
    """CIFAR-10; where it can't be had and no path is given, the synthetic set, said loudly."""
    try:
        source = _find_cifar(CIFAR10, data)
    except DataError as error:
        if data.path:
            raise
        log.warning("%s (%s)", SYNTHETIC_NOTICE, one_line(error))
        return _prepare_synthetic(data)
    return _decode_cifar(CIFAR10, source)


def _prepare_cifar10(data: Data) -> Path:
    return _decode_cifar(CIFAR10, _find_cifar(CIFAR10, data))


def _prepare_keras(data: Data) -> Path:
    """One of Keras' own sets by its name, without any fallback."""
    if data.name == "cifar10":
        return _prepare_cifar10(data)
    if data.name == "cifar100":
        return _decode_cifar(CIFAR100, _find_cifar(CIFAR100, data))
    if data.name is None:
        raise ConfigError("data.name", "data=keras needs the name of a set, such as mnist")
    images = KERAS_SETS[data.name]
    files = images.find(_expanded(data.path) if data.path else None)
    return decode_once(data.name, _fingerprint(files), lambda: images.read(files))


def _decode_cifar(images: Cifar, source: Path) -> Path:
    files = [source / name for name in images.batches] if source.is_dir() else [source]
    for file in files:
        if not file.exists():
            expected = f"expected {', '.join(images.batches)} beside each other"
            raise DataError(f"data.path: {printable(file)} does not exist; {expected}")
    name = images.title.lower().replace("-", "")
    return decode_once(name, _fingerprint(files), lambda: cifar.read(images, source))


def _find_cifar(images: Cifar, data: Data) -> Path:
    """The archive or the unpacked folder: in data.path, else in Keras' cache, else downloaded."""
    given = _expanded(data.path) if data.path else None
    source = given or cifar.find(images) or cifar.download(images)
    if not source.exists():
        problem = f"data.path: {printable(source)} does not exist"
        raise DataError(f"{problem}; {images.archive.how_to_get}")
    is_parent = (source / images.unpacked).is_dir()
    return source / images.unpacked if is_parent else source


def _expanded(path: str) -> Path:
    with damage_refused(f"data.path: {printable(path)}"):  # it may begin with nobody's ~
        return Path(path).expanduser()


def _prepare_folder(data: Data) -> Path:
    path = _given_path(data)
    if not path.is_dir():
        raise DataError(f"data.path: {printable(path)} is no folder; expected train/<class>/*")
    fingerprint = _fingerprint(image_files(path))
    return decode_once(_named(path), fingerprint, lambda: read_folder(path))


def _prepare_npz(data: Data) -> Path:
    path = _given_path(data)
    if not path.is_file():
        raise DataError(f"data.path: {printable(path)} is no file; expected an .npz")
    return decode_once(_named(path.with_suffix("")), _fingerprint([path]), lambda: read_npz(path))


def _named(path: Path) -> str:
    """The name of a dataset from that of its folder or file."""
    name = path.name.strip(".") or path.resolve().name
    return NOT_IN_A_NAME.sub("_", name) or "images"


def _given_path(data: Data) -> Path:
    """data.path of a source that needs one, which must exist."""
    if not data.path:
        raise ConfigError("data.path", f"data={data.source} needs the path of its images")
    path = _expanded(data.path)
    if not path.exists():
        expected = f"expected the images of data={data.source}"
        raise DataError(f"data.path: {printable(path)} does not exist; {expected}")
    return path


def _prepare_synthetic(data: Data) -> Path:  # noqa: ARG001  as all of PREPARE
    def draw() -> DecodedImages:
        train, test = synthetic()
        return DecodedImages(train, test, numbered_classes(CLASS_COUNT))

    return decode_once(SYNTHETIC, VERSION, draw)


def _prepare_function(data: Data) -> Path:
    """What a user's function returns. Raises ConfigError where it may not be called."""
    call = _call(data)

    def read() -> DecodedImages:
        images = read_function(call)
        return images._replace(name=NOT_IN_A_NAME.sub("_", images.name or call.target))

    return decode_once(call.target, fingerprint(call), read)


def _call(data: Data) -> Call:
    if data.call is None:
        raise ConfigError("data._target_", "data=function needs the dotted name of your function")
    return data.call


PREPARE: dict[str, Callable[[Data], Path]] = {
    "auto": _prepare_auto,
    "cifar10": _prepare_cifar10,
    "folder": _prepare_folder,
    "function": _prepare_function,
    "keras": _prepare_keras,
    "npz": _prepare_npz,
    "synthetic": _prepare_synthetic,
}
"""By data.source; each returns the folder of the decoded arrays."""


def _fingerprint(files: Iterable[Path]) -> str:
    """Of names, sizes and times, so that a source that did not change is not read again.

    Raises DataError for a missing file.
    """
    digest = hashlib.sha256()
    for file in files:
        with damage_refused(f"data.path: {printable(file)}: can't be read"):
            stat = file.stat()
            digest.update(os.fsencode(file.resolve()))
        digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
