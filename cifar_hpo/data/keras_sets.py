"""Keras' own small sets beside CIFAR: `KERAS_SETS`, each with its files and what reads them.

They are read from Keras' cache as Keras leaves them there, each file held against its checksum.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.data.arrays import DecodedImages, decoded
from cifar_hpo.data.downloads import RemoteFile, keras_cache
from cifar_hpo.data.sources import NPZ_ARRAYS, load_npz
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import printable

KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

IDX_UINT8 = b"\0\0\x08"
"""Begins an IDX file of uint8; a byte with the number of dimensions and their lengths follow."""

MAX_BYTES = 100_000_000
"""That are unpacked of an IDX file; the largest has 47 million."""


@dataclass(frozen=True)
class KerasSet:
    """A set: its files, the folder in Keras' cache in which they lie, and what reads them."""

    folder: str
    files: tuple[RemoteFile, ...]
    read_files: Callable[[Sequence[Path]], DecodedImages]

    def find(self, given: Path | None) -> list[Path]:
        """The files in their order: in the folder given, which may be the file itself where there
        is one, else in Keras' cache, to which missing ones are downloaded. Raises DataError."""
        if given is not None:
            return [self._in_given(given, remote) for remote in self.files]
        paths = []
        for remote in self.files:
            path = keras_cache() / self.folder / remote.name
            paths.append(path if path.exists() else remote.download(path))
        return paths

    def read(self, paths: Sequence[Path]) -> DecodedImages:
        """The images of these files. Raises DataError for other files than the official ones."""
        for remote, path in zip(self.files, paths, strict=True):
            remote.verify(path)
        return self.read_files(paths)

    def _in_given(self, given: Path, remote: RemoteFile) -> Path:
        is_itself = len(self.files) == 1 and not given.is_dir()
        path = given if is_itself else given / remote.name
        if not path.exists():
            problem = f"data.path: {printable(path)} does not exist"
            raise DataError(f"{problem}; {remote.how_to_get}")
        return path


def _read_mnist(paths: Sequence[Path]) -> DecodedImages:
    (path,) = paths
    arrays = load_npz(path, NPZ_ARRAYS)
    train = arrays["x_train"], arrays["y_train"]
    test = arrays["x_test"], arrays["y_test"]
    return decoded(printable(path), train, test, [str(digit) for digit in range(10)])


def _read_fashion_mnist(paths: Sequence[Path]) -> DecodedImages:
    train_labels, train_images, test_labels, test_images = map(read_idx, paths)
    train, test = (train_images, train_labels), (test_images, test_labels)
    return decoded(printable(paths[0].parent), train, test, FASHION_CLASSES)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of a packed IDX file. Raises DataError for one that is anything else."""
    where = printable(path)
    with damage_refused(f"{where}: not an IDX file"), gzip.open(path) as file:
        magic, dimensions = file.read(len(IDX_UINT8)), file.read(1)
        if magic != IDX_UINT8 or not dimensions:
            raise DataError(f"{where}: no IDX file of uint8")
        shape = np.frombuffer(file.read(4 * dimensions[0]), ">u4").tolist()
        size = math.prod(shape)
        content = file.read(min(size, MAX_BYTES))
        if len(shape) != dimensions[0] or len(content) != size or file.read(1):
            raise DataError(f"{where}: not as long as its shape {tuple(shape)} says")
    return np.frombuffer(content, np.uint8).reshape(shape)


FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

MNIST = RemoteFile(
    "MNIST",
    f"{KERAS_URL}mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)

FASHION_MNIST = {
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
}
"""Its files with their SHA-256, in the order in which they are read."""


def _fashion_mnist_files() -> tuple[RemoteFile, ...]:
    files = []
    for name, sha256 in FASHION_MNIST.items():
        others = tuple(other for other in FASHION_MNIST if other != name)
        files.append(RemoteFile("Fashion-MNIST", KERAS_URL + name, sha256, others))
    return tuple(files)


KERAS_SETS = {
    "mnist": KerasSet("", (MNIST,), _read_mnist),
    "fashion_mnist": KerasSet("fashion-mnist", _fashion_mnist_files(), _read_fashion_mnist),
}
"""By data.name; CIFAR-10 and CIFAR-100 are in `cifar`."""
