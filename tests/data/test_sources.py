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
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import (
    IMAGE_FOLDER_CLASSES,
    images,
    scatter_clutter,
    write_cifar10_batches,
    write_image_folder,
    write_npz,
)

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


def test_npz_gives_its_arrays_and_numbers_ten_classes_of_its_own(npz: Path) -> None:
    train, test, classes = read_npz(npz)
    with np.load(npz) as arrays:
        assert np.array_equal(train[0], arrays["x_train"])
        assert np.array_equal(test[1], arrays["y_test"])
    assert classes == [f"class {number}" for number in range(10)]


def test_npz_of_cifar10_has_its_names(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole set can't lie here; so the test images of the small one stand for its own."""
    with np.load(npz) as arrays:
        content = arrays["x_test"].tobytes() + arrays["y_test"].tobytes()
    monkeypatch.setattr(sources, "CIFAR10_TEST_SHA256", hashlib.sha256(content).hexdigest())
    assert read_npz(npz).classes == list(CIFAR10_CLASSES)


@pytest.mark.parametrize(
    "names", [["cat", "dog", "owl"], ["Katze", "狗 🐕", "a[b],%"], [b"cat", b"dog", "ö".encode()]]
)
def test_npz_names_its_classes(names: list[Any], tmp_path: Path) -> None:
    path = write_npz(tmp_path / "three.npz", 3, classes=np.array(names))
    expected = [name.decode() if isinstance(name, bytes) else name for name in names]
    assert read_npz(path).classes == expected


def test_npz_may_have_more_names_than_labels(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "two.npz", 2, classes=np.array(["cat", "dog", "owl"]))
    assert read_npz(path).classes == ["cat", "dog", "owl"]


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


def test_files_of_file_browsers_are_passed_over(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images")
    before = read_folder(root)
    scatter_clutter(root)
    after = read_folder(root)
    assert after.classes == before.classes
    assert np.array_equal(after.train[0], before.train[0])
    assert np.array_equal(after.test[0], before.test[0])


CLASS_NAMES = (
    "a[0]",
    "a, b",
    "100 %",
    " x ",
    'it\'s "it"',
    "a／b",  # noqa: RUF001  no slash, though it looks like one
    "кошка",
    "犬",
    "🐈‍⬛",
    "$x_",
    "{y}",
    "y" * 80,
)


def test_folders_may_have_any_name_that_can_be_shown(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in CLASS_NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / split / name / "0.png")
    assert read_folder(tmp_path).classes == sorted(CLASS_NAMES)


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


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zip_bomb(root: Path) -> Path:
    """Zeros that say of themselves that they are four terabytes."""
    path = root / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", bytes(10**6))
        for info in archive.filelist:
            info.file_size = 2**40
    return path


def broken_batches(change: Callable[[Path], object]) -> Write:
    def write(root: Path) -> Path:
        batches = write_cifar10_batches(root / "batches")
        change(batches / "data_batch_2")
        return batches

    return write


def endless(batch: Path) -> None:
    batch.unlink()
    batch.symlink_to("/dev/zero")


def made_a_folder(batch: Path) -> None:
    batch.unlink()
    batch.mkdir()


def with_many_classes(root: Path) -> None:
    for number in range(998):
        (root / "train" / f"{number:04}").mkdir()


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
    "one class": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=arrays["y_train"] * 0)),
        "all labels are 0, expected at least 2 classes",
    ),
    "float labels": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=arrays["y_train"] * 1.0)),
        "y_train is float64",
    ),
    "too many classes": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=np.arange(20) * 100)),
        "labels from 0 to 1900, expected whole numbers from 0 to 999",
    ),
    "too few names": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array(["cat", "dog"]))),
        "labels from 0 to 9, expected whole numbers from 0 to 1",
    ),
    "a name twice": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array(["cat"] * 10))),
        "classes has a name twice",
    ),
    "an empty name": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array([*"abcdefghi", " "]))),
        "classes: ' ' is no name for a class",
    ),
    "a name that moves the cursor": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array([*"abcdefghi", "\x1b[2J"]))),
        r"classes: .*x1b\[2J' is no name for a class",
    ),
    "numbers as names": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.arange(10))),
        r"classes is int64 of shape \(10,\), expected a list of names",
    ),
    "names as objects": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array([*"abcdefghij"], object))),
        "Object arrays cannot be loaded",
    ),
    "names in Latin-1": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(classes=np.array([b"\xe9", *b"abcdefghi"]))),
        "classes",
    ),
    "a pickle": (
        read_npz,
        lambda root: written(root / "a.npz", pickle.dumps(Bomb())),
        "no archive of arrays; expected an .npz with x_train",
    ),
    "nothing in it": (
        read_npz,
        lambda root: written(root / "a.npz", b""),
        "no archive of arrays; expected an .npz with x_train",
    ),
    "a bomb": (read_npz, zip_bomb, r"a\.npz: 4096\.0 GiB unpacked, which do not fit"),
    "a file of devices": (
        read_cifar10,
        broken_batches(endless),
        "data_batch_2: not a CIFAR-10 batch, which has 31 MB",
    ),
    "a folder for a batch": (
        read_cifar10,
        broken_batches(made_a_folder),
        r"data_batch_2: can't be read \(Is a directory\)",
    ),
    "a symlink to nowhere": (
        read_folder,
        broken_folder(lambda root: (root / "test" / "cat" / "x.png").symlink_to("nowhere")),
        r"x\.png: not an image \(No such file or directory\)",
    ),
    "a folder among the images": (
        read_folder,
        broken_folder(lambda root: (root / "test" / "cat" / "more").mkdir()),
        r"more: not an image \(Is a directory\)",
    ),
    "a text among the images": (
        read_folder,
        broken_folder(lambda root: (root / "test" / "cat" / "README.txt").write_text("cats")),
        r"README\.txt: not an image",
    ),
    "a file name that is not UTF-8": (
        read_folder,
        broken_folder(
            lambda root: Path(os.fsdecode(bytes(root / "test/cat") + b"/\xff.png")).touch()
        ),
        r"xff\.png: not an image",
    ),
    "a class name that is not UTF-8": (
        read_folder,
        broken_folder(lambda root: Path(os.fsdecode(bytes(root / "train") + b"/\xff")).mkdir()),
        r"xff' is no name for a class",
    ),
    "too many class folders": (
        read_folder,
        broken_folder(with_many_classes),
        "train: 1001 classes, expected at most 1000",
    ),
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
    with pytest.raises(DataError, match=message) as raised:
        read(write(tmp_path))
    assert str(raised.value).isprintable()
    assert not Path("bombed").exists()
