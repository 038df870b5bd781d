"""CIFAR-10 and CIFAR-100 as their authors give them, whole and broken; nothing is trusted."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import re
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Bomb, images, write_cifar10_batches

from cifar_hpo.data.cifar import CIFAR10, CIFAR100, Cifar, download, find, read
from cifar_hpo.errors import DataError

pytestmark = pytest.mark.usefixtures("own_folder")


def pack(unpacked: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(unpacked, CIFAR10.unpacked)
    return archive


def as_official(archive: Path, **changes: Any) -> Cifar:
    """CIFAR-10 as if this were its official archive."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    return replace(CIFAR10, archive=replace(CIFAR10.archive, sha256=checksum, **changes))


def test_cifar10_s_batches_are_planes_of_colours_and_the_last_is_the_test_set(
    tmp_path: Path,
) -> None:
    train, test, classes, *_ = read(CIFAR10, write_cifar10_batches(tmp_path / "batches"))
    pixels, labels = images(10, 0)
    assert np.array_equal(train[0][:10], pixels)
    assert np.array_equal(train[1][:10], labels)
    assert len(train[0]) == 50
    pixels, labels = images(10, 5)
    assert np.array_equal(test[0], pixels)
    assert np.array_equal(test[1], labels)
    assert classes == list(CIFAR10.classes)


def test_cifar100_has_its_hundred_fine_labels(tmp_path: Path) -> None:
    decoded = read(CIFAR100, write_cifar10_batches(tmp_path / "batches", cifar=CIFAR100))
    pixels, labels = images(10, 0)
    assert np.array_equal(decoded.train[0], pixels)
    assert np.array_equal(decoded.train[1], labels)
    assert len(decoded.classes) == 100
    assert (decoded.classes[0], decoded.classes[-1]) == ("apple", "worm")
    assert decoded.classes == sorted(decoded.classes)


def test_an_archive_is_read_in_place_where_its_checksum_is_right(tmp_path: Path) -> None:
    unpacked = write_cifar10_batches(tmp_path / "batches")
    archive = pack(unpacked, tmp_path / "cifar.tar.gz")
    with pytest.raises(DataError, match="not the official archive"):
        read(CIFAR10, archive)
    from_archive, from_folder = read(as_official(archive), archive), read(CIFAR10, unpacked)
    assert np.array_equal(from_archive.train[0], from_folder.train[0])
    assert np.array_equal(from_archive.test[1], from_folder.test[1])


def test_keras_cache_is_searched_for_the_folder_and_for_the_archive(tmp_path: Path) -> None:
    assert find(CIFAR10) is None
    datasets = tmp_path / "keras" / "datasets"
    datasets.mkdir(parents=True)
    archive = datasets / CIFAR10.archive.name
    archive.touch()
    assert find(CIFAR10) == archive
    unpacked = write_cifar10_batches(datasets / CIFAR10.unpacked)
    assert find(CIFAR10) == unpacked
    assert find(CIFAR100) is None
    by_keras = datasets / "cifar-100-python-target" / "cifar-100-python"
    write_cifar10_batches(by_keras, cifar=CIFAR100)
    assert find(CIFAR100) == by_keras


def test_a_download_shows_its_progress_and_is_held_against_its_checksum(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    batches = write_cifar10_batches(served / CIFAR10.unpacked, images_per_batch=200)
    archive = pack(batches, served / "cifar-10-python.tar.gz")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        with pytest.raises(DataError, match="could not be downloaded"):
            download(replace(CIFAR10, archive=replace(CIFAR10.archive, url=url)))
        assert find(CIFAR10) is None
        assert list((tmp_path / "keras" / "datasets").iterdir()) == []
        official = as_official(archive, url=url)
        target = download(official)
        server.shutdown()
    assert target == find(CIFAR10)
    assert len(read(official, target).train[0]) == 1000
    assert re.search(r"downloading CIFAR-10 ━.* [\d.]+/[\d.]+ [kM]?B", capfd.readouterr().out)


def test_a_server_out_of_reach_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"could not be downloaded.*set data\.path"):
        download(CIFAR10)


def test_a_batch_that_runs_code_is_refused(tmp_path: Path) -> None:
    root = write_cifar10_batches(tmp_path / "batches")
    (root / "data_batch_3").write_bytes(pickle.dumps({b"labels": Bomb(), b"data": 1}))
    with pytest.raises(DataError, match=r"refused: a CIFAR batch that wants to call posix\.mkdir"):
        read(CIFAR10, root)
    assert not Path("bombed").exists()


def endless(batch: Path) -> None:
    batch.unlink()
    batch.symlink_to("/dev/zero")


def made_a_folder(batch: Path) -> None:
    batch.unlink()
    batch.mkdir()


def pickled(labels: object, data: object) -> Callable[[Path], object]:
    content = pickle.dumps({b"labels": labels, b"data": data}, protocol=2)
    return lambda batch: batch.write_bytes(content)


PIXELS = np.zeros((2, 3072), np.uint8)

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file of devices": (endless, "not a CIFAR-10 batch, which has 31 MB"),
    "a folder": (made_a_folder, r"can't be read \(Is a directory\)"),
    "garbled": (lambda batch: batch.write_bytes(b"x"), "not a CIFAR-10 batch"),
    "another shape": (
        pickled([0], np.zeros((1, 12), np.uint8)),
        r"uint8 of shape \(1, 12\), expected uint8 of shape \(n, 3072\)",
    ),
    "a label too few": (pickled([0], PIXELS), r"2 images but labels of shape \(1,\)"),
    "a label beyond": (
        pickled([0, 10], PIXELS),
        "from 0 to 10, expected whole numbers from 0 to 9",
    ),
    "texts": (pickled([b"cat", b"dog"], PIXELS), r"labels are \|S3, expected whole numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_batch_is_told_by_its_name(case: str, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    root = write_cifar10_batches(tmp_path / "batches")
    change(root / "data_batch_2")
    with pytest.raises(DataError, match=f"data_batch_2: .*{message}") as raised:
        read(CIFAR10, root)
    assert str(raised.value).isprintable()
