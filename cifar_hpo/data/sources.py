"""What images come from: `read_cifar10`, `read_npz` and `read_folder` give train and test arrays;
`keras_cache` and `download` find CIFAR-10.

Nothing from outside is trusted: archives are held against their checksum and read in place, pickles
may hold arrays only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import pickle
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.console import Heartbeat, terminal
from cifar_hpo.errors import DataError, one_line

log = logging.getLogger(__name__)

SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
UNPACKED = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")
HOW_TO_GET = f"download {CIFAR10_URL} and set data.path to it, or try data=synthetic"

CONNECT_TIMEOUT = 10
"""Seconds without an answer after which a server is taken for out of reach."""

Images = NDArray[np.uint8]
Split = tuple[Images, Images]


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets")


def keras_cache() -> Path | None:
    """CIFAR-10 where Keras keeps it, if it is there."""
    names = (f"{UNPACKED}-target/{UNPACKED}", UNPACKED, "cifar-10-python.tar.gz")
    return next((place for name in names if (place := _keras_home() / name).exists()), None)


def download() -> Path:
    """The official archive, put where Keras looks for it too.

    Its progress is shown, and its checksum verified before it gets its name. Raises DataError.
    """
    from rich.progress import wrap_file

    target = _keras_home() / "cifar-10-python.tar.gz"
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    log.info("CIFAR-10 is not in data.path nor in the Keras cache: trying to download it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(CIFAR10_URL, timeout=CONNECT_TIMEOUT) as response:
            size = int(response.headers["Content-Length"])
            with (
                draft.open("wb") as file,
                wrap_file(response, size, description="downloading CIFAR-10") as body,
                _progress_said(draft, size),
            ):
                shutil.copyfileobj(body, file)
        _verify(draft)
        draft.replace(target)
    except (OSError, TypeError, DataError) as error:
        problem = f"CIFAR-10 could not be downloaded ({one_line(error)})"
        raise DataError(f"{problem}; {HOW_TO_GET}") from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def _progress_said(draft: Path, size: int) -> contextlib.AbstractContextManager[object]:
    """A line now and then with the bytes that are there, of size; on a terminal there is a bar."""
    if terminal().is_terminal:
        return contextlib.nullcontext()

    def say() -> None:
        log.info("%d of %d MB downloaded", draft.stat().st_size // 10**6, size // 10**6)

    return Heartbeat(say)


def _verify(archive: Path) -> None:
    with archive.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != CIFAR10_SHA256:
        raise DataError(
            f"{archive}: sha256 {checksum[:12]}…, expected {CIFAR10_SHA256[:12]}…: not the "
            f"official archive of {CIFAR10_URL}"
        )


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, bytes, numbers and NumPy arrays; anything else could run code."""

    ALLOWED = (("_codecs", "encode"), ("numpy", "dtype"), ("numpy", "ndarray"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return super().find_class("numpy._core.multiarray", name)
        raise DataError(f"refused: a CIFAR-10 batch that wants to call {module}.{name}")


def read_cifar10(source: Path) -> tuple[Split, Split]:
    """Train and test from the official archive, held against its checksum, or from its unpacked
    folder.

    Raises DataError, with nothing run or written, for a wrong checksum, a pickle that is more than
    arrays, or a missing batch.
    """
    if source.is_dir():
        batches = {
            name: _read_batch(name, io.BytesIO((source / name).read_bytes())) for name in BATCHES
        }
    else:
        _verify(source)
        batches = {}
        with tarfile.open(source) as archive:
            for name in BATCHES:
                member = archive.extractfile(f"{UNPACKED}/{name}")
                if member is None:
                    raise DataError(f"{source}: no {name} in it; {HOW_TO_GET}")
                batches[name] = _read_batch(name, member)
    train = [batches[name] for name in BATCHES[:-1]]
    return (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), batches[
        "test_batch"
    ]


def _read_batch(name: str, file: IO[bytes]) -> Split:
    try:
        batch = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise DataError(f"{name}: not a CIFAR-10 batch ({one_line(error)})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * IMAGE_SIZE**2:
        raise DataError(
            f"{name}: {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (n, 3072)"
        )
    images = pixels.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE).transpose(0, 2, 3, 1)
    return _checked(name, images, labels, len(CIFAR10_CLASSES))


def read_npz(path: Path) -> tuple[Split, Split, list[str]]:
    """Train, test and class names from x_train, y_train, x_test, y_test; labels (n,) or (n, 1).
    Raises DataError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        expected = "expected an .npz with x_train, y_train, x_test, y_test"
        raise DataError(f"{path}: {one_line(error)}; {expected}") from error
    labels = arrays["y_train"]
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        raise DataError(
            f"{path}: y_train is {labels.dtype} of shape {labels.shape}, expected whole numbers "
            "from 0"
        )
    classes = int(labels.max()) + 1
    train = _checked(f"{path}: train", arrays["x_train"], labels, classes)
    test = _checked(f"{path}: test", arrays["x_test"], arrays["y_test"], classes)
    names = (
        list(CIFAR10_CLASSES)
        if classes == len(CIFAR10_CLASSES)
        else [f"class {n}" for n in range(classes)]
    )
    return train, test, names


def _checked(where: str, images: NDArray[Any], labels: NDArray[Any], classes: int) -> Split:
    if images.dtype != np.uint8 or images.shape[1:] != SHAPE or not len(images):
        raise DataError(
            f"{where}: images are {images.dtype} of shape {images.shape}, expected uint8 of "
            "shape (n, 32, 32, 3)"
        )
    labels = labels.reshape(-1) if labels.shape == (len(labels), 1) else labels
    if labels.shape != (len(images),):
        raise DataError(
            f"{where}: {len(images)} images but labels of shape {labels.shape}, expected "
            f"({len(images)},)"
        )
    if (
        not np.issubdtype(labels.dtype, np.integer)
        or labels.min() < 0
        or labels.max() >= min(classes, 256)
    ):
        raise DataError(
            f"{where}: labels from {labels.min()} to {labels.max()}, expected whole numbers from "
            f"0 to {min(classes, 256) - 1}"
        )
    return images, labels.astype(np.uint8)


def read_folder(path: Path) -> tuple[Split, Split, list[str]]:
    """Train, test and class names from train/<class>/* and test/<class>/*, 32×32 images. Raises
    DataError."""
    classes = sorted(folder.name for folder in (path / "train").glob("*") if folder.is_dir())
    if len(classes) < 2:
        raise DataError(
            f"{path / 'train'}: {len(classes)} class folders, expected train/<class>/* with at "
            "least 2 classes"
        )
    if others := {folder.name for folder in (path / "test").glob("*") if folder.is_dir()} ^ set(
        classes
    ):
        raise DataError(f"{path}: {', '.join(sorted(others))} not in both train and test")
    train, test = (_read_images(path / split, classes) for split in ("train", "test"))
    return train, test, classes


def _read_images(split: Path, classes: list[str]) -> Split:
    from PIL import Image, UnidentifiedImageError

    def decoded(folder: Path) -> Iterator[Images]:
        for file in sorted(folder.iterdir()):
            try:
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"{file}: not an image ({one_line(error)})") from error
            if pixels.shape != SHAPE:
                raise DataError(
                    f"{file}: {pixels.shape[1]}×{pixels.shape[0]} pixels, expected 32×32"
                )
            yield pixels

    images, labels = [], []
    for label, name in enumerate(classes):
        of_class = list(decoded(split / name))
        if not of_class:
            raise DataError(f"{split / name}: no images, expected at least one")
        images.extend(of_class)
        labels.extend([label] * len(of_class))
    return np.stack(images), np.asarray(labels, np.uint8)
