"""Images and archives damaged at random: read or refused, and nothing else, nowhere else.

`python -m pytest -m long tests/data/test_fuzz.py` tries 10,000; where one fails its seed is
noted.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from support import images, write_cifar10_batches

from cifar_hpo.data import cifar
from cifar_hpo.data.cifar import CIFAR10
from cifar_hpo.data.downloads import RemoteFile
from cifar_hpo.data.image_files import FORMATS, open_rgb
from cifar_hpo.data.keras_sets import read_idx
from cifar_hpo.data.sources import read_npz
from cifar_hpo.errors import DataError

SHORT, LONG = 600, 10_000
"""Cases in the suite, and by the command above."""


class Door(NamedTuple):
    """A whole file, and what reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]


def image_doors(folder: Path) -> list[Door]:
    pixels = Image.fromarray(images(1, 0)[0][0])
    doors = []
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "1"):
            written = io.BytesIO()
            if (kind, mode) in (("JPEG", "P"), ("PPM", "P")):  # there are none
                continue
            pixels.convert(mode).save(written, kind)
            doors.append(Door(f"{kind}.{mode}", written.getvalue(), open_small))
    grey = io.BytesIO()
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(grey, "PNG")
    doors.append(Door("PNG.16", grey.getvalue(), open_rgb))
    return doors


def open_small(file: Path) -> object:
    return open_rgb(file, (32, 32))


def archive_doors(folder: Path) -> list[Door]:
    pixels, labels = images(4, 0)
    doors = []
    for save in (np.savez, np.savez_compressed):
        written = io.BytesIO()
        names = np.array([*"abcd"])
        save(written, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=names)
        doors.append(Door(f"{save.__name__}.npz", written.getvalue(), read_npz))
        written = io.BytesIO()
        grey, numbers = pixels[:, :28, :20, 0] / np.float32(255), np.arange(8.0).reshape(4, 2)
        save(written, x_train=grey, y_train=numbers, x_test=grey, y_test=numbers)
        doors.append(Door(f"{save.__name__}.numbers.npz", written.getvalue(), read_npz))
    idx = struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 5, 6) + bytes(4 * 5 * 6)
    doors.append(Door("images.idx.gz", gzip.compress(idx), read_idx))
    batches = write_cifar10_batches(folder / "batches", images_per_batch=1)
    batch = CIFAR10.train_batches[0]
    doors.append(Door(f"batches/{batch}", (batches / batch).read_bytes(), read_batches))
    with tarfile.open(folder / "whole.tar.gz", "w:gz") as tar:
        tar.add(batches, CIFAR10.unpacked)
    archive = (folder / "whole.tar.gz").read_bytes()
    doors.append(Door("cut.tar.gz", archive, read_archive))
    return doors


def read_batches(file: Path) -> object:
    return cifar.read(CIFAR10, file.parent)


def read_archive(file: Path) -> object:
    """As if the damaged archive were the official one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteFile, "verify", lambda self, archive: None)
        return cifar.read(CIFAR10, file)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With one to four changes: bits, bytes, pieces cut out, doubled or moved, the end cut off."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        # Heads are short, and it is they that are believed.
        place = rng.randrange(rng.choice([len(changed), min(len(changed), 200)]) or 1)
        length = rng.randint(1, 40)
        match rng.randrange(6):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place : place + 4] = rng.randbytes(4)
            case 2:
                changed[place : place + 4] = rng.choice(
                    [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"]
                )
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case _:
                del changed[max(place, 1) :]
        changed = changed or bytearray(1)
    return bytes(changed)


def everything_below(folder: Path) -> set[str]:
    found = set()
    for root, _, files in os.walk(folder):
        found |= {os.path.join(root, file) for file in files}  # noqa: PTH118  quicker
    return found


def fuzz(doors: list[Door], folder: Path, cases: int, first_seed: int) -> int:
    """Try so many damaged files; returns how many of them were refused."""
    before = everything_below(folder)
    messages = []
    for seed in range(first_seed, first_seed + cases):
        rng = random.Random(seed)
        door = rng.choice(doors)
        file = folder / door.name
        file.write_bytes(damaged(door.content, rng))
        before.add(str(file))
        try:
            door.read(file)
        except DataError as error:
            messages.append(str(error))
        except Exception as error:
            error.add_note(f"seed {seed}, {door.name}")
            raise
    assert everything_below(folder) == before
    assert all(message.isprintable() for message in messages)
    return len(messages)


DOORS = {"images": image_doors, "archives": archive_doors}


@pytest.mark.parametrize("kind", DOORS)
def test_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    assert fuzz(DOORS[kind](tmp_path), tmp_path, SHORT, first_seed=0) > SHORT / 4


@pytest.mark.long
@pytest.mark.parametrize("kind", DOORS)
def test_ten_thousand_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    first_seed = random.SystemRandom().randrange(10**9)
    doors = DOORS[kind](tmp_path)
    assert fuzz(doors, tmp_path, LONG // len(DOORS), first_seed) > LONG / len(DOORS) / 4
