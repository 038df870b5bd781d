"""Every source, whole and broken; nothing from outside is trusted."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
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
from support import images

from cifar_hpo.config.app import Data
from cifar_hpo.data import dataset as data
from cifar_hpo.data import sources
from cifar_hpo.data.synthetic import synthetic
from cifar_hpo.errors import ConfigError, DataError

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(data.PREPARED, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def config(source: str, path: Path | None = None, **changes: Any) -> Data:
    return Data(
        **{
            "source": source,
            "path": str(path) if path else None,
            "train_size": None,
            "validation": 0.1,
            "augment": [],
            **changes,
        }
    )


def folder_of_images(root: Path, each: int = 4) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                Image.new("RGB", (32, 32), (label * 100, number, 7)).save(
                    root / split / name / f"{number}.png"
                )
    return root


def batches(root: Path, per_batch: int = 10) -> Path:
    root.mkdir(parents=True)
    for seed, name in enumerate(sources.BATCHES):
        pixels, labels = images(per_batch, seed)
        planes = pixels.transpose(0, 3, 1, 2).reshape(per_batch, -1)
        (root / name).write_bytes(
            pickle.dumps({b"labels": labels.tolist(), b"data": planes}, protocol=2)
        )
    return root


def test_npz_gives_its_arrays_once_decoded_and_mapped(npz: Path) -> None:
    dataset = data.load(config("npz", npz))
    with np.load(npz) as arrays:
        assert np.array_equal(dataset.test[0], arrays["x_test"])
        assert np.array_equal(np.sort(dataset.train[1]), np.sort(arrays["y_train"]))
    assert isinstance(dataset.train[0], np.memmap)
    assert dataset.train[0].dtype == np.uint8
    before = dataset.folder.stat().st_mtime_ns
    assert data.load(config("npz", npz)).folder.stat().st_mtime_ns == before
    assert [folder.name for folder in Path("mlruns/data").iterdir()] == [dataset.folder.name]


def test_a_source_that_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of_images(tmp_path / "images")
    first = data.load(config("folder", root))
    Image.new("RGB", (32, 32)).save(root / "train" / "cat" / "new.png")
    monkeypatch.delenv(data.PREPARED)
    second = data.load(config("folder", root))
    assert len(second.train[0]) == len(first.train[0]) + 1
    assert second.digest != first.digest


def test_folder_names_its_classes(tmp_path: Path) -> None:
    dataset = data.load(config("folder", folder_of_images(tmp_path / "images")))
    assert dataset.classes == CLASSES
    for pixels, labels in (dataset.train, dataset.test):
        assert np.array_equal(pixels[:, 0, 0, 0], labels * 100)


def test_cifar10_from_its_unpacked_folder_and_from_the_keras_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = batches(tmp_path / "keras" / "datasets" / "cifar-10-batches-py")
    from_path = data.load(config("cifar10", root))
    monkeypatch.delenv(data.PREPARED)
    from_cache = data.load(config("auto"))
    assert from_path.digest == from_cache.digest
    assert len(from_path.train[0]) == 50
    assert not from_cache.fallback
    pixels, labels = images(10, 5)
    assert np.array_equal(from_path.test[0], pixels)
    assert np.array_equal(from_path.test[1], labels)


def test_cifar10_from_an_archive_with_the_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches(tmp_path / "made" / "cifar-10-batches-py")
    assert len(data.load(config("cifar10", tmp_path / "made")).train[0]) == 50, (
        "the folder in which the archive was unpacked does too"
    )
    shutil.rmtree("mlruns/data")
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(DataError, match="not the official archive"):
        data.load(config("cifar10", archive))
    assert not Path("mlruns/data").exists()
    monkeypatch.setattr(sources, "CIFAR10_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert len(data.load(config("cifar10", archive)).train[0]) == 50


def test_a_download_shows_its_progress_and_is_held_against_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    batches(tmp_path / "served" / "cifar-10-batches-py", per_batch=200)
    archive = tmp_path / "served" / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "served" / "cifar-10-batches-py", "cifar-10-batches-py")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(
            sources, "CIFAR10_URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
        )
        with pytest.raises(DataError, match="could not be downloaded"):
            data.load(config("cifar10"))
        monkeypatch.setattr(
            sources, "CIFAR10_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest()
        )
        assert len(data.load(config("cifar10")).train[0]) == 1000
        server.shutdown()
    assert re.search(r"downloading CIFAR-10 ━.* [\d.]+/[\d.]+ [kM]?B", capfd.readouterr().out)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bombed",)


def test_a_batch_that_runs_code_is_refused(tmp_path: Path) -> None:
    root = batches(tmp_path / "batches")
    (root / "data_batch_3").write_bytes(pickle.dumps({b"labels": Bomb(), b"data": 1}))
    with pytest.raises(
        DataError, match=r"refused: a CIFAR-10 batch that wants to call posix\.mkdir"
    ):
        data.load(config("cifar10", root))
    assert not Path("bombed").exists()


def test_without_cifar10_auto_falls_back_loudly_and_cifar10_stops(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_hpo.data.dataset.synthetic", lambda: synthetic(100, 50))
    with pytest.raises(DataError, match=r"could not be downloaded.*set data\.path"):
        data.load(config("cifar10"))
    dataset = data.load(config("auto"))
    assert dataset.fallback
    assert "SYNTHETIC" in caplog.text
    assert not data.load(config("synthetic")).fallback


def broken_npz(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (x, y), path = images(20, 0), root / "broken.npz"
        arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
        change(arrays)
        np.savez(path, **arrays)
        return path

    return make


def broken_folder(change: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        change(folder_of_images(root / "images"))
        return root / "images"

    return make


def truncated(root: Path) -> Path:
    path = broken_npz(lambda arrays: None)(root)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def emptied(root: Path) -> None:
    shutil.rmtree(root / "train" / "owl")
    (root / "train" / "owl").mkdir()


BROKEN = {
    "no such file": ("npz", lambda root: root / "none.npz", "does not exist"),
    "truncated": ("npz", truncated, "expected an .npz with x_train"),
    "no labels": ("npz", broken_npz(lambda a: a.pop("y_test")), "y_test"),
    "floats": ("npz", broken_npz(lambda a: a.update(x_train=a["x_train"] / 255)), "expected uint8"),
    "wrong size": (
        "npz",
        broken_npz(lambda a: a.update(x_test=a["x_test"][:, :28])),
        r"\(n, 32, 32, 3\)",
    ),
    "too few labels": (
        "npz",
        broken_npz(lambda a: a.update(y_train=a["y_train"][:-1])),
        "20 images but labels",
    ),
    "label out of range": (
        "npz",
        broken_npz(lambda a: a.update(y_test=a["y_test"] + 5)),
        "from 0 to 9",
    ),
    "objects": (
        "npz",
        broken_npz(lambda a: a.update(y_train=np.array([Bomb()] * 20, object))),
        "Object arrays cannot be loaded",
    ),
    "empty class": ("folder", broken_folder(emptied), "owl: no images"),
    "class in one split only": (
        "folder",
        broken_folder(lambda root: (root / "train" / "yak").mkdir()),
        "yak not in both",
    ),
    "large image": (
        "folder",
        broken_folder(
            lambda root: Image.new("RGB", (64, 40)).save(root / "test" / "cat" / "0.png")
        ),
        "64×40 pixels, expected 32×32",
    ),
    "no image": (
        "folder",
        broken_folder(lambda root: (root / "test" / "cat" / "0.png").write_text("x")),
        "0.png: not an image",
    ),
    "no classes": ("folder", lambda root: root, "expected train/<class>"),
    "missing batch": ("cifar10", broken_folder(lambda root: None), "data_batch_1 does not exist"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_told_with_its_path(case: str, tmp_path: Path) -> None:
    source, make, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        data.load(config(source, make(tmp_path)))
    assert not Path("bombed").exists()


def test_splits(npz: Path) -> None:
    dataset = data.load(config("npz", npz))
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
    folder = data.prepare(config("npz", copy))
    assert json.loads(os.environ[data.PREPARED]) == {f"npz:{copy}": str(folder)}
    copy.unlink()
    assert data.load(config("npz", copy)).folder == folder


def test_the_synthetic_set_is_the_same_each_time() -> None:
    (x, y), (test, _) = synthetic(300, 100)
    assert x.shape == (300, 32, 32, 3)
    assert test.shape == (100, 32, 32, 3)
    assert x.dtype == y.dtype == np.uint8
    assert np.array_equal(x, synthetic(300, 100)[0][0])
    assert set(y) == set(range(10))
