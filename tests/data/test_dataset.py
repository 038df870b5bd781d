"""Datasets from every source: decoded once, mapped into memory, split."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import (
    IMAGE_FOLDER_CLASSES,
    clean,
    scatter_clutter,
    write_cifar10_batches,
    write_image_folder,
    write_npz,
)

from cifar_hpo.config.app import Data
from cifar_hpo.data import dataset as module
from cifar_hpo.data.arrays import Split
from cifar_hpo.data.cifar import CIFAR10, CIFAR100
from cifar_hpo.data.dataset import (
    PREPARED,
    Dataset,
    Form,
    dataset_form,
    find_decoded,
    known_form,
    load_dataset,
    prepare_dataset,
)
from cifar_hpo.data.labels import CLASSES
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


def decoded_folders() -> list[str]:
    """The names of all that lies where images are decoded to, but for the lock."""
    return sorted(path.name for path in Path("mlruns/data").iterdir() if path.name != ".lock")


def test_npz_gives_its_arrays_once_decoded_and_mapped(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    with np.load(npz) as arrays:
        assert np.array_equal(dataset.test[0], arrays["x_test"])
        assert np.array_equal(np.sort(dataset.train[1]), np.sort(arrays["y_train"]))
    assert isinstance(dataset.train[0], np.memmap)
    assert dataset.train[0].dtype == np.uint8
    before = dataset.folder.stat().st_mtime_ns
    assert load_dataset(config("npz", npz)).folder.stat().st_mtime_ns == before
    assert decoded_folders() == [dataset.folder.name]


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
    root = write_cifar10_batches(tmp_path / "keras" / "datasets" / CIFAR10.unpacked)
    from_path = load_dataset(config("cifar10", root))
    monkeypatch.delenv(PREPARED)
    from_cache = load_dataset(config("auto"))
    assert from_path.digest == from_cache.digest
    assert len(from_path.train[0]) == 50
    assert not from_cache.fallback


def test_cifar10_from_the_folder_in_which_its_archive_was_unpacked(tmp_path: Path) -> None:
    write_cifar10_batches(tmp_path / "made" / CIFAR10.unpacked)
    assert len(load_dataset(config("cifar10", tmp_path / "made")).train[0]) == 50


def test_an_archive_that_is_not_the_official_one_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(b"something else")
    for source in ("cifar10", "auto"):
        with pytest.raises(DataError, match="not the official archive"):
            load_dataset(config(source, archive))
    assert decoded_folders() == []


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


def pixels_of(*splits: Split) -> list[bytes]:
    """Each image of several splits, in their order."""
    return [image.tobytes() for images, _ in splits for image in images]


def test_another_split_seed_is_another_division_of_the_same_images(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    usual = dataset.splits(config("npz", npz))
    for seed in (0, 1):
        train, validation = dataset.splits(config("npz", npz, split_seed=seed))
        assert (len(train[0]), len(validation[0])) == (540, 60)
        assert set(pixels_of(train, validation)) == set(pixels_of(*usual))
        assert set(pixels_of(validation)) != set(pixels_of(usual[1]))
        labels = dict(zip(pixels_of(dataset.train), dataset.train[1], strict=True))
        assert [labels[image] for image in pixels_of(train)] == train[1].tolist()
    again = dataset.splits(config("npz", npz, split_seed=1))
    assert pixels_of(*again) == pixels_of(train, validation)
    (fewer, _), same = dataset.splits(config("npz", npz, split_seed=1, train_size=100))
    assert len(fewer) == 100
    assert pixels_of(same) == pixels_of(validation)


@pytest.mark.parametrize("split_seed", [None, 3])
def test_each_replica_is_validated_on_a_fold_of_its_own(npz: Path, split_seed: int | None) -> None:
    dataset = load_dataset(config("npz", npz))
    data = config("npz", npz, folds=7, split_seed=split_seed)
    folds = []
    for replica in range(7):
        train, validation = dataset.splits(data, replica)
        assert len(train[0]) + len(validation[0]) == 600
        assert set(pixels_of(train)).isdisjoint(pixels_of(validation))
        folds.append(validation)
    assert sorted(pixels_of(*folds)) == sorted(pixels_of(dataset.train))
    assert {len(images) for images, _ in folds} == {85, 86}
    assert pixels_of(*dataset.splits(data, 9)) == pixels_of(*dataset.splits(data, 2))
    with pytest.raises(ConfigError, match=r"data\.train_size: 516 images wanted"):
        dataset.splits(config("npz", npz, folds=7, train_size=516), 0)


def test_more_folds_than_images_are_told(npz: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.folds: 601 parts of the 600 training images"):
        load_dataset(config("npz", npz)).splits(config("npz", npz, folds=601))


def test_the_form_is_known_of_what_was_looked_at(npz: Path, tmp_path: Path) -> None:
    assert known_form(config("npz", npz)) is None
    form = Form((32, 32, 3), "uint8", CLASSES, outputs=10, images=600)
    assert dataset_form(config("npz", npz)) == form
    assert known_form(config("npz", npz)) == form
    assert known_form(config("npz", tmp_path / "other.npz")) is None


def test_images_of_other_forms_are_told_apart_though_their_bytes_are_equal(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 1), np.uint8)
    labels = np.arange(10)
    digests: set[str] = set()
    for shape in ((10, 4, 6), (10, 6, 4), (10, 3, 8), (10, 2, 6, 2)):
        images = pixels.reshape(shape)
        path = tmp_path / f"{len(digests)}.npz"
        np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
        dataset = load_dataset(config("npz", path))
        assert dataset.shape == (*shape[1:], 1)[:3]
        digests.add(dataset.digest)
    assert len(digests) == 4


def test_keras_sets_are_decoded_by_their_names(tmp_path: Path) -> None:
    datasets = tmp_path / "keras" / "datasets"
    write_cifar10_batches(datasets / CIFAR100.unpacked, cifar=CIFAR100)
    write_cifar10_batches(datasets / CIFAR10.unpacked)
    hundred = load_dataset(config("keras", name="cifar100"))
    assert (hundred.name, hundred.outputs) == ("cifar100", 100)
    ten = load_dataset(config("keras", name="cifar10"))
    assert ten.folder == load_dataset(config("cifar10")).folder
    with pytest.raises(DataError, match=r"Fashion-MNIST could not be downloaded"):
        load_dataset(config("keras", name="fashion_mnist"))
    with pytest.raises(DataError, match=r"data\.path: .*/none does not exist; download https"):
        load_dataset(config("keras", tmp_path / "none", name="mnist"))
    assert len(decoded_folders()) == 2


def test_workers_take_what_the_parent_prepared(npz: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(npz, tmp_path / "copy.npz"))
    folder = prepare_dataset(config("npz", copy))
    assert json.loads(os.environ[PREPARED]) == {f"npz:{copy}": str(folder)}
    copy.unlink()
    assert load_dataset(config("npz", copy)).folder == folder


def test_a_decoded_dataset_is_found_by_its_digest(npz: Path) -> None:
    dataset = load_dataset(config("npz", npz))
    found = find_decoded(dataset.digest)
    assert found
    assert found.folder.absolute() == dataset.folder
    assert find_decoded("0" * 16) is None


def test_classes_are_counted_without_opening_the_images(npz: Path) -> None:
    assert dataset_form(config("npz", npz)).outputs == 10
    for array in Path("mlruns/data").glob("*/*"):
        array.unlink()
    assert dataset_form(config("npz", npz)).outputs == 10


def decode_again(npz: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The dataset as another command finds it."""
    monkeypatch.delenv(PREPARED)
    return load_dataset(config("npz", npz))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an array cut": lambda folder: os.truncate(folder / "x_train.npy", 5000),
    "an array gone": lambda folder: (folder / "y_test.npy").unlink(),
    "an array in the place of another": lambda folder: shutil.copy(
        folder / "y_test.npy", folder / "y_train.npy"
    ),
    "the head of an array garbled": lambda folder: overwrite(folder / "x_test.npy", b"x" * 90),
    "about.json gone": lambda folder: (folder / "about.json").unlink(),
    "about.json cut": lambda folder: os.truncate(folder / "about.json", 20),
    "about.json of something else": lambda folder: (folder / "about.json").write_text("[]"),
    "about.json in bytes": lambda folder: (folder / "about.json").write_bytes(b"\xff\xfe"),
    "as version 0.1 made it": lambda folder: drop_sizes(folder / "about.json"),
    "nothing in it": lambda folder: remake(folder).mkdir(),
    "a file in its place": lambda folder: remake(folder).touch(),
}


def overwrite(file: Path, content: bytes) -> None:
    """Change the beginning of a file, which keeps its size."""
    with file.open("r+b") as opened:
        opened.write(content)


def remake(folder: Path) -> Path:
    """Its name, with nothing of that name there."""
    shutil.rmtree(folder)
    return folder


def drop_sizes(about: Path) -> None:
    values = json.loads(about.read_text())
    del values["bytes"]
    about.write_text(json.dumps(values))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_decoded_images_are_made_again_and_that_is_said(
    damage: str, npz: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_dataset(config("npz", npz))
    DAMAGE[damage](before.folder)
    assert find_decoded(before.digest) is None
    again = decode_again(npz, monkeypatch)
    assert (again.folder, again.digest) == (before.folder, before.digest)
    assert len(again.train[0]) == 600
    assert decoded_folders() == [before.folder.name]
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{before.folder.name} is damaged" in warning.getMessage()


def test_a_worker_makes_again_what_was_damaged_since_the_parent_looked(npz: Path) -> None:
    folder = load_dataset(config("npz", npz)).folder
    os.truncate(folder / "x_train.npy", 5000)
    assert len(load_dataset(config("npz", npz)).train[0]) == 600


def test_without_their_source_damaged_images_are_told(npz: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(npz, tmp_path / "copy.npz"))
    folder = prepare_dataset(config("npz", copy))
    copy.unlink()
    os.truncate(folder / "x_train.npy", 5000)
    with pytest.raises(DataError, match=r"data\.path: .*copy\.npz does not exist"):
        load_dataset(config("npz", copy))


def test_two_processes_decode_once(npz: Path, tmp_path: Path) -> None:
    code = (
        "import logging, sys; logging.basicConfig(level='INFO'); "
        "from cifar_hpo.config.app import Data; "
        "from cifar_hpo.data.dataset import load_dataset; "
        "data = Data('npz', sys.argv[1], None, 0.1, []); "
        "print(len(load_dataset(data).train[0]))"
    )
    processes = []
    for _ in range(2):
        command = [sys.executable, "-c", code, str(npz)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean()
        )
        processes.append(process)
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert [printed for printed, _ in ends] == ["600\n", "600\n"]
    assert "".join(log for _, log in ends).count("decoding small once") == 1
    (name,) = decoded_folders()
    assert name.startswith("small-")


def test_what_a_killed_process_left_is_removed(npz: Path, tmp_path: Path) -> None:
    """The process is killed between two arrays."""
    code = (
        "import os, sys, signal; import numpy as np; "
        "from cifar_hpo.config.app import Data; "
        "from cifar_hpo.data.dataset import load_dataset; "
        "save = np.save; "
        "np.save = lambda file, array: (save(file, array), os.kill(os.getpid(), signal.SIGKILL)); "
        "load_dataset(Data('npz', sys.argv[1], None, 0.1, []))"
    )
    command = [sys.executable, "-c", code, str(npz)]
    assert subprocess.run(command, env=clean(), check=False).returncode == -signal.SIGKILL
    (draft,) = decoded_folders()
    assert draft.endswith(".draft")
    Path("mlruns/data/tmpabcd1234").mkdir()  # an earlier version's
    folder = load_dataset(config("npz", npz)).folder
    assert decoded_folders() == [folder.name]


def test_without_space_for_decoded_images_nothing_is_left(npz: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(
            DataError, match=r"^mlruns/data: decoded images can't be written \("
        ) as e:
            load_dataset(config("npz", npz))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(e.value)
    assert decoded_folders() == []


def test_a_folder_that_can_t_be_made_is_told(npz: Path) -> None:
    Path("mlruns").write_text("")
    with pytest.raises(DataError, match=r"^mlruns/data: decoded images can't be written \("):
        load_dataset(config("npz", npz))


def test_without_space_auto_does_not_take_other_images(tmp_path: Path) -> None:
    root = write_cifar10_batches(tmp_path / "keras" / "datasets" / CIFAR10.unpacked)
    assert root.is_dir()
    Path("mlruns").write_text("")
    with pytest.raises(DataError, match="can't be written"):
        load_dataset(config("auto"))


@pytest.mark.parametrize(
    ("path", "name"),
    [("a:b", "a_b"), ("é 🐈 [x],%", "é 🐈 [x],%"), ("n" * 200, "n" * 200), ("\x1b[31m", "_[31m")],
)
def test_a_dataset_has_a_name_that_all_stores_take(path: str, name: str, tmp_path: Path) -> None:
    dataset = load_dataset(config("folder", write_image_folder(tmp_path / path)))
    assert dataset.name == name
    assert dataset.folder.is_dir()


def test_a_dataset_in_the_current_folder_has_that_one_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_image_folder(tmp_path / "images"))
    assert load_dataset(config("folder", Path())).name == "images"


@pytest.mark.parametrize(
    ("source", "make", "message"),
    [
        ("folder", lambda path: path.touch(), "is no folder; expected train/<class>"),
        ("npz", lambda path: path.mkdir(), "is no file; expected an .npz"),
        ("npz", os.mkfifo, "is no file; expected an .npz"),
        ("cifar10", lambda path: path.mkdir(), "data_batch_1 does not exist; expected"),
    ],
)
def test_a_path_of_another_kind_is_told(
    source: str, make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "given")
    with pytest.raises(DataError, match=rf"^data\.path: .*/given.*{message}"):
        load_dataset(config(source, tmp_path / "given"))


@pytest.mark.parametrize("path", ["n" * 300, "~nobody_of_this_name/x"])
def test_a_path_that_can_t_be_is_told(path: str) -> None:
    with pytest.raises(DataError, match=r"^data\.path: "):
        load_dataset(config("npz", Path(path)))


def test_files_of_file_browsers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_image_folder(tmp_path / "images")
    before = load_dataset(config("folder", root))
    scatter_clutter(root)
    monkeypatch.delenv(PREPARED)
    after = load_dataset(config("folder", root))
    assert (after.folder, after.digest) == (before.folder, before.digest)
    assert decoded_folders() == [before.folder.name]


def test_labels_of_more_than_256_classes_take_two_bytes(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "many.npz", 300)
    dataset = load_dataset(config("npz", path))
    assert dataset.train[1].dtype == np.uint16
    assert dataset.train[1].max() == 299
    assert len(dataset.classes) == dataset_form(config("npz", path)).outputs == 300
