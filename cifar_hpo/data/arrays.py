"""Arrays as a source gives them, held against what can be trained on: `decoded` gives
`DecodedImages`.

Images become uint8 or float32 of one shape, labels one of the forms of `labels`. Whoever gave the
arrays may mend what is wrong, so every error says what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.data.labels import CLASSES, LABELS, NUMBERS, SEVERAL
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import is_printable, printable

MAX_CLASSES = 1_000
"""As many as ImageNet has: MLflow takes 1,000 metrics at once, and a confusion matrix has the
square of the classes."""

CHANNELS_FIRST = (1, 3)
"""Heights of an image that are taken for its channels where the rest of its shape fits that."""

Images = NDArray[Any]
"""(n, height, width, channels), uint8 or float32."""

Labels = NDArray[Any]
"""Of a shape and a dtype as `labels` says of each kind."""

Split = tuple[Images, Labels]


class Streamed(NamedTuple):
    """Training images that are not kept: how many there are, and the digest of their labels."""

    total: int
    digest: str


class DecodedImages(NamedTuple):
    """What a source holds.

    classes: the names of the outputs, as `Dataset` has them; labels that are classes are places in
    it. labels: what they are, one of LABELS. streamed: where `train` is an example alone. name: of
    the dataset, where the source itself has one.
    """

    train: Split
    test: Split
    classes: list[str]
    labels: str = CLASSES
    streamed: Streamed | None = None
    name: str | None = None


def decoded(
    where: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    names: Sequence[str] = (),
    kind: str | None = None,
) -> DecodedImages:
    """Images and labels of both splits, in any form that says what they are.

    Images may be (n, height, width) or (n, height, width, channels) of uint8, whole numbers from 0
    to 255, truth values or floats. Labels may be whole numbers, texts or one-hot rows for classes,
    rows of 0 and 1 for several labels, floats for numbers; floats that are 0 and 1 alone are two
    classes.

    where: begins the message of the DataError that a wrong form or range raises. names: of the
    outputs, where they are known. kind: one of LABELS; by the labels' form unless it is said.
    """
    splits = {"train": train, "test": test}
    images, labels = {}, {}
    for name, (x, y) in splits.items():
        images[name] = _images(f"{where}: {name}", x)
        labels[name] = _flat_labels(f"{where}: {name}", y, len(images[name]))
    _validate_equal_form(where, images["train"], images["test"])
    kind, classes = understood(where, labels, list(names), kind)
    return DecodedImages(
        (images["train"], labels["train"]), (images["test"], labels["test"]), classes, kind
    )


def numbered_classes(count: int) -> list[str]:
    """Names for classes that have none."""
    return [f"class {number}" for number in range(count)]


def label_type(classes: int) -> type[np.uint8 | np.uint16]:
    return np.uint8 if classes <= 256 else np.uint16


def validate_names(where: str, names: Sequence[str]) -> None:
    """Raise DataError for names of classes that can't be shown, too many, or twice there."""
    if len(names) > MAX_CLASSES:
        raise DataError(f"{where}: {len(names)} classes, expected at most {MAX_CLASSES}")
    if len(set(names)) < len(names):
        raise DataError(f"{where} has a name twice")
    for name in names:
        if not name.strip() or not is_printable(name):
            raise DataError(f"{where}: '{printable(name)}' is no name for a class; expected text")


def _array(where: str, what: str, values: Any) -> NDArray[Any]:
    """Lists, and what other libraries have in place of arrays, as one. Raises DataError."""
    with damage_refused(f"{where}: {what} are no array"):
        array = np.asarray(values)
        if array.dtype.kind == "O" and array.ndim and all(isinstance(v, str) for v in array.flat):
            array = array.astype(str)
    return array


def _images(where: str, values: Any) -> Images:
    """Images (n, height, width, channels) of uint8 or float32. Raises DataError."""
    array = _array(where, "images", values)
    if array.ndim == 3:
        array = array[..., np.newaxis]  # (n, h, w) to (n, h, w, 1)
    if array.dtype.kind not in "buif" or array.ndim != 4 or not array.size:
        raise DataError(
            f"{where}: images are {array.dtype} of shape {np.shape(values)}, expected uint8 or "
            "float32 of shape (n, height, width, channels)"
        )
    _, height, width, channels = array.shape
    if height in CHANNELS_FIRST and width == channels and width > height:
        raise DataError(
            f"{where}: images of shape {array.shape} have their channels first, expected them "
            "last: np.moveaxis(images, 1, -1)"
        )
    return _pixels(where, array)


def _pixels(where: str, array: NDArray[Any]) -> Images:
    """uint8 as it is, floats as float32, truth values as 0 and 255. Raises DataError."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind in "iu":
        low, high = array.min(), array.max()
        if low < 0 or high > 255:
            raise DataError(
                f"{where}: images are {array.dtype} from {low} to {high}, expected 0 to 255, or "
                "float32"
            )
        return array.astype(np.uint8)
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32, copy=False)
    for number, image in enumerate(floats):  # one after the other takes no memory
        if not np.isfinite(image).all():
            raise DataError(f"{where}: image {number} has pixels that are NaN or infinite")
    return floats


def _validate_equal_form(where: str, train: Images, test: Images) -> None:
    """Raise DataError where the images of both splits do not fit the same model."""
    forms = []
    for images in (train, test):
        forms.append(f"{images.dtype} of shape (n, {', '.join(map(str, images.shape[1:]))})")
    if forms[0] != forms[1]:
        raise DataError(
            f"{where}: train has images of {forms[0]}, test of {forms[1]}; expected one form"
        )


def _flat_labels(where: str, values: Any, count: int) -> NDArray[Any]:
    """One label or one row of labels for each image. Raises DataError."""
    array = _array(where, "labels", values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array.reshape(-1)  # (n, 1) to (n,)
    if array.ndim not in (1, 2) or len(array) != count or not array.size:
        raise DataError(
            f"{where}: {count} images but labels of shape {array.shape}, expected ({count},)"
        )
    if array.dtype.kind not in "biufUS":
        raise DataError(
            f"{where}: labels are {array.dtype}, expected whole numbers from 0, texts or floats"
        )
    if array.dtype.kind == "S":
        with damage_refused(f"{where}: labels are no text in UTF-8"):
            array = np.array([bytes(name).decode() for name in array.flat]).reshape(array.shape)
    return array


def understood(
    where: str, labels: dict[str, NDArray[Any]], names: list[str], kind: str | None
) -> tuple[str, list[str]]:
    """What labels are and the names of the outputs; brings the labels of each split, of which there
    are train and test at least, to the form of their kind. Raises DataError."""
    train, test = labels["train"], labels["test"]
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{where}: labels of shape {train.shape} in train, {test.shape} in test")
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise DataError(f"{where}: labels are {train.dtype} in train and {test.dtype} in test")
    if names:
        validate_names(f"{where}: classes", names)
    if train.dtype.kind == "U":
        names = _numbered(where, labels, names)
    kind = kind or _kind(where, labels)
    if kind == CLASSES:
        return kind, _classes(where, labels, names)
    if kind == SEVERAL:
        return kind, _several(where, labels, names)
    if kind == NUMBERS:
        return kind, _numbers(where, labels, names)
    raise DataError(f"{where}: labels={kind!r} is none of {', '.join(LABELS)}")


def _numbered(where: str, labels: dict[str, NDArray[Any]], names: list[str]) -> list[str]:
    """Replace texts by their places among the names; returns these."""
    if labels["train"].ndim != 1:
        raise DataError(
            f"{where}: labels are texts of shape {labels['train'].shape}, expected (n,)"
        )
    names = names or sorted(set(labels["train"].tolist()))
    validate_names(f"{where}: labels", names)
    places = {name: place for place, name in enumerate(names)}
    for split, texts in labels.items():
        unknown = sorted(set(texts.tolist()) - set(names))
        if unknown:
            problem = f"label '{printable(unknown[0])}' is none of the {len(names)} classes"
            raise DataError(f"{where}: {split}: {problem}")
        labels[split] = np.array([places[text] for text in texts.tolist()])
    return names


def _kind(where: str, labels: dict[str, NDArray[Any]]) -> str:
    """What labels are by their form, which is looked at in both splits."""
    arrays = list(labels.values())
    is_float = any(array.dtype.kind == "f" for array in arrays)
    if arrays[0].ndim == 1:
        is_number = is_float and not all(_is_zero_or_one(array) for array in arrays)
        return NUMBERS if is_number else CLASSES
    if all(_is_one_hot(array) for array in arrays):
        return CLASSES
    if all(_is_zero_or_one(array) for array in arrays):
        return SEVERAL
    if is_float:
        return NUMBERS
    low = min(array.min() for array in arrays)
    high = max(array.max() for array in arrays)
    raise DataError(
        f"{where}: labels of shape {arrays[0].shape} from {low} to {high}, expected 0 and 1 for "
        "several labels, or floats for numbers"
    )


def _is_zero_or_one(array: NDArray[Any]) -> bool:
    return bool(np.isin(array, (0, 1)).all())


def _is_one_hot(array: NDArray[Any]) -> bool:
    return _is_zero_or_one(array) and bool((array.sum(axis=1) == 1).all())


def _classes(where: str, labels: dict[str, NDArray[Any]], names: list[str]) -> list[str]:
    if labels["train"].ndim == 2:
        names = names or numbered_classes(labels["train"].shape[1])
    for split, array in labels.items():
        labels[split] = _class_numbers(f"{where}: {split}", array, names)
    train = labels["train"]
    count = len(names) or int(train.max()) + 1
    highest = min(count, MAX_CLASSES) - 1
    for split, array in labels.items():
        if array.min() < 0 or array.max() > highest:
            hint = "; a number to be predicted is a float" if count > MAX_CLASSES else ""
            raise DataError(
                f"{where}: {split}: labels from {array.min()} to {array.max()}, expected whole "
                f"numbers from 0 to {highest}{hint}"
            )
        if split == "train" and array.min() == array.max():
            only = names[array[0]] if names else array[0]
            raise DataError(f"{where}: all labels are {only}, expected at least 2 classes")
        labels[split] = array.astype(label_type(count))
    return names or numbered_classes(count)


def _class_numbers(where: str, array: NDArray[Any], names: list[str]) -> NDArray[Any]:
    """Labels (n,) as whole numbers, of one-hot rows their places. Raises DataError."""
    if array.ndim == 2:
        if not _is_one_hot(array):
            raise DataError(f"{where}: rows of labels are not one-hot, expected one 1 in each")
        if names and len(names) != array.shape[1]:
            raise DataError(f"{where}: {len(names)} classes but labels of shape {array.shape}")
        places: NDArray[Any] = array.argmax(axis=1)
        return places
    if array.dtype.kind == "f":
        if not np.array_equal(array, np.rint(array)):
            raise DataError(f"{where}: labels are {array.dtype}, expected whole numbers from 0")
        return array.astype(np.int64)
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _several(where: str, labels: dict[str, NDArray[Any]], names: list[str]) -> list[str]:
    for split, array in labels.items():
        if array.ndim != 2 or not _is_zero_or_one(array):
            problem = f"labels are {array.dtype} of shape {array.shape}"
            raise DataError(f"{where}: {split}: {problem}, expected 0 and 1 of shape (n, labels)")
        labels[split] = array.astype(np.uint8)
    return _output_names(where, labels, names, "label {}")


def _numbers(where: str, labels: dict[str, NDArray[Any]], names: list[str]) -> list[str]:
    for split, array in labels.items():
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise DataError(f"{where}: {split}: some labels are NaN or infinite")
        labels[split] = numbers
    train = labels["train"]
    if np.ptp(train) == 0:
        raise DataError(f"{where}: all labels are {train.flat[0]}, so there is nothing to predict")
    if train.ndim == 1 and not names:
        return ["value"]
    return _output_names(where, labels, names, "value_{}")


def _output_names(
    where: str, labels: dict[str, NDArray[Any]], names: list[str], pattern: str
) -> list[str]:
    """A name for each column of the labels. Raises DataError for another number of names."""
    columns = labels["train"].reshape(len(labels["train"]), -1).shape[1]
    if columns > MAX_CLASSES:
        raise DataError(f"{where}: {columns} labels an image, expected at most {MAX_CLASSES}")
    if names and len(names) != columns:
        raise DataError(f"{where}: {len(names)} names for {columns} labels an image")
    return names or [pattern.format(number) for number in range(columns)]
