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
import shutil
import tarfile
import urllib.request
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.console import Heartbeat, terminal
from cifar_hpo.data.image_files import listed, open_rgb
from cifar_hpo.data.pickled import read_pickle
from cifar_hpo.data.untrusted import damage_refused, is_printable, printable
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
CIFAR10_TEST_SHA256 = "035ed11ac2ff599aab55fd82c2327cfdec691b6dce35812dbf19aac22345d94c"
"""Of the test images and then their labels, both as uint8 in the order of the archive."""

ARCHIVE = "cifar-10-python.tar.gz"
UNPACKED = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
HOW_TO_GET = f"download {CIFAR10_URL} and set data.path to it, or try data=synthetic"

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""Images and labels as keras.datasets name them."""

NPZ_CLASSES = "classes"
"""An array that may lie beside these: the names of the classes, in the order of their labels."""

ZIP_BEGINS = b"PK"
NPY_BEGINS = b"\x93NUMPY"

MAX_CLASSES = 1_000
"""As many as ImageNet has: MLflow takes 1,000 metrics at once, and a confusion matrix has the
square of the classes."""

MAX_BATCH_BYTES = 200_000_000
"""Bytes that are read of a file of CIFAR-10's; pickled by Python 3 it has 44 million."""

MAX_NAMES = 5
"""Names of classes in a message."""

CONNECT_TIMEOUT = 10
"""Seconds without an answer after which a server is taken for out of reach."""

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8 | np.uint16]
"""uint8 for up to 256 classes."""

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
        file = folder / name
        with damage_refused(f"{printable(file)}: can't be read"), file.open("rb") as opened:
            content = opened.read(MAX_BATCH_BYTES + 1)
        if len(content) > MAX_BATCH_BYTES:
            raise DataError(f"{printable(file)}: not a CIFAR-10 batch, which has 31 MB")
        batches[name] = _read_batch(name, io.BytesIO(content))
    return batches


def _read_archive(archive: Path) -> dict[str, Split]:
    with damage_refused(f"{printable(archive)}: can't be read"):
        _verify(archive)
    batches = {}
    with (
        damage_refused(f"{printable(archive)}: not read", HOW_TO_GET),
        tarfile.open(archive) as tar,
    ):
        for name in BATCHES:
            member = tar.extractfile(f"{UNPACKED}/{name}")
            if member is None:
                raise DataError(f"{archive}: no {name} in it; {HOW_TO_GET}")
            batches[name] = _read_batch(name, member)
    return batches


def _read_batch(name: str, file: IO[bytes]) -> Split:
    with damage_refused(f"{name}: not a CIFAR-10 batch"):
        batch = read_pickle(file)
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * IMAGE_SIZE**2:
        raise DataError(
            f"{name}: {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (n, 3072)"
        )
    planes = pixels.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)  # (n, colour, row, column)
    images = planes.transpose(0, 2, 3, 1)  # (n, row, column, colour)
    return _validate_split(name, images, labels, len(CIFAR10_CLASSES))


def read_npz(path: Path) -> DecodedImages:
    """The images of x_train, y_train, x_test, y_test; labels (n,) or (n, 1).

    The classes have the names of the array `classes` where it is there; else CIFAR-10's where these
    are its images, else numbers. Raises DataError.
    """
    where = printable(path)
    arrays = _load_npz(path)
    labels = arrays["y_train"]
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size or not labels.ndim:
        raise DataError(
            f"{where}: y_train is {labels.dtype} of shape {labels.shape}, expected whole numbers "
            "from 0"
        )
    names = _class_names(where, arrays[NPZ_CLASSES]) if NPZ_CLASSES in arrays else []
    count = len(names) or int(labels.max()) + 1
    if count < 2:
        raise DataError(f"{where}: all labels are {labels.max()}, expected at least 2 classes")
    train = _validate_split(f"{where}: train", arrays["x_train"], labels, count)
    test = _validate_split(f"{where}: test", arrays["x_test"], arrays["y_test"], count)
    if not names:
        names = list(CIFAR10_CLASSES) if _is_cifar10(test) else numbered_classes(count)
    return DecodedImages(train, test, names)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz that are images, labels and names.

    Raises DataError where they can't be read, or would not fit into memory.
    """
    where = printable(path)
    expected = f"expected an .npz with {', '.join(NPZ_ARRAYS)}"
    with damage_refused(where, expected), path.open("rb") as file:
        begin = file.read(len(NPY_BEGINS))
        if begin == NPY_BEGINS:
            raise DataError(f"{where}: a single array; {expected}")
        if not begin.startswith(ZIP_BEGINS):
            raise DataError(f"{where}: no archive of arrays; {expected}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            names = [*NPZ_ARRAYS, *([NPZ_CLASSES] if NPZ_CLASSES in archive.files else [])]
            size = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in names)
            free = psutil.virtual_memory().available
            if size > free:  # no more than that is unpacked
                raise DataError(
                    f"{where}: {size / 2**30:.1f} GiB unpacked, which do not fit into the "
                    f"{free / 2**30:.1f} GiB of memory that are free"
                )
            return {name: archive[name] for name in names}


def _class_names(where: str, stored: NDArray[Any]) -> list[str]:
    """The names of an array of text. Raises DataError."""
    if stored.ndim != 1 or stored.dtype.kind not in "US":
        raise DataError(
            f"{where}: {NPZ_CLASSES} is {stored.dtype} of shape {stored.shape}, expected a list of "
            "names"
        )
    with damage_refused(f"{where}: {NPZ_CLASSES} is no text in UTF-8"):
        is_text = stored.dtype.kind == "U"
        names = [str(name) if is_text else bytes(name).decode() for name in stored]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: {NPZ_CLASSES} has a name twice")
    _validate_names(f"{where}: {NPZ_CLASSES}", names)
    return names


def _validate_names(where: str, names: list[str]) -> None:
    """Raise DataError for names of classes that can't be shown, or too many."""
    if len(names) > MAX_CLASSES:
        raise DataError(f"{where}: {len(names)} classes, expected at most {MAX_CLASSES}")
    for name in names:
        if not name.strip() or not is_printable(name):
            raise DataError(f"{where}: '{printable(name)}' is no name for a class; expected text")


def _is_cifar10(test: Split) -> bool:
    """Whether these are CIFAR-10's test images in their order."""
    images, labels = test
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest() == CIFAR10_TEST_SHA256


def _validate_split(where: str, images: NDArray[Any], labels: NDArray[Any], classes: int) -> Split:
    """Images and labels, the latter as (n,) of uint8, for more than 256 classes of uint16.

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
    return images, labels.astype(_label_type(classes))


def _label_type(classes: int) -> type[np.uint8 | np.uint16]:
    return np.uint8 if classes <= 256 else np.uint16


def read_folder(path: Path) -> DecodedImages:
    """The images of train/<class>/* and test/<class>/*, 32×32 pixels each. Raises DataError."""
    where = printable(path)
    classes = _class_folders(path / "train")
    if len(classes) < 2:
        raise DataError(
            f"{where}/train: {len(classes)} class folders, expected train/<class>/* with at "
            "least 2 classes"
        )
    _validate_names(f"{where}/train", classes)
    in_one_split = sorted(set(classes) ^ set(_class_folders(path / "test")))
    if in_one_split:
        names = ", ".join(printable(name) for name in in_one_split[:MAX_NAMES])
        raise DataError(f"{where}: {names} not in both train and test")
    train = _read_class_folders(path / "train", classes)
    test = _read_class_folders(path / "test", classes)
    return DecodedImages(train, test, classes)


def image_files(path: Path) -> list[Path]:
    """The files that `read_folder` reads, in the order in which it does."""
    files = []
    for split in ("train", "test"):
        for name in _class_folders(path / split):
            files += listed(path / split / name)
    return files


def _class_folders(split: Path) -> list[str]:
    if not split.is_dir():
        return []
    return [folder.name for folder in listed(split) if folder.is_dir()]


def _read_class_folders(split: Path, classes: list[str]) -> Split:
    images: list[Images] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = listed(split / name)
        if not files:
            raise DataError(f"{printable(split / name)}: no images, expected at least one")
        images.extend(_read_image(file) for file in files)
        labels.extend([label] * len(files))
    return np.stack(images), np.asarray(labels, _label_type(len(classes)))


def _read_image(file: Path) -> Images:
    """RGB, uint8 (32, 32, 3)."""
    return np.asarray(open_rgb(file, (IMAGE_SIZE, IMAGE_SIZE)))
