"""A user's function of data: called, held against what it may return, and kept until it changes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import composed

import cifar_hpo
from cifar_hpo import trust
from cifar_hpo.config.app import Config, Data
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.dataset import PREPARED, Dataset, dataset_form, load_dataset
from cifar_hpo.data.labels import NUMBERS
from cifar_hpo.errors import ConfigError, DataError
from cifar_hpo.trust import Call

CODE = """
import numpy as np
import cifar_hpo

def load(n=20, path=None, form="pairs", **more):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 28, 20), np.uint8)
    labels = np.arange(n) % 3
    with open("calls", "a") as file:
        file.write("x")
    train, test = (images, labels), (images[:6], labels[:6])
    if form == "pairs":
        return train, test
    if form == "lists":
        return [[images.tolist(), labels.tolist()], [images.tolist(), labels.tolist()]]
    if form == "dataset":
        return cifar_hpo.Dataset(train, test, classes=["cat", "dog", "owl"], name="my/pets")
    if form == "numbers":
        return cifar_hpo.Dataset(train, test, labels="numbers", classes=["age"])
    if form == "validation":
        return cifar_hpo.Dataset(train, test, validation=train)
    if form == "bare":
        return cifar_hpo.Dataset(images, labels)
    if form == "three":
        return train, test, 3
    if form == "images":
        return images, images[:6]
    if form == "nothing":
        return None
    if form == "wrong":
        return (images, labels), (images, labels - 1)
    raise KeyError("x\\ny\\x1b")

def none(rng=None):
    pass
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder that allows `my_data`, which lies there."""
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_data"]\n')
    (tmp_path / "my_data.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    forget()
    yield
    forget()


def forget() -> None:
    """As in another process."""
    trust.allowed_prefixes.cache_clear()
    sys.modules.pop("my_data", None)
    importlib.invalidate_caches()
    os.environ.pop(PREPARED, None)


def of(target: str, **arguments: Any) -> Data:
    """The config of a function's data."""
    return Data("function", None, None, 0.1, [], call=Call(target, arguments))


def load(**arguments: Any) -> Dataset:
    """What another command has."""
    forget()
    return load_dataset(of("my_data.load", **arguments))


def checked(*overrides: str) -> Config:
    return validate_config(composed("data=function", "+data._target_=my_data.load", *overrides))


def calls() -> int:
    return len(Path("calls").read_text())


def test_a_function_s_arrays_are_decoded_once(tmp_path: Path) -> None:
    dataset = load()
    assert (dataset.name, dataset.shape, dataset.outputs) == ("my_data.load", (28, 20, 1), 3)
    assert isinstance(dataset.train[0], np.memmap)
    assert len(dataset.train[0]) == 20
    assert load().folder == dataset.folder
    assert calls() == 1
    assert dataset_form(of("my_data.load")).images == 20


def test_lists_are_taken_too() -> None:
    assert load(form="lists").shape == (28, 20, 1)


def test_a_dataset_has_the_name_and_the_classes_that_it_says() -> None:
    dataset = load(form="dataset")
    assert (dataset.name, dataset.classes) == ("my_pets", ("cat", "dog", "owl"))
    assert dataset.digest == load().digest  # which is of the content


def test_a_dataset_says_what_its_labels_are() -> None:
    dataset = load(form="numbers")
    assert (dataset.labels, dataset.classes) == (NUMBERS, ("age",))


def test_what_changes_is_called_again(tmp_path: Path) -> None:
    load()
    assert len(load(n=30).train[0]) == 30
    assert calls() == 2
    Path("given.csv").write_text("a")
    load(path="given.csv")
    load(path="given.csv")
    assert calls() == 3
    Path("given.csv").write_text("ab")
    load(path="given.csv")
    assert calls() == 4
    Path("folder/deep").mkdir(parents=True)
    load(path="folder")
    Path("folder/deep/a.png").touch()
    load(path="folder")
    assert calls() == 6
    (tmp_path / "my_data.py").write_text(CODE.replace("default_rng(0)", "default_rng(11)"))
    before = load(n=30).digest
    assert calls() == 7
    assert load(n=30).digest == before


def test_a_new_comment_calls_again_and_is_the_same_data(tmp_path: Path) -> None:
    before = load()
    (tmp_path / "my_data.py").write_text(f"{CODE}\n# a comment\n")
    after = load()
    assert calls() == 2
    assert (after.digest, after.folder == before.folder) == (before.digest, False)


def test_keys_of_ours_stay_ours_and_have_their_defaults() -> None:
    data = checked("data.train_size=5", "+data.n=7", "+data.deep={a: [1, {b: x}]}").data
    assert data.call == Call("my_data.load", {"n": 7, "deep": {"a": [1, {"b": "x"}]}})
    assert (data.source, data.train_size, data.validation) == ("function", 5, 0.1)
    alone = composed("~data", "+data={_target_: my_data.load, source: camera, folds: 2, n: 3}")
    alone.training.replicas = 2
    data = validate_config(alone).data
    assert data.call == Call("my_data.load", {"source": "camera", "n": 3})
    assert data == Data("function", None, None, 0.1, [], None, 2, None, data.call)


def test_an_argument_may_be_interpolated_and_pointed_to() -> None:
    config = composed(
        "data=function",
        "+data._target_=my_data.load",
        "+data.n=${training.seed}",
        "+data.m=7",
        "training.seed=${data.m}",
    )
    data = validate_config(config)
    assert data.data.call == Call("my_data.load", {"n": 7, "m": 7})
    assert data.training.seed == 7


EXPECTED = r"expected \(\(x_train, y_train\), \(x_test, y_test\)\), a cifar_hpo\.Dataset, or two"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "three"}, rf"data: my_data\.load returned \(tuple, tuple, int\); {EXPECTED}"),
        ({"form": "images"}, rf"returned \(ndarray, ndarray\); {EXPECTED}"),
        ({"form": "nothing"}, rf"data: my_data\.load returned NoneType; {EXPECTED}"),
        ({"form": "bare"}, "train and test are no pairs of images and labels"),
        ({"form": "validation"}, "a validation split of arrays is not taken; data.validation is"),
        ({"form": "wrong"}, "test: labels from -1 to 1, expected whole numbers from 0 to 2"),
        ({"form": "error"}, r"load raised KeyError: 'x\\ny\\x1b' \(my_data\.py, line 3\d\)"),
        ({"n": "x"}, r"load raised \w*TypeError.* \(my_data\.py, line 7\)"),
        (
            {"function": "none"},
            r"none raised TypeError: .*unexpected keyword argument 'function'$",
        ),
    ],
)
def test_a_wrong_function_is_told_on_one_line(given: dict[str, Any], message: str) -> None:
    data = of(f"my_data.{given.get('function', 'load')}", **{**given, "function": None})
    with pytest.raises(DataError, match=message) as raised:
        load_dataset(data)
    assert str(raised.value).isprintable()
    assert not list(Path("mlruns/data").glob("*.draft"))


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["data=function"], "data._target_"),
        (["data=function", "+data._target_=os.system"], "data._target_"),
        (["data=function", "+data._target_=my_data.os"], "data._target_"),
        (["data=function", "+data._target_=my_data.load", "+data.n=???"], "data.n"),
        (["data=function", "+data._target_=my_data.load", "data.validation=7"], "data.validation"),
        (["data=function", "+data._target_=my_data.load", "data.augment=[x]"], "data.augment"),
        (["data=npz", "data.name=mnist"], "data.name"),
        (["data=keras"], "data.name"),
        (["data=keras", "data.name=imagenet"], "data.name"),
    ],
)
def test_a_wrong_config_of_data_is_told_by_its_key(overrides: list[str], path: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate_config(composed(*overrides))
    assert raised.value.path == path


def test_the_package_offers_the_class_of_datasets() -> None:
    dataset = cifar_hpo.Dataset(train=([1], [2]), test=([1], [2]), classes=["a"], name="b")
    assert dataset.validation is None
    with pytest.raises(AttributeError):
        dataset.name = "c"  # type: ignore[misc]
