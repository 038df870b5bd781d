"""Every source, whole and broken; nothing from outside is trusted."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import re
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import IMAGE_FOLDER_CLASSES, images, write_cifar10_batches, write_image_folder

from cifar_hpo.data import sources
from cifar_hpo.data.sources import (
    CIFAR10_CLASSES,
    UNPACKED,
    DecodedImages,
    download,
    find_in_keras_cache,
    read_cifar10,
    read_folder,
    read_npz,
)
from cifar_hpo.errors import DataError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bombed",)


def pack(unpacked: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(unpacked, UNPACKED)
    return archive


def accept(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is the official archive."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "CIFAR10_SHA256", checksum)


def test_npz_gives_its_arrays_and_cifar10_s_names_for_ten_classes(npz: Path) -> None:
    train, test, classes = read_npz(npz)
    with np.load(npz) as arrays:
        assert np.array_equal(train[0], arrays["x_train"])
        assert np.array_equal(test[1], arrays["y_test"])
    assert classes == list(CIFAR10_CLASSES)


def test_npz_takes_labels_in_a_column_and_numbers_its_classes(tmp_path: Path) -> None:
    pixels, _ = images(6, 0)
    labels = np.array([[0], [1], [2]] * 2)
    path = tmp_path / "three.npz"
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    train, _, classes = read_npz(path)
    assert train[1].tolist() == [0, 1, 2] * 2
    assert train[1].dtype == np.uint8
    assert classes == ["class 0", "class 1", "class 2"]


def test_folder_names_its_classes(tmp_path: Path) -> None:
    decoded = read_folder(write_image_folder(tmp_path / "images"))
    assert decoded.classes == list(IMAGE_FOLDER_CLASSES)
    for pixels, labels in (decoded.train, decoded.test):
        assert len(labels) == 12
        assert np.array_equal(pixels[:, 0, 0, 0], labels * 100)


def test_cifar10_s_batches_are_planes_of_colours_and_the_last_is_the_test_set(
    tmp_path: Path,
) -> None:
    train, test, classes = read_cifar10(write_cifar10_batches(tmp_path / "batches"))
    pixels, labels = images(10, 0)
    assert np.array_equal(train[0][:10], pixels)
    assert np.array_equal(train[1][:10], labels)
    assert len(train[0]) == 50
    pixels, labels = images(10, 5)
    assert np.array_equal(test[0], pixels)
    assert np.array_equal(test[1], labels)
    assert classes == list(CIFAR10_CLASSES)


def test_an_archive_is_read_in_place_where_its_checksum_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = write_cifar10_batches(tmp_path / "batches")
    archive = pack(unpacked, tmp_path / "cifar.tar.gz")
    with pytest.raises(DataError, match="not the official archive"):
        read_cifar10(archive)
    accept(archive, monkeypatch)
    from_archive, from_folder = read_cifar10(archive), read_cifar10(unpacked)
    assert np.array_equal(from_archive.train[0], from_folder.train[0])
    assert np.array_equal(from_archive.test[1], from_folder.test[1])


def test_keras_cache_is_searched_for_the_folder_and_for_the_archive(tmp_path: Path) -> None:
    assert find_in_keras_cache() is None
    datasets = tmp_path / "keras" / "datasets"
    datasets.mkdir(parents=True)
    archive = datasets / sources.ARCHIVE
    archive.touch()
    assert find_in_keras_cache() == archive
    unpacked = write_cifar10_batches(datasets / UNPACKED)
    assert find_in_keras_cache() == unpacked


def test_a_download_shows_its_progress_and_is_held_against_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    archive = pack(
        write_cifar10_batches(served / UNPACKED, images_per_batch=200), served / "cifar.tar.gz"
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
        monkeypatch.setattr(sources, "CIFAR10_URL", url)
        with pytest.raises(DataError, match="could not be downloaded"):
            download()
        assert find_in_keras_cache() is None
        assert list((tmp_path / "keras" / "datasets").iterdir()) == []
        accept(archive, monkeypatch)
        target = download()
        server.shutdown()
    assert target == find_in_keras_cache()
    assert len(read_cifar10(target).train[0]) == 1000
    assert re.search(r"downloading CIFAR-10 ━.* [\d.]+/[\d.]+ [kM]?B", capfd.readouterr().out)


def test_a_server_out_of_reach_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"could not be downloaded.*set data\.path"):
        download()


def test_a_batch_that_runs_code_is_refused(tmp_path: Path) -> None:
    root = write_cifar10_batches(tmp_path / "batches")
    (root / "data_batch_3").write_bytes(pickle.dumps({b"labels": Bomb(), b"data": 1}))
    with pytest.raises(
        DataError, match=r"refused: a CIFAR-10 batch that wants to call posix\.mkdir"
    ):
        read_cifar10(root)
    assert not Path("bombed").exists()


Write = Callable[[Path], Path]
Read = Callable[[Path], DecodedImages]


def broken_npz(change: Callable[[dict[str, Any]], object]) -> Write:
    def write(root: Path) -> Path:
        pixels, labels = images(20, 0)
        arrays: dict[str, Any] = {
            "x_train": pixels,
            "y_train": labels,
            "x_test": pixels,
            "y_test": labels,
        }
        change(arrays)
        np.savez(root / "broken.npz", **arrays)
        return root / "broken.npz"

    return write


def broken_folder(change: Callable[[Path], object]) -> Write:
    def write(root: Path) -> Path:
        folder = write_image_folder(root / "images")
        change(folder)
        return folder

    return write


def broken_batch(content: bytes) -> Write:
    def write(root: Path) -> Path:
        batches = write_cifar10_batches(root / "batches")
        (batches / "data_batch_2").write_bytes(content)
        return batches

    return write


def truncated(root: Path) -> Path:
    path = broken_npz(lambda _: None)(root)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def single_array(root: Path) -> Path:
    np.save(root / "one.npy", images(20, 0)[0])
    return (root / "one.npy").rename(root / "one.npz")


def damaged(root: Path) -> Path:
    """Compressed, with bytes changed in the middle."""
    pixels, labels = images(20, 0)
    path = root / "damaged.npz"
    np.savez_compressed(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    content = bytearray(path.read_bytes())
    for place in range(2000, 2100):
        content[place] ^= 255
    path.write_bytes(bytes(content))
    return path


def emptied(root: Path) -> None:
    shutil.rmtree(root / "train" / "owl")
    (root / "train" / "owl").mkdir()


BROKEN: dict[str, tuple[Read, Write, str]] = {
    "truncated": (read_npz, truncated, "expected an .npz with x_train"),
    "no labels": (read_npz, broken_npz(lambda arrays: arrays.pop("y_test")), "y_test"),
    "empty": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=arrays["y_train"][:0])),
        "y_train is uint8 of shape",
    ),
    "floats": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(x_train=arrays["x_train"] / 255)),
        "expected uint8",
    ),
    "wrong size": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(x_test=arrays["x_test"][:, :28])),
        r"\(n, 32, 32, 3\)",
    ),
    "too few labels": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=arrays["y_train"][:-1])),
        "20 images but labels",
    ),
    "label out of range": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_test=arrays["y_test"] + 5)),
        "from 0 to 9",
    ),
    "one array": (read_npz, single_array, "a single array; expected an .npz with x_train"),
    "damaged": (read_npz, damaged, "expected an .npz with x_train"),
    "words as labels": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_test=np.array(["cat"] * 20))),
        "test: labels are <U3, expected whole numbers from 0",
    ),
    "a label alone": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=np.array(3))),
        r"y_train is int64 of shape \(\), expected whole numbers",
    ),
    "a label alone in test": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_test=np.array(3))),
        r"20 images but labels of shape \(\)",
    ),
    "no images": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(x_test=np.array(3, np.uint8))),
        r"images are uint8 of shape \(\)",
    ),
    "objects": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=np.array([Bomb()] * 20, object))),
        "Object arrays cannot be loaded",
    ),
    "empty class": (read_folder, broken_folder(emptied), "owl: no images"),
    "class in one split only": (
        read_folder,
        broken_folder(lambda root: (root / "train" / "yak").mkdir()),
        "yak not in both",
    ),
    "large image": (
        read_folder,
        broken_folder(
            lambda root: Image.new("RGB", (64, 40)).save(root / "test" / "cat" / "0.png")
        ),
        "64×40 pixels, expected 32×32",
    ),
    "no image": (
        read_folder,
        broken_folder(lambda root: (root / "test" / "cat" / "0.png").write_text("x")),
        "0.png: not an image",
    ),
    "no classes": (read_folder, lambda root: root, "expected train/<class>"),
    "garbled batch": (read_cifar10, broken_batch(b"x"), "data_batch_2: not a CIFAR-10 batch"),
    "batch of another shape": (
        read_cifar10,
        broken_batch(pickle.dumps({b"labels": [0], b"data": np.zeros((1, 12), np.uint8)})),
        r"data_batch_2: uint8 of shape \(1, 12\), expected uint8 of shape \(n, 3072\)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_told_with_its_path(case: str, tmp_path: Path) -> None:
    read, write, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path))
    assert not Path("bombed").exists()
