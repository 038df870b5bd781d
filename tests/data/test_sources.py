"""Files of the user's own, whole and broken; nothing from outside is trusted."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import (
    IMAGE_FOLDER_CLASSES,
    Bomb,
    images,
    scatter_clutter,
    write_image_folder,
    write_npz,
)

from cifar_hpo.data import sources
from cifar_hpo.data.arrays import DecodedImages
from cifar_hpo.data.cifar import CIFAR10
from cifar_hpo.data.labels import NUMBERS
from cifar_hpo.data.sources import read_folder, read_npz
from cifar_hpo.errors import DataError

pytestmark = pytest.mark.usefixtures("own_folder")


def test_npz_gives_its_arrays_and_numbers_ten_classes_of_its_own(npz: Path) -> None:
    train, test, classes, *_ = read_npz(npz)
    with np.load(npz) as arrays:
        assert np.array_equal(train[0], arrays["x_train"])
        assert np.array_equal(test[1], arrays["y_test"])
    assert classes == [f"class {number}" for number in range(10)]


def test_npz_of_cifar10_has_its_names(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole set can't lie here; so the test images of the small one stand for its own."""
    with np.load(npz) as arrays:
        content = arrays["x_test"].tobytes() + arrays["y_test"].tobytes()
    monkeypatch.setattr(sources, "CIFAR10_TEST_SHA256", hashlib.sha256(content).hexdigest())
    assert read_npz(npz).classes == list(CIFAR10.classes)


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
    train, _, classes, *_ = read_npz(path)
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


def test_npz_takes_images_of_any_size_and_numbers_to_be_predicted(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((6, 28, 20))
    numbers = np.arange(6) / 2
    path = tmp_path / "grey.npz"
    np.savez(path, x_train=grey, y_train=numbers, x_test=grey, y_test=numbers)
    decoded = read_npz(path)
    assert decoded.train[0].shape == (6, 28, 20, 1)
    assert decoded.train[0].dtype == decoded.train[1].dtype == np.float32
    assert (decoded.labels, decoded.classes) == (NUMBERS, ["value"])
    assert np.array_equal(decoded.test[1], numbers)


def test_a_folder_of_grey_images_has_one_channel_and_one_of_both_has_three(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (28, 20), 77).save(tmp_path / split / name / "0.png")
    decoded = read_folder(tmp_path)
    assert decoded.train[0].shape == (2, 20, 28, 1)
    assert np.all(decoded.train[0] == 77)
    Image.new("RGB", (28, 20), (1, 2, 3)).save(tmp_path / "test" / "dog" / "1.png")
    decoded = read_folder(tmp_path)
    assert decoded.train[0].shape == (2, 20, 28, 3)
    assert np.all(decoded.train[0] == 77)
    assert decoded.test[0][-1, 0, 0].tolist() == [1, 2, 3]


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
        r"train: 20 images but labels of shape \(0,\), expected \(20,\)",
    ),
    "floats in one split": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(x_train=arrays["x_train"] / 255)),
        r"train has images of float32 of shape \(n, 32, 32, 3\), test of uint8",
    ),
    "wrong size": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(x_test=arrays["x_test"][:, :28])),
        r"test of uint8 of shape \(n, 28, 32, 3\); expected one form",
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
        "labels are uint8 in train and <U3 in test",
    ),
    "a label alone": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=np.array(3))),
        r"train: 20 images but labels of shape \(\)",
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
    "labels without a number": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=arrays["y_train"] * np.nan)),
        "train: some labels are NaN or infinite",
    ),
    "too many classes": (
        read_npz,
        broken_npz(lambda arrays: arrays.update(y_train=np.arange(20) * 100)),
        "labels from 0 to 1900, expected whole numbers from 0 to 999; a number to be predicted is",
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
        "test/cat/0.png: 64×40 pixels, expected 32×32 as 0.png has",
    ),
    "large image first": (
        read_folder,
        broken_folder(
            lambda root: Image.new("RGB", (64, 40)).save(root / "train" / "cat" / "0.png")
        ),
        "train/cat/0.png: 64×40 pixels, expected 32×32 as 1.png has",
    ),
    "no image": (
        read_folder,
        broken_folder(lambda root: (root / "test" / "cat" / "0.png").write_text("x")),
        "0.png: not an image",
    ),
    "no classes": (read_folder, lambda root: root, "expected train/<class>"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_told_with_its_path(case: str, tmp_path: Path) -> None:
    read, write, message = BROKEN[case]
    with pytest.raises(DataError, match=message) as raised:
        read(write(tmp_path))
    assert str(raised.value).isprintable()
    assert not Path("bombed").exists()
