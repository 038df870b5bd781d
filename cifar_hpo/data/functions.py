"""A user's function of data, which a config names by `_target_`: called by `call_function`.

What it returns is held against `given.Dataset`, and read by `read_function`. By `fingerprint` it is
known whether it would return the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifar_hpo import trust
from cifar_hpo.data import given
from cifar_hpo.data.arrays import DecodedImages, decoded
from cifar_hpo.data.streams import is_stream, read_streams
from cifar_hpo.errors import DataError, UserError, named_line
from cifar_hpo.printable import printable
from cifar_hpo.processor import quiet_tensorflow
from cifar_hpo.trust import Call

PATH = "data._target_"
EXPECTED = (
    "expected ((x_train, y_train), (x_test, y_test)), a cifar_hpo.Dataset, or two or three "
    "tf.data.Datasets"
)
MAX_FILES = 100_000
"""Below a folder, which takes about a second to look at."""

MAX_SHOWN = 80
"""Characters of what else was returned."""


def call_function(call: Call) -> given.Dataset:
    """What the function returns. Raises DataError for what it raises, and for anything else."""
    where = f"data: {call.target}"
    try:
        with quiet_tensorflow():
            returned = trust.call(PATH, call)
    except UserError:
        raise
    except Exception as error:
        place = _place_of(error)
        raise DataError(f"{where} raised {printable(named_line(error))}{place}") from error
    return _as_dataset(where, returned)


def _place_of(error: Exception) -> str:
    """The line of the function's file that led to an error; empty where it was not begun."""
    lines: dict[str, int | None] = {}
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename not in (__file__, trust.__file__):
            lines[frame.filename] = frame.lineno  # the last one in a file is the deepest
    for file, line in lines.items():
        return f" ({Path(file).name}, line {line})"
    return ""


def _as_dataset(where: str, returned: Any) -> given.Dataset:
    if isinstance(returned, given.Dataset):
        return returned
    if isinstance(returned, tuple | list):
        if all(map(is_stream, returned)) and len(returned) == 2:
            return given.Dataset(*returned)
        if all(map(is_stream, returned)) and len(returned) == 3:
            train, validation, test = returned
            return given.Dataset(train, test, validation=validation)
        if len(returned) == 2 and all(map(_is_pair, returned)):
            return given.Dataset(*returned)
        kinds = ", ".join(type(part).__name__ for part in returned)
        raise DataError(f"{where} returned ({kinds[:MAX_SHOWN]}); {EXPECTED}")
    raise DataError(f"{where} returned {type(returned).__name__}; {EXPECTED}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def read_function(call: Call) -> DecodedImages:
    """The images that a function returns. Raises DataError."""
    dataset = call_function(call)
    where = f"data: {call.target}"
    names = [str(name) for name in dataset.classes]
    parts = [dataset.train, dataset.test]
    if any(map(is_stream, parts)):
        if not all(map(is_stream, parts)):
            raise DataError(f"{where}: train and test are of two kinds; {EXPECTED}")
        return read_streams(where, dataset, names)._replace(name=dataset.name)
    if dataset.validation is not None:
        problem = "a validation split of arrays is not taken"
        raise DataError(f"{where}: {problem}; data.validation is the share of train to select by")
    if not all(map(_is_pair, parts)):
        raise DataError(f"{where}: train and test are no pairs of images and labels; {EXPECTED}")
    images = decoded(where, dataset.train, dataset.test, names, dataset.labels)
    return images._replace(name=dataset.name)


def fingerprint(call: Call) -> str:
    """Of what the function is and is called with, so that what did not change is not read again.

    That is its code's file, its arguments, and of files and folders among these the names, sizes
    and times. What else it reads is not seen. Raises ConfigError where it may not be called.
    """
    digest = hashlib.sha256()
    parts = list(_parts_of(call))
    for part in parts:
        if isinstance(part, Call):
            code = trust.code_digest(PATH, part.target)
            digest.update(f"{part.target} {code}\n".encode())
    digest.update(repr(_sorted(asdict(call))).encode())
    for text in parts:
        if not isinstance(text, str):
            continue
        for file in _files(text):
            with contextlib.suppress(OSError):  # of a link to nowhere
                stat = file.stat()
                digest.update(os.fsencode(file))
                digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _parts_of(value: Any) -> Iterator[Any]:
    """A value, and all that it is made of in any depth: of a call its arguments, of a dict its
    values."""
    yield value
    children: Iterable[Any] = ()
    if isinstance(value, Call):
        children = value.arguments.values()
    elif isinstance(value, dict):
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        yield from _parts_of(child)


def _sorted(value: Any) -> Any:
    """Nested dicts with their keys in one order."""
    if isinstance(value, dict):
        return [(key, _sorted(value[key])) for key in sorted(value)]
    if isinstance(value, list):
        return [_sorted(child) for child in value]
    return value


def _files(text: str) -> list[Path]:
    """The files that an argument names: itself, or all below a folder, or the folder where there
    are very many. The current folder and those above it, which change all the time, are not looked
    into."""
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return [path]
        if not path.is_dir() or Path.cwd().is_relative_to(path.resolve()):
            return []
    except (OSError, ValueError, RuntimeError):  # no path at all
        return []
    files: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        files += [Path(folder, name) for name in sorted(names)]
        if len(files) > MAX_FILES:
            return [path]
    return files
