"""Datasets from every source: decoded once, mapped into memory, split."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import IMAGE_FOLDER_CLASSES, write_cifar10_batches, write_image_folder

from cifar_hpo.config.app import Data
from cifar_hpo.data import dataset as module
from cifar_hpo.data.dataset import (
    PREPARE,
    PREPARED,
    class_count,
    find_decoded,
    load_dataset,
    prepare_dataset,
)
from cifar_hpo.data.sources import UNPACKED, DecodedImages, read_npz
from cifar_hpo.data.synthetic import synthetic
from cifar_hpo.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.fixture
def few_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "synthetic", lambda: synthetic(100, 50))


def config(source: str, path: Path | None = None, **changes: Any) -> Data:
    values: dict[str, Any] = {"source": source, "path": str(path) if path else None}
    values |= {"train_size": None, "validation": 0.1, "augment": []}
    return Data(**{**values, **changes})


def test_npz_gives_its_arrays_once_decoded_and_mapped(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    with np.load(npz) as arrays:
        assert np.array_equal(dataset.test[0], arrays["x_test"])
        assert np.array_equal(np.sort(dataset.train[1]), np.sort(arrays["y_train"]))
    assert isinstance(dataset.train[0], np.memmap)
    assert dataset.train[0].dtype == np.uint8
    before = dataset.folder.stat().st_mtime_ns
    assert load_dataset(config("npz", npz)).folder.stat().st_mtime_ns == before
    assert [folder.name for folder in Path("mlruns/data").iterdir()] == [dataset.folder.name]


def test_a_source_that_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_image_folder(tmp_path / "images")
    first = load_dataset(config("folder", root))
    Image.new("RGB", (32, 32)).save(root / "train" / "cat" / "new.png")
    monkeypatch.delenv(PREPARED)
    second = load_dataset(config("folder", root))
    assert len(second.train[0]) == len(first.train[0]) + 1
    assert second.digest != first.digest


def test_folder_names_its_classes(tmp_path: Path) -> None:
    dataset = load_dataset(config("folder", write_image_folder(tmp_path / "images")))
    assert dataset.classes == IMAGE_FOLDER_CLASSES
    assert dataset.name == "images"


def test_cifar10_from_its_unpacked_folder_and_from_the_keras_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_cifar10_batches(tmp_path / "keras" / "datasets" / UNPACKED)
    from_path = load_dataset(config("cifar10", root))
    monkeypatch.delenv(PREPARED)
    from_cache = load_dataset(config("auto"))
    assert from_path.digest == from_cache.digest
    assert len(from_path.train[0]) == 50
    assert not from_cache.fallback


def test_cifar10_from_the_folder_in_which_its_archive_was_unpacked(tmp_path: Path) -> None:
    write_cifar10_batches(tmp_path / "made" / UNPACKED)
    assert len(load_dataset(config("cifar10", tmp_path / "made")).train[0]) == 50


def test_an_archive_that_is_not_the_official_one_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(b"something else")
    for source in ("cifar10", "auto"):
        with pytest.raises(DataError, match="not the official archive"):
            load_dataset(config(source, archive))
    assert not Path("mlruns/data").exists()


def test_without_cifar10_auto_falls_back_loudly_and_cifar10_stops(
    caplog: pytest.LogCaptureFixture, few_synthetic: None
) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded.*set data\.path"):
        load_dataset(config("cifar10"))
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(config("auto"))
    assert dataset.fallback
    assert "SYNTHETIC" in caplog.text
    assert not load_dataset(config("synthetic")).fallback


@pytest.mark.parametrize("source", ["auto", "cifar10", "folder", "npz"])
def test_a_path_that_is_not_there_is_told(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: .*none does not exist"):
        load_dataset(config(source, tmp_path / "none"))


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_a_source_of_one_s_own_needs_its_path(source: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.path: data={source} needs the path"):
        load_dataset(config(source))


def test_a_missing_batch_is_told_with_what_was_expected(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images")
    with pytest.raises(DataError, match="data_batch_1 does not exist; expected data_batch_1, "):
        load_dataset(config("cifar10", root))


def test_splits(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    (train, _), (validation, labels) = dataset.splits(config("npz", npz))
    assert (len(train), len(validation)) == (540, 60)
    (fewer, _), (same, _) = dataset.splits(config("npz", npz, train_size=100))
    assert len(fewer) == 100
    assert np.array_equal(same, validation)
    together = np.concatenate([train, validation]).reshape(600, -1)
    assert len(np.unique(together, axis=0)) == 600
    assert len(np.unique(labels)) > 5, "the split should be mixed"
    (everything, _), (test, _) = dataset.splits(config("npz", npz, validation="test"))
    assert len(everything) == 600
    assert np.array_equal(test, dataset.test[0])
    with pytest.raises(ConfigError, match=r"data\.train_size: 541 images wanted, small has 540"):
        dataset.splits(config("npz", npz, train_size=541))


def test_workers_take_what_the_parent_prepared(npz: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(npz, tmp_path / "copy.npz"))
    folder = prepare_dataset(config("npz", copy))
    assert json.loads(os.environ[PREPARED]) == {f"npz:{copy}": str(folder)}
    copy.unlink()
    assert load_dataset(config("npz", copy)).folder == folder


def test_what_another_process_decoded_meanwhile_is_taken(
    npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_slowly(path: Path) -> DecodedImages:
        monkeypatch.setattr(module, "read_npz", read_npz)
        PREPARE["npz"](config("npz", path))
        return read_npz(path)

    monkeypatch.setattr(module, "read_npz", read_slowly)
    folder = prepare_dataset(config("npz", npz))
    assert [path.name for path in Path("mlruns/data").iterdir()] == [folder.name]
    assert len(load_dataset(config("npz", npz)).train[0]) == 600


def test_a_decoded_dataset_is_found_by_its_digest(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    found = find_decoded(dataset.digest)
    assert found
    assert found.folder.absolute() == dataset.folder
    assert find_decoded("0" * 16) is None


def test_classes_are_counted_without_opening_the_images(npz: Path) -> None:
    assert class_count(config("npz", npz)) == 10
    for array in Path("mlruns/data").glob("*/*"):
        array.unlink()
    assert class_count(config("npz", npz)) == 10
