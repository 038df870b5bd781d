"""Decoded images on disk: `decode_once` makes the folder of a source, `open_decoded` maps it.

A `Decoded` has the arrays and what stands beside them. A folder is whole or not there at all; one
that was damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_hpo.console import still
from cifar_hpo.data.arrays import DecodedImages
from cifar_hpo.data.labels import CLASSES, LABELS
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError, one_line
from cifar_hpo.paths import (
    DATASET_ABOUT,
    DATASET_ARRAY,
    DATASET_DRAFT,
    DATASET_DRAFTS,
    DATASET_FOLDER,
    DECODED_IMAGES,
    DECODING_LOCK,
    SCRATCH,
    short_path,
)
from cifar_hpo.printable import printable

log = logging.getLogger(__name__)

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

MAX_FOLDER_NAME = 50
"""Characters of a dataset's name in that of its folder; each may take four of 255 bytes."""

FORM_OF_CIFAR10 = f"(32, 32, 3) uint8 {CLASSES} ()"


@dataclass(frozen=True)
class Decoded:
    """A folder of decoded images.

    arrays: by the names in ARRAYS, mapped into memory. labels: what they are, one of LABELS.
    streamed: how many images are trained on that are not kept; None where all are.
    """

    folder: Path
    name: str
    classes: tuple[str, ...]
    digest: str
    arrays: Mapping[str, NDArray[Any]]
    labels: str
    streamed: int | None


def is_whole(folder: Path) -> bool:
    """Whether a folder has a decoded dataset, as far as its files' sizes and forms tell."""
    try:
        open_decoded(folder)
    except DataError:
        return False
    return True


def open_decoded(folder: Path) -> Decoded:
    """Raises DataError where it is not whole; the arrays' content is not looked at."""
    about = read_about(folder)
    arrays = {name: _open_array(folder, name, about["bytes"].get(name)) for name in ARRAYS}
    shape, dtype = arrays["x_test"].shape[1:], arrays["x_test"].dtype
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        is_like_test = images.ndim == 4 and images.shape[1:] == shape and images.dtype == dtype
        if not is_like_test or labels.ndim not in (1, 2) or len(labels) != len(images):
            raise DataError(f"{folder}: images of shape {images.shape} for {labels.shape} labels")
    return Decoded(
        folder=folder,
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        arrays=arrays,
        labels=about["labels"],
        streamed=about["streamed"],
    )


def read_about(folder: Path) -> dict[str, Any]:
    """Name, classes and digest of what was decoded to a folder, how many bytes each array has, what
    the labels are, and how many images are streamed.

    Raises DataError where they can't be read.
    """
    file = folder / DATASET_ABOUT
    with damage_refused(f"{file}: not what a decoded dataset has"):
        about: dict[str, Any] = json.loads(file.read_text())
        for key, kind in {"name": str, "classes": list, "digest": str, "bytes": dict}.items():
            if not isinstance(about[key], kind):
                raise DataError(f"{file}: {key} is {about[key]!r}")
        about = {"labels": CLASSES, "streamed": None} | about  # which earlier versions do not say
        if about["labels"] not in LABELS or not isinstance(about["streamed"], int | None):
            raise DataError(f"{file}: labels are {about['labels']!r}")
    return about


def _open_array(folder: Path, name: str, size: int | None) -> NDArray[Any]:
    """size: in bytes. Raises DataError for any other."""
    file = folder / DATASET_ARRAY.format(array=name)
    with damage_refused(f"{file}: not an array"):
        if file.stat().st_size != size:
            raise DataError(f"{file}: {file.stat().st_size} bytes, expected {size}")
        array: NDArray[Any] = np.load(file, mmap_mode="r")
    return array


def decode_once(name: str, fingerprint: str, read: Callable[[], DecodedImages]) -> Path:
    """The folder of a source's arrays; `read` is called when they are not there yet, or damaged.

    One process decodes at a time. Raises DataError where they can't be written.
    """
    folder_name = DATASET_FOLDER.format(name=name[:MAX_FOLDER_NAME], fingerprint=fingerprint)
    folder = (DECODED_IMAGES / folder_name).absolute()
    if is_whole(folder):
        return folder
    if SCRATCH in os.environ:
        folder = Path(os.environ[SCRATCH], folder_name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with still(f"decoding {name}"), _decoding_lock(folder.parent):
            if not is_whole(folder):  # else another process was quicker
                _decode(folder, name, read)
    except OSError as error:
        cause = f"decoded images can't be written ({printable(one_line(error))})"
        raise DataError(f"{short_path(folder.parent)}: {cause}") from error
    return folder


def _decode(folder: Path, name: str, read: Callable[[], DecodedImages]) -> None:
    """Make a source's folder in the place of what is there. The lock must be held."""
    _remove_drafts(folder.parent)
    if folder.exists():
        log.warning("%s is damaged or of an earlier version, so it is made again", folder.name)
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    log.info("decoding %s once, to %s", name, short_path(folder))
    decoded = read()
    draft = folder.with_name(DATASET_DRAFT.format(folder=folder.name))
    try:
        _write(draft, name, decoded)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decoding_lock(place: Path) -> FileLock:
    """Held while images are decoded; a process that ends lets go of it in any case."""
    return FileLock(place / DECODING_LOCK)


def _remove_drafts(place: Path) -> None:
    """Remove what processes left that ended while they decoded; the lock is held."""
    for pattern in DATASET_DRAFTS:
        for draft in place.glob(pattern):
            shutil.rmtree(draft)


def _write(folder: Path, name: str, decoded: DecodedImages) -> None:
    """The arrays, training images in a random order, and at last what they are."""
    folder.mkdir()
    (x_train, y_train), (x_test, y_test) = decoded.train, decoded.test
    order = np.random.default_rng(0).permutation(len(x_train))
    arrays = {
        "x_train": x_train[order],
        "y_train": y_train[order],
        "x_test": x_test,
        "y_test": y_test,
    }
    digest = hashlib.sha256(_form_of(decoded))
    sizes = {}
    for array_name, array in arrays.items():
        file = folder / DATASET_ARRAY.format(array=array_name)
        np.save(file, array)
        sizes[array_name] = file.stat().st_size
        if not decoded.streamed or array_name.endswith("test"):  # an example may be another one
            digest.update(np.ascontiguousarray(array).data)
    about = {
        "name": decoded.name or name,
        "classes": list(decoded.classes),
        "digest": digest.hexdigest()[:16],
        "bytes": sizes,
        "labels": decoded.labels,
        "streamed": decoded.streamed.total if decoded.streamed else None,
    }
    (folder / DATASET_ABOUT).write_text(json.dumps(about))


def _form_of(decoded: DecodedImages) -> bytes:
    """What the digest begins with: of images like CIFAR-10's it is of their bytes alone, as it was
    when there were no others."""
    (images, _), (_, labels) = decoded.train, decoded.test
    form = f"{images.shape[1:]} {images.dtype} {decoded.labels} {labels.shape[1:]}"
    if form == FORM_OF_CIFAR10:
        return b""
    streamed = f" {decoded.streamed.total} {decoded.streamed.digest}" if decoded.streamed else ""
    return (form + streamed).encode()
