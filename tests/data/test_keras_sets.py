"""Keras' own sets, as Keras leaves them in its cache: whole, changed and missing."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cifar_hpo.config import app
from cifar_hpo.data.keras_sets import FASHION_CLASSES, KERAS_SETS, KerasSet, read_idx
from cifar_hpo.errors import DataError

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras' cache, empty; nothing can be downloaded."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "keras" / "datasets"


def idx(array: NDArray[np.uint8]) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


def write(name: str, folder: Path) -> Path:
    """The files of a set, with few images."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "mnist":
        test, labels = PIXELS[:10], LABELS[:10]
        file = folder / "mnist.npz"
        np.savez(file, x_train=PIXELS, y_train=LABELS, x_test=test, y_test=labels)
        return folder
    arrays = (LABELS, PIXELS, LABELS[:10], PIXELS[:10])
    for remote, array in zip(KERAS_SETS[name].files, arrays, strict=True):
        (folder / remote.name).write_bytes(idx(array))
    return folder


def as_official(name: str, folder: Path) -> KerasSet:
    """The set as if these were its official files."""
    images = KERAS_SETS[name]
    files = []
    for remote in images.files:
        checksum = hashlib.sha256((folder / remote.name).read_bytes()).hexdigest()
        files.append(dataclasses.replace(remote, sha256=checksum))
    return dataclasses.replace(images, files=tuple(files))


CLASSES = {"mnist": [*"0123456789"], "fashion_mnist": list(FASHION_CLASSES)}


@pytest.mark.parametrize("name", KERAS_SETS)
def test_a_set_is_read_where_keras_keeps_it(name: str, datasets: Path) -> None:
    folder = write(name, datasets / KERAS_SETS[name].folder)
    images = as_official(name, folder)
    decoded = images.read(images.find(None))
    assert np.array_equal(decoded.train[0], PIXELS[..., None])
    assert np.array_equal(decoded.test[1], LABELS[:10])
    assert decoded.classes == CLASSES[name]


@pytest.mark.parametrize("name", KERAS_SETS)
def test_a_set_is_read_where_the_user_keeps_it(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path / "mine")
    images = as_official(name, folder)
    assert len(images.read(images.find(folder)).train[0]) == 20
    if name == "mnist":
        assert images.find(folder / "mnist.npz") == [folder / "mnist.npz"]


@pytest.mark.parametrize("name", KERAS_SETS)
def test_files_that_are_not_the_official_ones_are_refused(name: str, datasets: Path) -> None:
    write(name, datasets / KERAS_SETS[name].folder)
    images = KERAS_SETS[name]
    with pytest.raises(DataError, match=r"expected .*: not the official file of https://storage"):
        images.read(images.find(None))


@pytest.mark.parametrize("name", KERAS_SETS)
def test_a_set_that_can_t_be_had_is_told_with_what_to_do(
    name: str, datasets: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"MNIST could not be downloaded .*; download .*data\.path"):
        KERAS_SETS[name].find(None)
    with pytest.raises(DataError, match=r"data\.path: .*none.* does not exist; download https://"):
        KERAS_SETS[name].find(tmp_path / "none")
    assert list(datasets.rglob("*.*")) == []


def test_every_set_that_a_config_may_name_is_there() -> None:
    assert {*KERAS_SETS, "cifar10", "cifar100"} == set(app.KERAS_SETS)


HEAD = struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3)


DAMAGED = {
    "not packed": (b"not packed", "not an IDX file"),
    "short of a pixel": (gzip.compress(HEAD + bytes(5)), r"not as long as its shape \(2, 3\) says"),
    "a pixel too many": (gzip.compress(HEAD + bytes(7)), "not as long"),
    "half a head": (gzip.compress(HEAD[:6]), "not an IDX file|not as long"),
    "three bytes": (gzip.compress(HEAD[:3]), "no IDX file of uint8"),
    "floats": (gzip.compress(b"\0\0\x0d" + HEAD[3:]), "no IDX file of uint8"),
    "a huge shape": (
        gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, 2**31, 2**31)),
        "not as long",
    ),
    "cut off": (idx(PIXELS)[:-30], "not an IDX file"),
}
"""What an .idx.gz holds, which differs by the second (gzip notes the time), and what is said."""


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_idx_file_is_told(damage: str, tmp_path: Path) -> None:
    content, message = DAMAGED[damage]
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{tmp_path}/a\.gz: ({message})"):
        read_idx(tmp_path / "a.gz")
