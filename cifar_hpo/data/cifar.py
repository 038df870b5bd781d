"""CIFAR-10 and CIFAR-100 as their authors give them: `find`, `download` and `read` a `Cifar`.

Nothing from outside is trusted: archives are held against their checksum and read in place, pickles
may hold arrays only.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cifar_hpo.data.arrays import DecodedImages, Split
from cifar_hpo.data.downloads import RemoteFile, keras_cache
from cifar_hpo.data.pickled import read_pickle
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import printable

SIDE = 32
"""Pixels of an image's side, in three colours."""


@dataclass(frozen=True)
class Cifar:
    """One of the two sets: where it is and what lies in its archive.

    unpacked: the archive's folder, in which the batches lie. label_key: of the labels in a batch.
    megabytes: of a batch as it is in the archive; max_bytes: that are read of one, which pickled
    by Python 3 is larger.
    """

    archive: RemoteFile
    unpacked: str
    train_batches: tuple[str, ...]
    test_batch: str
    label_key: bytes
    classes: tuple[str, ...]
    megabytes: int
    max_bytes: int

    @property
    def title(self) -> str:
        return self.archive.title

    @property
    def batches(self) -> tuple[str, ...]:
        return (*self.train_batches, self.test_batch)


CIFAR10 = Cifar(
    archive=RemoteFile(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    unpacked="cifar-10-batches-py",
    train_batches=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_batch="test_batch",
    label_key=b"labels",
    classes=(
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
    ),
    megabytes=31,
    max_bytes=200_000_000,
)

CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
    plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
"""The fine labels' names in their order."""

CIFAR100 = Cifar(
    archive=RemoteFile(
        "CIFAR-100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    unpacked="cifar-100-python",
    train_batches=("train",),
    test_batch="test",
    label_key=b"fine_labels",
    classes=tuple(CIFAR100_CLASSES.split()),
    megabytes=155,
    max_bytes=400_000_000,
)


def find(cifar: Cifar) -> Path | None:
    """The archive or its unpacked folder where Keras keeps it, if it is there."""
    for name in (
        f"{cifar.unpacked}-target/{cifar.unpacked}",
        cifar.unpacked,
        cifar.archive.name,
    ):
        path = keras_cache() / name
        if path.exists():
            return path
    return None


def download(cifar: Cifar) -> Path:
    """The official archive, put where Keras looks for it too. Raises DataError."""
    return cifar.archive.download(keras_cache() / cifar.archive.name)


def read(cifar: Cifar, source: Path) -> DecodedImages:
    """The images of the official archive, held against its checksum, or of its unpacked folder.

    Raises DataError, with nothing run or written, for a wrong checksum, a pickle that is more than
    arrays, or a missing batch.
    """
    batches = _read_unpacked(cifar, source) if source.is_dir() else _read_archive(cifar, source)
    images = np.concatenate([batches[name][0] for name in cifar.train_batches])
    labels = np.concatenate([batches[name][1] for name in cifar.train_batches])
    return DecodedImages((images, labels), batches[cifar.test_batch], list(cifar.classes))


def _read_unpacked(cifar: Cifar, folder: Path) -> dict[str, Split]:
    batches = {}
    for name in cifar.batches:
        file = folder / name
        with damage_refused(f"{printable(file)}: can't be read"), file.open("rb") as opened:
            content = opened.read(cifar.max_bytes + 1)
        if len(content) > cifar.max_bytes:
            expected = f"not a {cifar.title} batch, which has {cifar.megabytes} MB"
            raise DataError(f"{printable(file)}: {expected}")
        batches[name] = _read_batch(cifar, name, io.BytesIO(content))
    return batches


def _read_archive(cifar: Cifar, archive: Path) -> dict[str, Split]:
    cifar.archive.verify(archive)
    batches = {}
    how_to_get = cifar.archive.how_to_get
    with (
        damage_refused(f"{printable(archive)}: not read", how_to_get),
        tarfile.open(archive) as tar,
    ):
        for name in cifar.batches:
            member = tar.extractfile(f"{cifar.unpacked}/{name}")
            if member is None:
                raise DataError(f"{archive}: no {name} in it; {how_to_get}")
            batches[name] = _read_batch(cifar, name, member)
    return batches


def _read_batch(cifar: Cifar, name: str, file: IO[bytes]) -> Split:
    with damage_refused(f"{name}: not a {cifar.title} batch"):
        batch = read_pickle(file)
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[cifar.label_key])
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * SIDE**2:
        raise DataError(
            f"{name}: {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (n, 3072)"
        )
    planes = pixels.reshape(-1, 3, SIDE, SIDE)  # (n, colour, row, column)
    images = planes.transpose(0, 2, 3, 1)  # (n, row, column, colour)
    if not len(images) or labels.shape != (len(images),):
        raise DataError(f"{name}: {len(images)} images but labels of shape {labels.shape}")
    highest = len(cifar.classes) - 1
    expected = f"expected whole numbers from 0 to {highest}"
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels are {labels.dtype}, {expected}")
    if labels.min() < 0 or labels.max() > highest:
        raise DataError(f"{name}: labels from {labels.min()} to {labels.max()}, {expected}")
    return images, labels.astype(np.uint8)
