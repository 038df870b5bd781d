"""Images and labels: `prepare` decodes a source once, `load` maps the arrays into memory, shared by
all workers.

Sources: CIFAR-10 (archive, unpacked folder, Keras' cache, download), a folder of images, an .npz
file, a synthetic set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hpo.config.app import SYNTHETIC_NOTICE, Data
from cifar_hpo.console import still
from cifar_hpo.data.sources import (
    BATCHES,
    CIFAR10_CLASSES,
    HOW_TO_GET,
    UNPACKED,
    Split,
    download,
    keras_cache,
    read_cifar10,
    read_folder,
    read_npz,
)
from cifar_hpo.data.synthetic import CLASSES, VERSION, synthetic
from cifar_hpo.errors import ConfigError, DataError, one_line
from cifar_hpo.paths import GENERATED

log = logging.getLogger(__name__)

PREPARED = "CIFAR_HPO_DATA"
"""The environment variable in which the parent tells its workers where prepared arrays lie, as
JSON."""


@dataclass(frozen=True)
class Dataset:
    """Images (n, 32, 32, 3) and labels (n,), all uint8 and memory-mapped, in a fixed random order.

    digest: of the arrays' content, 16 hex digits.
    fallback: whether these are synthetic images in place of CIFAR-10.
    """

    name: str
    classes: tuple[str, ...]
    digest: str
    folder: Path
    fallback: bool
    train: Split
    test: Split

    def splits(self, config: Data) -> tuple[Split, Split]:
        """Training and validation images as `config` divides them; the validation split does not
        depend on train_size.

        Raises ConfigError when there are too few images.
        """
        images, labels = self.train
        if config.validation == "test":
            held_out, validation = 0, self.test
        else:
            held_out = max(1, int(len(images) * float(config.validation)))
            validation = images[len(images) - held_out :], labels[len(images) - held_out :]
        available = len(images) - held_out
        size = available if config.train_size is None else config.train_size
        if not 0 < size <= available:
            raise ConfigError(
                "data.train_size",
                f"{size} images wanted, {self.name} has {available} beside its validation split",
            )
        return (images[:size], labels[:size]), validation


def load(config: Data) -> Dataset:
    """The dataset, mapped into memory. Raises what `prepare` raises."""
    dataset = _opened(prepare(config))
    return dataclasses.replace(
        dataset, fallback=config.source == "auto" and dataset.name == "synthetic"
    )


def decoded(digest: str) -> Dataset | None:
    """The dataset of this digest, if it was decoded in this folder before."""
    for about in Path(GENERATED, "data").glob("*/about.json"):
        if json.loads(about.read_text())["digest"] == digest:
            return _opened(about.parent)
    return None


def _opened(folder: Path) -> Dataset:
    about = json.loads((folder / "about.json").read_text())
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("x_train", "y_train", "x_test", "y_test")
    }
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        folder=folder,
        fallback=False,
        train=(arrays["x_train"], arrays["y_train"]),
        test=(arrays["x_test"], arrays["y_test"]),
    )


def prepare(config: Data) -> Path:
    """The folder of the decoded arrays, made on first use.

    A process and those that it starts look at a source once; what `auto` found holds for all of
    them. Raises DataError when the images can't be had or are not what they should be, ConfigError
    when data.path is missing.
    """
    known: dict[str, str] = json.loads(os.environ.get(PREPARED, "{}"))
    wanted = f"{config.source}:{config.path}"
    if wanted not in known:
        known[wanted] = str(_find(config))
        os.environ[PREPARED] = json.dumps(known)
    return Path(known[wanted])


def _find(config: Data) -> Path:
    path = Path(config.path).expanduser() if config.path else None
    if config.source == "synthetic":
        names = [f"class {n}" for n in range(CLASSES)]
        return _stored("synthetic", VERSION, lambda: (*synthetic(), names))
    if config.source in ("npz", "folder"):
        if path is None:
            raise ConfigError("data.path", f"data={config.source} needs the path of its images")
        if not path.exists():
            raise DataError(
                f"data.path: {path} does not exist; expected the images of data={config.source}"
            )
        if config.source == "npz":
            return _stored(path.stem, _fingerprint([path]), lambda: read_npz(path))
        return _stored(
            path.name, _fingerprint(sorted(path.glob("*/*/*"))), lambda: read_folder(path)
        )
    try:
        source = path or keras_cache() or download()
        if not source.exists():
            raise DataError(f"data.path: {source} does not exist; {HOW_TO_GET}")
        if (source / UNPACKED).is_dir():
            source /= UNPACKED
        files = [source / name for name in BATCHES] if source.is_dir() else [source]
        return _stored(
            "cifar10", _fingerprint(files), lambda: (*read_cifar10(source), CIFAR10_CLASSES)
        )
    except (OSError, DataError) as error:
        if config.source == "auto" and path is None:
            log.warning("%s (%s)", SYNTHETIC_NOTICE, one_line(error))
            return _find(Data(**{**vars(config), "source": "synthetic"}))
        raise DataError(one_line(error)) from error


def _fingerprint(files: list[Path]) -> str:
    """Of names, sizes and times, so that a source that did not change is not read again. A missing
    file is told by DataError."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
        except FileNotFoundError:
            raise DataError(
                f"data.path: {file} does not exist; expected {', '.join(BATCHES)} beside each other"
            ) from None
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _stored(name: str, fingerprint: str, read: Any) -> Path:
    """The folder of arrays of a source; `read` gives train, test and class names when they are not
    there yet."""
    folder = Path(GENERATED, "data", f"{name}-{fingerprint}").absolute()
    if folder.is_dir():
        return folder
    log.info("decoding %s once, to %s", name, folder.relative_to(Path.cwd()))
    with still(f"decoding {name}"):
        (x_train, y_train), (x_test, y_test), classes = read()
    order = np.random.default_rng(0).permutation(len(x_train))
    arrays = {
        "x_train": x_train[order],
        "y_train": y_train[order],
        "x_test": x_test,
        "y_test": y_test,
    }
    digest = hashlib.sha256()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    for array_name, array in arrays.items():
        np.save(draft / f"{array_name}.npy", array)
        digest.update(np.ascontiguousarray(array).data)
    (draft / "about.json").write_text(
        json.dumps({"name": name, "classes": list(classes), "digest": digest.hexdigest()[:16]})
    )
    try:
        draft.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(draft)
    return folder
