"""Images of the user's own files: `read_npz` and `read_folder` give `DecodedImages`.

Nothing from outside is trusted: an archive may hold arrays only, and no more than fit into memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from cifar_hpo.data.arrays import (
    DecodedImages,
    Split,
    decoded,
    label_type,
    numbered_classes,
    validate_names,
)
from cifar_hpo.data.cifar import CIFAR10
from cifar_hpo.data.image_files import OtherSize, listed, open_image
from cifar_hpo.data.labels import CLASSES
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import printable

CIFAR10_TEST_SHA256 = "035ed11ac2ff599aab55fd82c2327cfdec691b6dce35812dbf19aac22345d94c"
"""Of the test images and then their labels, both as uint8 in the order of the archive."""

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""Images and labels as keras.datasets name them."""

NPZ_CLASSES = "classes"
"""An array that may lie beside these: the names of the classes, in the order of their labels."""

ZIP_BEGINS = b"PK"
NPY_BEGINS = b"\x93NUMPY"

MAX_NAMES = 5
"""Names of classes in a message."""


def read_npz(path: Path) -> DecodedImages:
    """The images of x_train, y_train, x_test, y_test, in any form that `arrays.decoded` takes.

    The classes have the names of the array `classes` where it is there; else CIFAR-10's where these
    are its images, else numbers. Raises DataError.
    """
    where = printable(path)
    arrays = load_npz(path, NPZ_ARRAYS, (NPZ_CLASSES,))
    names = _class_names(where, arrays[NPZ_CLASSES]) if NPZ_CLASSES in arrays else []
    train = arrays["x_train"], arrays["y_train"]
    test = arrays["x_test"], arrays["y_test"]
    images = decoded(where, train, test, names)
    is_unnamed = images.labels == CLASSES and images.classes == numbered_classes(10)
    if is_unnamed and _is_cifar10(images.test):
        return images._replace(classes=list(CIFAR10.classes))
    return images


def load_npz(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """These arrays of an .npz, and the optional ones where they are there.

    Raises DataError where they can't be read, or would not fit into memory.
    """
    where = printable(path)
    expected = f"expected an .npz with {', '.join(names)}"
    with damage_refused(where, expected), path.open("rb") as file:
        begin = file.read(len(NPY_BEGINS))
        if begin == NPY_BEGINS:
            raise DataError(f"{where}: a single array; {expected}")
        if not begin.startswith(ZIP_BEGINS):
            raise DataError(f"{where}: no archive of arrays; {expected}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            found = [*names, *(name for name in optional if name in archive.files)]
            size = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in found)
            free = psutil.virtual_memory().available
            if size > free:  # no more than that is unpacked
                raise DataError(
                    f"{where}: {size / 2**30:.1f} GiB unpacked, which do not fit into the "
                    f"{free / 2**30:.1f} GiB of memory that are free"
                )
            return {name: archive[name] for name in found}


def _class_names(where: str, stored: NDArray[Any]) -> list[str]:
    """The names of an array of text. Raises DataError."""
    if stored.ndim != 1 or stored.dtype.kind not in "US":
        raise DataError(
            f"{where}: {NPZ_CLASSES} is {stored.dtype} of shape {stored.shape}, expected a list of "
            "names"
        )
    with damage_refused(f"{where}: {NPZ_CLASSES} is no text in UTF-8"):
        is_text = stored.dtype.kind == "U"
        return [str(name) if is_text else bytes(name).decode() for name in stored]


def _is_cifar10(test: Split) -> bool:
    """Whether these are CIFAR-10's test images in their order."""
    images, labels = test
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest() == CIFAR10_TEST_SHA256


def read_folder(path: Path) -> DecodedImages:
    """The images of train/<class>/* and test/<class>/*, all of one size.

    Grey where all of them are, (n, height, width, 1), else RGB. Raises DataError.
    """
    where = printable(path)
    classes = _class_folders(path / "train")
    if len(classes) < 2:
        raise DataError(
            f"{where}/train: {len(classes)} class folders, expected train/<class>/* with at "
            "least 2 classes"
        )
    validate_names(f"{where}/train", classes)
    in_one_split = sorted(set(classes) ^ set(_class_folders(path / "test")))
    if in_one_split:
        names = ", ".join(printable(name) for name in in_one_split[:MAX_NAMES])
        raise DataError(f"{where}: {names} not in both train and test")
    files = {split: _files_by_class(path / split, classes) for split in ("train", "test")}
    images = _read_images([file for split in files.values() for _, file in split])
    labels = [label for split in files.values() for label, _ in split]
    numbers = np.asarray(labels, label_type(len(classes)))
    count = len(files["train"])
    train, test = (images[:count], numbers[:count]), (images[count:], numbers[count:])
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


def _files_by_class(split: Path, classes: Sequence[str]) -> list[tuple[int, Path]]:
    """Each file with the number of its class. Raises DataError for a class without any."""
    found: list[tuple[int, Path]] = []
    for label, name in enumerate(classes):
        files = listed(split / name)
        if not files:
            raise DataError(f"{printable(split / name)}: no images, expected at least one")
        found.extend((label, file) for file in files)
    return found


def _read_images(files: Sequence[Path]) -> NDArray[np.uint8]:
    """All images as one array (n, height, width, channels). Raises DataError."""
    read: list[Image.Image] = []
    size = None
    for file in files:
        try:
            image = open_image(file, size)
        except OtherSize:
            raise _odd_one(files) from None
        size = image.size
        read.append(image)
    mode = "L" if all(image.mode == "L" for image in read) else "RGB"
    images = np.stack([np.asarray(image.convert(mode)) for image in read])
    return images.reshape(*images.shape[:3], -1)  # grey (n, h, w) to (n, h, w, 1)


def _odd_one(files: Sequence[Path]) -> DataError:
    """Names a file that does not have the size of most."""
    sizes = {file: open_image(file).size for file in files}
    (usual, _), *_ = Counter(sizes.values()).most_common()
    file, size = next((file, size) for file, size in sizes.items() if size != usual)
    like = next(file for file, size in sizes.items() if size == usual)
    expected = f"expected {usual[0]}×{usual[1]} as {printable(like.name)} has"
    return DataError(f"{printable(file)}: {size[0]}×{size[1]} pixels, {expected}")
