"""The sources of images: `read_cifar10`, `read_npz` and `read_folder` give `DecodedImages`.

`find_in_keras_cache` and `download` give CIFAR-10's archive.
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
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.console import Heartbeat, terminal
from cifar_hpo.data.pickled import read_pickle
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
ARCHIVE = "cifar-10-python.tar.gz"
UNPACKED = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
HOW_TO_GET = f"download {CIFAR10_URL} and set data.path to it, or try data=synthetic"

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""Images and labels as keras.datasets name them."""

MAX_CLASSES = 256
"""Labels are kept as uint8."""

CONNECT_TIMEOUT = 10
"""Seconds without an answer after which a server is taken for out of reach."""

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Split = tuple[Images, Labels]
"""Images (n, 32, 32, 3) and their labels (n,)."""


class DecodedImages(NamedTuple):
    """What a source holds; the labels are places in `classes`."""

    train: Split
    test: Split
    classes: list[str]


def numbered_classes(count: int) -> list[str]:
    """Names for classes that have none."""
    return [f"class {number}" for number in range(count)]


def _keras_datasets() -> Path:
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets")


def find_in_keras_cache() -> Path | None:
    """CIFAR-10 where Keras keeps it, if it is there."""
    for name in (f"{UNPACKED}-target/{UNPACKED}", UNPACKED, ARCHIVE):
        path = _keras_datasets() / name
        if path.exists():
            return path
    return None


def download() -> Path:
    """The official archive, put where Keras looks for it too.

    Its progress is shown, and its checksum verified before it gets its name. Raises DataError.
    """
    target = _keras_datasets() / ARCHIVE
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    log.info("CIFAR-10 is not in data.path nor in the Keras cache: trying to download it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(draft)
        _verify(draft)
        draft.replace(target)
    except (OSError, TypeError, DataError) as error:  # TypeError: an answer without a length
        problem = f"CIFAR-10 could not be downloaded ({one_line(error)})"
        raise DataError(f"{problem}; {HOW_TO_GET}") from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def _fetch(draft: Path) -> None:
    from rich.progress import wrap_file

    with urllib.request.urlopen(CIFAR10_URL, timeout=CONNECT_TIMEOUT) as response:
        size = int(response.headers["Content-Length"])
        with (
            draft.open("wb") as file,
            wrap_file(response, size, description="downloading CIFAR-10") as body,
            _logged_progress(draft, size),
        ):
            shutil.copyfileobj(body, file)


def _logged_progress(draft: Path, size: int) -> contextlib.AbstractContextManager[object]:
    """A line now and then with the bytes that are there, of size; on a terminal there is a bar."""
    if terminal().is_terminal:
        return contextlib.nullcontext()

    def log_progress() -> None:
        log.info("%d of %d MB downloaded", draft.stat().st_size // 10**6, size // 10**6)

    return Heartbeat(log_progress)


def _verify(archive: Path) -> None:
    with archive.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != CIFAR10_SHA256:
        raise DataError(
            f"{archive}: sha256 {checksum[:12]}…, expected {CIFAR10_SHA256[:12]}…: not the "
            f"official archive of {CIFAR10_URL}"
        )


def read_cifar10(source: Path) -> DecodedImages:
    """CIFAR-10 from the official archive, held against its checksum, or from its unpacked folder.

    Raises DataError, with nothing run or written, for a wrong checksum, a pickle that is more than
    arrays, or a missing batch.
    """
    batches = _read_unpacked(source) if source.is_dir() else _read_archive(source)
    images = np.concatenate([batches[name][0] for name in TRAIN_BATCHES])
    labels = np.concatenate([batches[name][1] for name in TRAIN_BATCHES])
    return DecodedImages((images, labels), batches[TEST_BATCH], list(CIFAR10_CLASSES))


def _read_unpacked(folder: Path) -> dict[str, Split]:
    batches = {}
    for name in BATCHES:
        batches[name] = _read_batch(name, io.BytesIO((folder / name).read_bytes()))
    return batches


def _read_archive(archive: Path) -> dict[str, Split]:
    _verify(archive)
    batches = {}
    with tarfile.open(archive) as tar:
        for name in BATCHES:
            member = tar.extractfile(f"{UNPACKED}/{name}")
            if member is None:
                raise DataError(f"{archive}: no {name} in it; {HOW_TO_GET}")
            batches[name] = _read_batch(name, member)
    return batches


def _read_batch(name: str, file: IO[bytes]) -> Split:
    unreadable = (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        MemoryError,
        RecursionError,
    )
    try:
        batch = read_pickle(file)
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except unreadable as error:
        raise DataError(f"{name}: not a CIFAR-10 batch ({one_line(error)})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * IMAGE_SIZE**2:
        raise DataError(
            f"{name}: {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (n, 3072)"
        )
    planes = pixels.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)  # (n, colour, row, column)
    images = planes.transpose(0, 2, 3, 1)  # (n, row, column, colour)
    return _validate_split(name, images, labels, len(CIFAR10_CLASSES))


def read_npz(path: Path) -> DecodedImages:
    """The images of x_train, y_train, x_test, y_test; labels (n,) or (n, 1). Raises DataError."""
    arrays = _load_npz(path)
    labels = arrays["y_train"]
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size or not labels.ndim:
        raise DataError(
            f"{path}: y_train is {labels.dtype} of shape {labels.shape}, expected whole numbers "
            "from 0"
        )
    count = int(labels.max()) + 1
    train = _validate_split(f"{path}: train", arrays["x_train"], labels, count)
    test = _validate_split(f"{path}: test", arrays["x_test"], arrays["y_test"], count)
    is_cifar10 = count == len(CIFAR10_CLASSES)
    classes = list(CIFAR10_CLASSES) if is_cifar10 else numbered_classes(count)
    return DecodedImages(train, test, classes)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The four arrays of an .npz. Raises DataError where they can't be read."""
    expected = f"expected an .npz with {', '.join(NPZ_ARRAYS)}"
    unreadable = (
        zipfile.BadZipFile,
        zlib.error,
        LookupError,
        ValueError,
        TypeError,
        EOFError,
        OSError,
        RuntimeError,  # an encrypted or an unknown form of archive
        MemoryError,
    )
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array; {expected}")
            with archive:
                return {name: archive[name] for name in NPZ_ARRAYS}
    except unreadable as error:
        raise DataError(f"{path}: {one_line(error)}; {expected}") from error


def _validate_split(where: str, images: NDArray[Any], labels: NDArray[Any], classes: int) -> Split:
    """Images and labels, the latter as (n,) of uint8.

    where: begins the message of the DataError that a wrong form or range raises.
    """
    if images.dtype != np.uint8 or images.shape[1:] != SHAPE or not images.size:
        raise DataError(
            f"{where}: images are {images.dtype} of shape {images.shape}, expected uint8 of "
            "shape (n, 32, 32, 3)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.reshape(-1)  # (n, 1) to (n,)
    if labels.shape != (len(images),):
        raise DataError(
            f"{where}: {len(images)} images but labels of shape {labels.shape}, expected "
            f"({len(images)},)"
        )
    count = min(classes, MAX_CLASSES)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels are {labels.dtype}, expected whole numbers from 0")
    if labels.min() < 0 or labels.max() >= count:
        raise DataError(
            f"{where}: labels from {labels.min()} to {labels.max()}, expected whole numbers from "
            f"0 to {count - 1}"
        )
    return images, labels.astype(np.uint8)


def read_folder(path: Path) -> DecodedImages:
    """The images of train/<class>/* and test/<class>/*, 32×32 pixels each. Raises DataError."""
    classes = _class_folders(path / "train")
    if len(classes) < 2:
        raise DataError(
            f"{path / 'train'}: {len(classes)} class folders, expected train/<class>/* with at "
            "least 2 classes"
        )
    in_one_split = set(classes) ^ set(_class_folders(path / "test"))
    if in_one_split:
        raise DataError(f"{path}: {', '.join(sorted(in_one_split))} not in both train and test")
    train = _read_class_folders(path / "train", classes)
    test = _read_class_folders(path / "test", classes)
    return DecodedImages(train, test, classes)


def _class_folders(split: Path) -> list[str]:
    return sorted(folder.name for folder in split.glob("*") if folder.is_dir())


def _read_class_folders(split: Path, classes: list[str]) -> Split:
    images: list[Images] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted((split / name).iterdir())
        if not files:
            raise DataError(f"{split / name}: no images, expected at least one")
        images.extend(_read_image(file) for file in files)
        labels.extend([label] * len(files))
    return np.stack(images), np.asarray(labels, np.uint8)


def _read_image(file: Path) -> Images:
    """RGB, uint8 (32, 32, 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file}: not an image ({one_line(error)})") from error
    if pixels.shape != SHAPE:
        raise DataError(f"{file}: {pixels.shape[1]}×{pixels.shape[0]} pixels, expected 32×32")
    return pixels
