"""tf.data.Datasets of a user's function: passed through once, then trained on as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cifar_hpo import trust
from cifar_hpo.config.app import Data
from cifar_hpo.data import given
from cifar_hpo.data.dataset import (
    PREPARED,
    Dataset,
    dataset_form,
    find_decoded,
    load_dataset,
    prepare_dataset,
)
from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL
from cifar_hpo.errors import ConfigError, DataError
from cifar_hpo.trust import Call

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8)
LABELS = np.arange(30) % 3


def stream(first: int, last: int, labels: Any = LABELS, images: Any = PIXELS) -> Any:
    """Single elements."""
    return tf.data.Dataset.from_tensor_slices((images[first:last], labels[first:last]))


def three(labels: Any = LABELS) -> Any:
    return stream(0, 18, labels), stream(18, 22, labels), stream(22, 30, labels)


@dataclass
class Given:
    """What the function returns, and how often it was called."""

    make: Callable[[], Any] = three
    calls: list[str] = field(default_factory=list)

    def call(self, path: str, call: Call) -> Any:
        self.calls.append(str(call))
        return self.make()


@pytest.fixture(autouse=True)
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """What `load` below returns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)
    function = Given()
    monkeypatch.setattr(trust, "call", function.call)
    monkeypatch.setattr(trust, "resolve", lambda path, target: three)
    return function


def config(**changes: Any) -> Data:
    values: dict[str, Any] = {"train_size": None, "validation": 0.1, "augment": []}
    return Data("function", None, call=Call("my_data.load"), **{**values, **changes})


def load(**changes: Any) -> Dataset:
    return load_dataset(config(**changes))


def test_streams_are_given_anew_to_each_trial_and_their_test_images_kept(function: Given) -> None:
    dataset = load()
    assert dataset.streams
    assert np.array_equal(dataset.test[0], PIXELS[22:])
    assert np.array_equal(dataset.test[1], LABELS[22:])
    assert isinstance(dataset.test[0], np.memmap)
    assert np.array_equal(dataset.train[0], PIXELS[:1])
    assert (dataset.shape, dataset.outputs, dataset.labels) == ((6, 5, 3), 3, CLASSES)
    assert dataset.streams.count == dataset_form(config()).images == 18
    assert len(function.calls) == 2
    other = load()
    assert len(function.calls) == 3
    assert other.streams
    assert other.streams.train is not dataset.streams.train
    found = find_decoded(dataset.digest)
    assert found
    assert found.streams is None


@pytest.mark.parametrize("given_batch", [None, 4, 100])
def test_whatever_batches_are_given_the_batch_size_counts(
    function: Given, given_batch: int | None
) -> None:
    if given_batch:
        function.make = lambda: [part.batch(given_batch) for part in three()]
    streams = load().streams
    assert streams
    train, validation, test = streams.in_batches(8)
    sizes = [len(labels) for _, labels in train.as_numpy_iterator()]
    assert sizes == [8, 8, 2]
    images = np.concatenate([images for images, _ in validation.as_numpy_iterator()])
    assert np.array_equal(images, PIXELS[18:22])
    assert sum(len(labels) for _, labels in test.as_numpy_iterator()) == 8


def digest(function: Given, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Of what a function returns, as another command finds it."""
    function.make = make
    monkeypatch.delenv(PREPARED, raising=False)
    monkeypatch.chdir(Path.cwd().parent)
    folder = Path(f"of{len(list(Path().iterdir()))}")
    folder.mkdir()
    monkeypatch.chdir(folder)
    return load().digest


def test_the_digest_is_of_the_test_images_and_of_all_labels(
    function: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(function, three, monkeypatch)
    train, validation, test = three()
    mixed = train.shuffle(18).batch(4), validation.batch(2), test.batch(3)
    assert digest(function, lambda: mixed, monkeypatch) == before
    fewer = train.take(17), validation, test
    assert digest(function, lambda: fewer, monkeypatch) != before
    others = train, validation, stream(21, 29)
    assert digest(function, lambda: others, monkeypatch) != before


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (LABELS[:, None], CLASSES, ("class 0", "class 1", "class 2")),
        (LABELS / 2, NUMBERS, ("value",)),
        (np.stack([LABELS > 0, LABELS > 1], axis=1), SEVERAL, ("label 0", "label 1")),
    ],
)
def test_labels_say_what_they_are(
    function: Given, labels: Any, kind: str, classes: tuple[str, ...]
) -> None:
    function.make = lambda: three(labels)
    dataset = load()
    assert (dataset.labels, dataset.classes) == (kind, classes)


def test_names_are_those_of_the_dataset_or_of_keras_reader(function: Given) -> None:
    train, validation, test = three()
    names = ["a", "b", "c"]
    function.make = lambda: given.Dataset(train, test, names, "mine", validation)
    dataset = load()
    assert (dataset.name, dataset.classes) == ("mine", ("a", "b", "c"))


def test_a_reader_of_keras_brings_the_names(function: Given) -> None:
    train, validation, test = three()
    train.class_names = ["cat", "dog", "owl"]  # as image_dataset_from_directory does
    function.make = lambda: (train, validation, test)
    assert load().classes == ("cat", "dog", "owl")


def test_without_validation_images_the_test_images_must_be_asked_for(function: Given) -> None:
    function.make = lambda: (stream(0, 20), stream(20, 30))
    with pytest.raises(ConfigError, match=r"return \(train, validation, test\), or set") as raised:
        load()
    assert raised.value.path == "data.validation"
    streams = load(validation="test").streams
    assert streams
    assert streams.validation is streams.test


@pytest.mark.parametrize(
    "changes",
    [{"train_size": 5}, {"augment": ["flip"]}, {"split_seed": 1}, {"folds": 2}],
    ids=str,
)
def test_what_is_done_with_arrays_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ConfigError, match="trained on as they come; do it there") as raised:
        load(**changes)
    assert raised.value.path == f"data.{name}"


def failing(image: Any, label: Any) -> Any:
    tf.debugging.assert_less(label, tf.constant(2, tf.int64))
    return image, label


FLOATS = PIXELS.astype(np.float32)
FLOATS[3] = np.nan


def with_train(train: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: (train(), *three()[1:])


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "without an end": (with_train(lambda: stream(0, 9).repeat()), r"train: has no end.*\.repeat"),
    "images alone": (
        with_train(lambda: tf.data.Dataset.from_tensor_slices(PIXELS)),
        "train: elements are TensorSpec.*, expected pairs of images and labels",
    ),
    "with weights": (
        with_train(lambda: tf.data.Dataset.from_tensors((PIXELS, LABELS, LABELS))),
        "expected pairs",
    ),
    "a table": (
        with_train(lambda: stream(0, 9, images=PIXELS[:, 0, 0])),
        r"train: images are of shape \(3,\), expected \(h, w, c\)",
    ),
    "doubles": (
        with_train(lambda: stream(0, 9, images=PIXELS / 255)),
        "train: images are float64, expected uint8 or float32",
    ),
    "NaN": (with_train(lambda: stream(0, 9, images=FLOATS)), "train: some pixels are NaN"),
    "another size": (
        with_train(lambda: stream(0, 9, images=PIXELS[:, :5])),
        r"test: images are uint8 of shape \(6, 5, 3\), expected uint8 of shape \(5, 5, 3\)",
    ),
    "one-hot": (
        lambda: three(np.eye(3)[LABELS]),
        "labels are one-hot, expected whole numbers; Keras' readers .* label_mode='int'",
    ),
    "texts": (lambda: three(np.array([*"abc"] * 10)), r"train: labels are \|S1, expected numbers"),
    "a label beyond": (
        lambda: (stream(0, 9), stream(9, 12), stream(12, 30, LABELS + 1)),
        "test: labels from 1 to 3, expected whole numbers from 0 to 2",
    ),
    "nothing": (with_train(lambda: stream(0, 0)), "train: no images"),
    "an error on the way": (
        with_train(lambda: stream(0, 9).map(failing)),
        r"train: can't be read \(Error in user-defined function.*assert",
    ),
    "one stream": (lambda: three()[0], "returned _TensorSliceDataset; expected"),
    "four streams": (lambda: [*three(), three()[0]], r"returned \(_Tensor.*\); expected"),
    "arrays for the test": (
        lambda: given.Dataset(three()[0], (PIXELS, LABELS)),
        "train and test are of two kinds",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_stream_that_can_t_be_trained_on_is_told(case: str, function: Given) -> None:
    function.make, message = BROKEN[case]
    with pytest.raises(DataError, match=rf"^data: my_data\.load.*{message}") as raised:
        prepare_dataset(config())
    assert str(raised.value).isprintable()
