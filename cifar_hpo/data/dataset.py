"""The dataset of a trial: `prepare_dataset` decodes a source once, `load_dataset` opens it.

The arrays are mapped into memory, where all workers share them.
Sources: CIFAR-10 (archive, unpacked folder, Keras' cache, download), a folder of images, an .npz
file, a synthetic set.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import SYNTHETIC_NOTICE, Data
from cifar_hpo.console import still
from cifar_hpo.data.sources import (
    BATCHES,
    HOW_TO_GET,
    UNPACKED,
    DecodedImages,
    Split,
    download,
    find_in_keras_cache,
    numbered_classes,
    read_cifar10,
    read_folder,
    read_npz,
)
from cifar_hpo.data.synthetic import CLASSES, VERSION, synthetic
from cifar_hpo.errors import ConfigError, DataError, one_line
from cifar_hpo.paths import DATASET_ABOUT, DATASET_ARRAY, DECODED_IMAGES

log = logging.getLogger(__name__)

PREPARED = "CIFAR_HPO_DATA"
"""The environment variable in which the parent tells its workers where prepared arrays lie, as
JSON."""

SYNTHETIC = "synthetic"
"""Name of the built-in dataset, which `data=auto` falls back to."""


@dataclass(frozen=True)
class Dataset:
    """Images (n, 32, 32, 3) and labels (n,), all uint8 and memory-mapped, in a fixed random order.

    digest: of the arrays' content, 16 hex digits.
    fallback: whether these are synthetic images in place of CIFAR-10.
    """

    name: str
    classes: tuple[str, ...]
    digest: str
    folder: Path
    fallback: bool
    train: Split
    test: Split

    def splits(self, data: Data) -> tuple[Split, Split]:
        """Training and validation images as `data` divides them.

        The validation split does not depend on train_size. Raises ConfigError when there are too
        few images.
        """
        images, labels = self.train
        if data.validation == "test":
            available = len(images)
            validation = self.test
        else:
            available = len(images) - max(1, int(len(images) * float(data.validation)))
            validation = images[available:], labels[available:]
        size = available if data.train_size is None else data.train_size
        if not 0 < size <= available:
            raise ConfigError(
                "data.train_size",
                f"{size} images wanted, {self.name} has {available} beside its validation split",
            )
        return (images[:size], labels[:size]), validation


def load_dataset(data: Data) -> Dataset:
    """The dataset, mapped into memory. Raises what `prepare_dataset` raises."""
    return _open_decoded(prepare_dataset(data), source=data.source)


def class_count(data: Data) -> int:
    """How many classes the dataset has; its images are not opened, and its folder is read once."""
    return _class_count(prepare_dataset(data))


@functools.cache
def _class_count(folder: Path) -> int:
    return len(_read_about(folder)["classes"])


def find_decoded(digest: str) -> Dataset | None:
    """The dataset of this digest, if it was decoded in this folder before."""
    for about in DECODED_IMAGES.glob(f"*/{DATASET_ABOUT}"):
        if _read_about(about.parent)["digest"] == digest:
            return _open_decoded(about.parent)
    return None


def _open_decoded(folder: Path, source: str = "") -> Dataset:
    about = _read_about(folder)
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        folder=folder,
        fallback=source == "auto" and about["name"] == SYNTHETIC,
        train=(_open_array(folder, "x_train"), _open_array(folder, "y_train")),
        test=(_open_array(folder, "x_test"), _open_array(folder, "y_test")),
    )


def _read_about(folder: Path) -> dict[str, Any]:
    """Name, classes and digest of what was decoded to a folder."""
    about: dict[str, Any] = json.loads((folder / DATASET_ABOUT).read_text())
    return about


def _open_array(folder: Path, name: str) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.load(folder / DATASET_ARRAY.format(array=name), mmap_mode="r")
    return array


def prepare_dataset(data: Data) -> Path:
    """The folder of the decoded arrays, made on first use.

    A process and those that it starts look at a source once; what `auto` found holds for all of
    them. Raises DataError when the images can't be had or are not what they should be, ConfigError
    when data.path is missing.
    """
    prepared: dict[str, str] = json.loads(os.environ.get(PREPARED, "{}"))
    source = f"{data.source}:{data.path}"
    if source not in prepared:
        prepared[source] = str(PREPARE[data.source](data))
        os.environ[PREPARED] = json.dumps(prepared)
    return Path(prepared[source])


def _prepare_auto(data: Data) -> Path:
    """CIFAR-10; where it can't be had and no path is given, the synthetic set, said loudly."""
    if data.path:
        return _prepare_cifar10(data)
    try:
        return _prepare_cifar10(data)
    except DataError as error:
        log.warning("%s (%s)", SYNTHETIC_NOTICE, one_line(error))
        return _prepare_synthetic(data)


def _prepare_cifar10(data: Data) -> Path:
    try:
        source = _find_cifar10(data)
        files = [source / name for name in BATCHES] if source.is_dir() else [source]
        return _decode_once("cifar10", _fingerprint(files), lambda: read_cifar10(source))
    except OSError as error:
        raise DataError(one_line(error)) from error


def _find_cifar10(data: Data) -> Path:
    """The archive or the unpacked folder: in data.path, else in Keras' cache, else downloaded."""
    given = Path(data.path).expanduser() if data.path else None
    source = given or find_in_keras_cache() or download()
    if not source.exists():
        raise DataError(f"data.path: {source} does not exist; {HOW_TO_GET}")
    is_parent = (source / UNPACKED).is_dir()
    return source / UNPACKED if is_parent else source


def _prepare_folder(data: Data) -> Path:
    path = _given_path(data)
    files = sorted(path.glob("*/*/*"))
    return _decode_once(path.name, _fingerprint(files), lambda: read_folder(path))


def _prepare_npz(data: Data) -> Path:
    path = _given_path(data)
    return _decode_once(path.stem, _fingerprint([path]), lambda: read_npz(path))


def _given_path(data: Data) -> Path:
    """data.path of a source that needs one, which must exist."""
    if not data.path:
        raise ConfigError("data.path", f"data={data.source} needs the path of its images")
    path = Path(data.path).expanduser()
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist; expected the images of data={data.source}"
        )
    return path


def _prepare_synthetic(data: Data) -> Path:  # noqa: ARG001  as all of PREPARE
    def draw() -> DecodedImages:
        train, test = synthetic()
        return DecodedImages(train, test, numbered_classes(CLASSES))

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
        try:
            stat = file.stat()
        except FileNotFoundError:
            raise DataError(
                f"data.path: {file} does not exist; expected {', '.join(BATCHES)} beside each other"
            ) from None
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decode_once(name: str, fingerprint: str, read: Callable[[], DecodedImages]) -> Path:
    """The folder of a source's arrays; `read` is called when they are not there yet."""
    folder = (DECODED_IMAGES / f"{name}-{fingerprint}").absolute()
    if folder.is_dir():
        return folder
    log.info("decoding %s once, to %s", name, folder.relative_to(Path.cwd()))
    with still(f"decoding {name}"):
        decoded = read()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    _write(draft, name, decoded)
    try:
        draft.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(draft)
    return folder


def _write(folder: Path, name: str, decoded: DecodedImages) -> None:
    """The arrays, training images in a random order, and what they are."""
    (x_train, y_train), (x_test, y_test), classes = decoded
    order = np.random.default_rng(0).permutation(len(x_train))
    arrays = {
        "x_train": x_train[order],
        "y_train": y_train[order],
        "x_test": x_test,
        "y_test": y_test,
    }
    digest = hashlib.sha256()
    for array_name, array in arrays.items():
        np.save(folder / DATASET_ARRAY.format(array=array_name), array)
        digest.update(np.ascontiguousarray(array).data)
    about = {"name": name, "classes": list(classes), "digest": digest.hexdigest()[:16]}
    (folder / DATASET_ABOUT).write_text(json.dumps(about))
