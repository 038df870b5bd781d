"""The dataset of a trial: `prepare_dataset` decodes a source once, `load_dataset` opens it.

The arrays are mapped into memory, where all workers share them.
Sources: CIFAR-10 (archive, unpacked folder, Keras' cache, download), a folder of images, an .npz
file, a synthetic set.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_hpo.config.app import SYNTHETIC_NOTICE, Data
from cifar_hpo.console import still
from cifar_hpo.data.labels import CLASSES
from cifar_hpo.data.sources import (
    BATCHES,
    HOW_TO_GET,
    SHAPE,
    UNPACKED,
    DecodedImages,
    Split,
    download,
    find_in_keras_cache,
    image_files,
    numbered_classes,
    read_cifar10,
    read_folder,
    read_npz,
)
from cifar_hpo.data.streams import Streams
from cifar_hpo.data.synthetic import CLASS_COUNT, VERSION, synthetic
from cifar_hpo.data.untrusted import damage_refused, printable
from cifar_hpo.errors import ConfigError, DataError, one_line
from cifar_hpo.paths import (
    DATASET_ABOUT,
    DATASET_ARRAY,
    DATASET_DRAFT,
    DATASET_DRAFTS,
    DATASET_FOLDER,
    DECODED_IMAGES,
    DECODING_LOCK,
)

log = logging.getLogger(__name__)

PREPARED = "CIFAR_HPO_DATA"
"""The environment variable in which the parent tells its workers where prepared arrays lie, as
JSON."""

SYNTHETIC = "synthetic"
"""Name of the built-in dataset, which `data=auto` falls back to."""

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

NOT_IN_A_NAME = re.compile(r"[/\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What the name of a dataset may not hold, by which MLflow has its champion."""

MAX_FOLDER_NAME = 50
"""Characters of a dataset's name in that of its folder; each may take four of 255 bytes."""


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
    if not _is_whole(folder):
        _forget(data)
        folder = prepare_dataset(data)
    return _open_decoded(folder, source=data.source)


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
    dataset = _open_decoded(folder)
    count = dataset.streams.count if dataset.streams else len(dataset.train[0])
    return Form(dataset.shape, dataset.dtype.name, dataset.labels, dataset.outputs, count)


def class_count(data: Data) -> int:
    """How many classes the dataset has; its images are not opened, and its folder is read once."""
    return dataset_form(data).outputs


def find_decoded(digest: str) -> Dataset | None:
    """The dataset of this digest, if it was decoded in this folder before and is whole."""
    for about in DECODED_IMAGES.glob(f"*/{DATASET_ABOUT}"):
        with contextlib.suppress(DataError):
            if _read_about(about.parent)["digest"] == digest:
                return _open_decoded(about.parent)
    return None


def _is_whole(folder: Path) -> bool:
    """Whether a folder has a decoded dataset, as far as its files' sizes and forms tell."""
    try:
        _open_decoded(folder)
    except DataError:
        return False
    return True


def _open_decoded(folder: Path, source: str = "") -> Dataset:
    """Raises DataError where it is not whole; the arrays' content is not looked at."""
    about = _read_about(folder)
    arrays = {name: _open_array(folder, name, about["bytes"].get(name)) for name in ARRAYS}
    dataset = Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        folder=folder,
        fallback=source == "auto" and about["name"] == SYNTHETIC,
        train=(arrays["x_train"], arrays["y_train"]),
        test=(arrays["x_test"], arrays["y_test"]),
    )
    for images, labels in (dataset.train, dataset.test):
        if images.shape != (len(labels), *SHAPE) or labels.ndim != 1:
            raise DataError(f"{folder}: images of shape {images.shape} for {labels.shape} labels")
    return dataset


def _read_about(folder: Path) -> dict[str, Any]:
    """Name, classes and digest of what was decoded to a folder, and how many bytes each array has.

    Raises DataError where they can't be read.
    """
    file = folder / DATASET_ABOUT
    with damage_refused(f"{file}: not what a decoded dataset has"):
        about: dict[str, Any] = json.loads(file.read_text())
        for key, kind in {"name": str, "classes": list, "digest": str, "bytes": dict}.items():
            if not isinstance(about[key], kind):
                raise DataError(f"{file}: {key} is {about[key]!r}")
    return about


def _open_array(folder: Path, name: str, size: int | None) -> NDArray[np.uint8]:
    """size: in bytes. Raises DataError for any other."""
    file = folder / DATASET_ARRAY.format(array=name)
    with damage_refused(f"{file}: not an array"):
        if file.stat().st_size != size:
            raise DataError(f"{file}: {file.stat().st_size} bytes, expected {size}")
        array: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return array


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
    return f"{data.source}:{data.path}"


def _prepare_auto(data: Data) -> Path:
    """CIFAR-10; where it can't be had and no path is given, the synthetic set, said loudly."""
    try:
        source = _find_cifar10(data)
    except DataError as error:
        if data.path:
            raise
        log.warning("%s (%s)", SYNTHETIC_NOTICE, one_line(error))
        return _prepare_synthetic(data)
    return _decode_cifar10(source)


def _prepare_cifar10(data: Data) -> Path:
    return _decode_cifar10(_find_cifar10(data))


def _decode_cifar10(source: Path) -> Path:
    files = [source / name for name in BATCHES] if source.is_dir() else [source]
    for file in files:
        if not file.exists():
            expected = f"expected {', '.join(BATCHES)} beside each other"
            raise DataError(f"data.path: {printable(file)} does not exist; {expected}")
    return _decode_once("cifar10", _fingerprint(files), lambda: read_cifar10(source))


def _find_cifar10(data: Data) -> Path:
    """The archive or the unpacked folder: in data.path, else in Keras' cache, else downloaded."""
    given = _expanded(data.path) if data.path else None
    source = given or find_in_keras_cache() or download()
    if not source.exists():
        raise DataError(f"data.path: {printable(source)} does not exist; {HOW_TO_GET}")
    is_parent = (source / UNPACKED).is_dir()
    return source / UNPACKED if is_parent else source


def _expanded(path: str) -> Path:
    with damage_refused(f"data.path: {printable(path)}"):  # it may begin with nobody's ~
        return Path(path).expanduser()


def _prepare_folder(data: Data) -> Path:
    path = _given_path(data)
    if not path.is_dir():
        raise DataError(f"data.path: {printable(path)} is no folder; expected train/<class>/*")
    fingerprint = _fingerprint(image_files(path))
    return _decode_once(_named(path), fingerprint, lambda: read_folder(path))


def _prepare_npz(data: Data) -> Path:
    path = _given_path(data)
    if not path.is_file():
        raise DataError(f"data.path: {printable(path)} is no file; expected an .npz")
    return _decode_once(_named(path.with_suffix("")), _fingerprint([path]), lambda: read_npz(path))


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

    return _decode_once(SYNTHETIC, VERSION, draw)


PREPARE: dict[str, Callable[[Data], Path]] = {
    "auto": _prepare_auto,
    "cifar10": _prepare_cifar10,
    "folder": _prepare_folder,
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


def _decode_once(name: str, fingerprint: str, read: Callable[[], DecodedImages]) -> Path:
    """The folder of a source's arrays; `read` is called when they are not there yet, or damaged.

    One process decodes at a time. Raises DataError where they can't be written.
    """
    folder_name = DATASET_FOLDER.format(name=name[:MAX_FOLDER_NAME], fingerprint=fingerprint)
    folder = (DECODED_IMAGES / folder_name).absolute()
    if _is_whole(folder):
        return folder
    try:
        DECODED_IMAGES.mkdir(parents=True, exist_ok=True)
        with still(f"decoding {name}"), _decoding_lock():
            if not _is_whole(folder):  # else another process was quicker
                _decode(folder, name, read)
    except OSError as error:
        cause = f"decoded images can't be written ({printable(one_line(error))})"
        raise DataError(f"{DECODED_IMAGES}: {cause}") from error
    return folder


def _decode(folder: Path, name: str, read: Callable[[], DecodedImages]) -> None:
    """Make a source's folder in the place of what is there. The lock must be held."""
    _remove_drafts()
    if folder.exists():
        log.warning("%s is damaged or of an earlier version, so it is made again", folder.name)
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    log.info("decoding %s once, to %s", name, DECODED_IMAGES / folder.name)
    decoded = read()
    draft = folder.with_name(DATASET_DRAFT.format(folder=folder.name))
    try:
        _write(draft, name, decoded)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decoding_lock() -> FileLock:
    """Held while images are decoded; a process that ends lets go of it in any case."""
    return FileLock(DECODED_IMAGES / DECODING_LOCK)


def _remove_drafts() -> None:
    """Remove what processes left that ended while they decoded; the lock is held."""
    for pattern in DATASET_DRAFTS:
        for draft in DECODED_IMAGES.glob(pattern):
            shutil.rmtree(draft)


def _write(folder: Path, name: str, decoded: DecodedImages) -> None:
    """The arrays, training images in a random order, and at last what they are."""
    folder.mkdir()
    (x_train, y_train), (x_test, y_test), classes = decoded
    order = np.random.default_rng(0).permutation(len(x_train))
    arrays = {
        "x_train": x_train[order],
        "y_train": y_train[order],
        "x_test": x_test,
        "y_test": y_test,
    }
    digest = hashlib.sha256()
    sizes = {}
    for array_name, array in arrays.items():
        file = folder / DATASET_ARRAY.format(array=array_name)
        np.save(file, array)
        sizes[array_name] = file.stat().st_size
        digest.update(np.ascontiguousarray(array).data)
    about = {
        "name": name,
        "classes": list(classes),
        "digest": digest.hexdigest()[:16],
        "bytes": sizes,
    }
    (folder / DATASET_ABOUT).write_text(json.dumps(about))
