"""Arrays in every form that says what they are, made one form; others told with what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cifar_hpo.data.arrays import DecodedImages, decoded
from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL
from cifar_hpo.errors import DataError

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def both(images: Any = PIXELS, labels: Any = LABELS, **given: Any) -> DecodedImages:
    """The same for training and test."""
    return decoded("here", (images, labels), (images, labels), **given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS[..., 0], PIXELS[..., :1]),
        (PIXELS.tolist(), PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS > 100, (PIXELS > 100) * np.uint8(255)),
        (PIXELS / 255, (PIXELS / 255).astype(np.float32)),
        (PIXELS.astype(np.float16), PIXELS.astype(np.float32)),
        (PIXELS[..., :2], PIXELS[..., :2]),
    ],
    ids=["uint8", "no channels", "lists", "int64", "bool", "float64", "float16", "two channels"],
)
def test_images_become_uint8_or_float32_with_channels(given: Any, expected: NDArray[Any]) -> None:
    images, _ = both(given).train
    assert images.dtype == expected.dtype
    assert np.array_equal(images, expected)


SEVERAL_LABELS = np.array([[1, 1], [0, 0], [0, 1], [1, 0], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("given", "kind", "expected", "names"),
    [
        (LABELS, CLASSES, LABELS, ["class 0", "class 1", "class 2"]),
        (LABELS[:, None], CLASSES, LABELS, ["class 0", "class 1", "class 2"]),
        (np.array([*"cabcab"]), CLASSES, [2, 0, 1, 2, 0, 1], ["a", "b", "c"]),
        (["ö", "a"] * 3, CLASSES, [1, 0] * 3, ["a", "ö"]),
        (np.array([b"b", b"a"] * 3), CLASSES, [1, 0] * 3, ["a", "b"]),
        (np.array(["b", "a"] * 3, object), CLASSES, [1, 0] * 3, ["a", "b"]),
        (LABELS > 0, CLASSES, [0, 1, 1, 0, 1, 1], ["class 0", "class 1"]),
        (np.array([0.0, 1.0] * 3), CLASSES, [0, 1] * 3, ["class 0", "class 1"]),
        (np.eye(3)[LABELS], CLASSES, LABELS, ["class 0", "class 1", "class 2"]),
        (np.eye(4, dtype=bool)[LABELS], CLASSES, LABELS, [f"class {n}" for n in range(4)]),
        (SEVERAL_LABELS, SEVERAL, SEVERAL_LABELS, ["label 0", "label 1"]),
        (SEVERAL_LABELS.astype(np.float32), SEVERAL, SEVERAL_LABELS, ["label 0", "label 1"]),
        (LABELS / 2, NUMBERS, LABELS / 2, ["value"]),
        (LABELS[:, None] * 1.0, NUMBERS, LABELS, ["value"]),
        (SEVERAL_LABELS / 2, NUMBERS, SEVERAL_LABELS / 2, ["value_0", "value_1"]),
    ],
)
def test_labels_say_what_they_are(given: Any, kind: str, expected: Any, names: list[str]) -> None:
    found = both(labels=given)
    assert (found.labels, found.classes) == (kind, names)
    for _, labels in (found.train, found.test):
        assert labels.dtype == (np.float32 if kind == NUMBERS else np.uint8)
        assert np.array_equal(labels, np.asarray(expected, labels.dtype))


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        (NUMBERS, LABELS, LABELS.astype(np.float32)),
        (SEVERAL, np.eye(3)[LABELS], np.eye(3)[LABELS]),
        (CLASSES, LABELS * 1.0, LABELS),
    ],
)
def test_who_gives_labels_may_say_what_they_are(kind: str, labels: Any, expected: Any) -> None:
    found = both(labels=labels, kind=kind)
    assert found.labels == kind
    assert np.array_equal(found.train[1], expected)


def test_both_splits_decide_together() -> None:
    """A split whose labels happen to look like another kind's is not that kind."""
    halves = LABELS / 2
    numbers = decoded("here", (PIXELS, halves), (PIXELS, LABELS))
    assert numbers.labels == NUMBERS
    assert numbers.test[1].dtype == np.float32
    one_hot = np.eye(2)[LABELS % 2]
    several = decoded("here", (PIXELS, one_hot), (PIXELS, SEVERAL_LABELS))
    assert several.labels == SEVERAL


def test_names_are_those_that_are_given() -> None:
    names = ["cat", "dog", "owl", "yak"]
    assert both(names=names).classes == names
    words = decoded("here", (PIXELS, [*"dcdcdc"]), (PIXELS, [*"ccdddd"]), names=["d", "c"])
    assert words.train[1].tolist() == [0, 1] * 3
    assert both(labels=SEVERAL_LABELS, names=["red", "round"]).classes == ["red", "round"]
    assert both(labels=LABELS / 2, names=["age"]).classes == ["age"]


def changed(number: int, value: float) -> NDArray[np.float32]:
    floats = PIXELS.astype(np.float32)
    floats[number, 1, 1, 1] = value
    return floats


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"images": changed(4, np.nan)}, "train: image 4 has pixels that are NaN or infinite"),
    "infinite": ({"images": changed(0, np.inf)}, "image 0 has pixels that are NaN"),
    "too large for float32": (
        {"images": PIXELS * 1e300},
        "has pixels that are NaN or infinite",
    ),
    "negative": ({"images": PIXELS.astype(int) - 9}, "images are int64 from -9 to .*, expected 0"),
    "16 bits": ({"images": PIXELS.astype(np.uint16) * 257}, "uint16 from .*, or float32"),
    "channels first": (
        {"images": np.zeros((6, 3, 32, 32), np.uint8)},
        r"\(6, 3, 32, 32\) have their channels first, expected them last: np\.moveaxis",
    ),
    "a table": ({"images": np.zeros((6, 30))}, r"images are float64 of shape \(6, 30\), expected"),
    "of several sizes": (
        {"images": [np.zeros((5, 4, 3)), np.zeros((5, 5, 3))]},
        "train: images are no array",
    ),
    "texts for images": ({"images": ["a.png"] * 6}, "images are <U5 of shape"),
    "no images": ({"images": PIXELS[:0], "labels": LABELS[:0]}, r"shape \(0, 5, 4, 3\)"),
    "nothing": ({"images": None}, r"images are object of shape \(\)"),
    "complex": ({"images": PIXELS * 1j}, "images are complex128"),
    "too few labels": ({"labels": LABELS[:5]}, r"6 images but labels of shape \(5,\)"),
    "one label": ({"labels": 3}, r"6 images but labels of shape \(\)"),
    "maps of labels": ({"labels": PIXELS}, r"labels of shape \(6, 5, 4, 3\)"),
    "objects": ({"labels": [{}] * 6}, "labels are object, expected whole numbers"),
    "one class": ({"labels": LABELS * 0 + 4}, "all labels are 4, expected at least 2 classes"),
    "one word": ({"labels": ["cat"] * 6}, "all labels are cat, expected at least 2"),
    "a negative label": ({"labels": LABELS - 1}, "train: labels from -1 to 1, expected whole"),
    "many classes": (
        {"labels": LABELS * 1000},
        "0 to 2000, expected whole numbers from 0 to 999; a number to be predicted is a float",
    ),
    "a label beyond its names": ({"names": ["a", "b"]}, "from 0 to 2, expected whole .* 0 to 1"),
    "a word beyond its names": (
        {"labels": [*"abcabc"], "names": ["a", "b"]},
        "train: label 'c' is none of the 2 classes",
    ),
    "a name twice": ({"names": ["a", "a", "b"]}, "classes has a name twice"),
    "an empty name": ({"names": ["a", "", "b"]}, "'' is no name for a class"),
    "names for other columns": (
        {"labels": SEVERAL_LABELS, "names": ["a", "b", "c"]},
        "3 names for 2 labels an image",
    ),
    "counts in rows": (
        {"labels": SEVERAL_LABELS + 1},
        r"labels of shape \(6, 2\) from 1 to 2, expected 0 and 1 for several labels, or floats",
    ),
    "a label that is NaN": ({"labels": LABELS * np.nan}, "some labels are NaN or infinite"),
    "one number": ({"labels": LABELS * 0 + 0.5}, "all labels are 0.5, so there is nothing"),
    "of no kind": ({"kind": "class"}, "labels='class' is none of classes, several, numbers"),
    "several that are one": ({"kind": SEVERAL}, "expected 0 and 1 of shape"),
    "halves for classes": ({"labels": LABELS / 2, "kind": CLASSES}, "expected whole numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_t_be_trained_on_is_told(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(DataError, match=rf"^here.*{message}") as raised:
        both(**given)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS / 255, LABELS, r"train has images of uint8 of shape \(n, 5, 4, 3\), test of float"),
        (PIXELS[:, :4], LABELS, r"train .*, test of uint8 of shape \(n, 4, 4, 3\); expected"),
        (PIXELS, LABELS + 1, "test: labels from 1 to 3, expected whole numbers from 0 to 2"),
        (PIXELS, [*"abcabc"], "labels are int64 in train and <U1 in test"),
        (PIXELS, np.eye(3)[LABELS], r"labels of shape \(6,\) in train, \(6, 3\) in test"),
    ],
)
def test_splits_that_do_not_fit_each_other_are_told(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^here: {message}"):
        decoded("here", (PIXELS, LABELS), (images, labels))
