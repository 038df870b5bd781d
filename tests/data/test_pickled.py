"""Pickles of CIFAR-10's batches, honest, crafted and damaged; none may run or reach anything."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import write_cifar10_batches

from cifar_hpo.data.cifar import CIFAR10, read
from cifar_hpo.data.pickled import read_pickle
from cifar_hpo.errors import DataError

RECONSTRUCT: Any = np.zeros(0, np.uint8).__reduce__()[0]
"""NumPy's own function that pickles of arrays call."""


class Crafted:
    """Pickles as a call with arguments, and a state that it is given then."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def load(value: Any, protocol: int = 2) -> Any:
    return read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol)))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_array_of_bytes_is_what_it_was(protocol: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    loaded = load({b"data": array, b"labels": [1, 2], b"name": b"x"}, protocol)
    assert loaded[b"data"].dtype == np.uint8
    assert np.array_equal(loaded[b"data"], array)
    assert (loaded[b"labels"], loaded[b"name"]) == ([1, 2], b"x")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float64),
        np.array([{}], object),
        np.zeros(2, [("a", "u1")]),
        np.zeros((2, 3), np.uint8, order="F"),
        np.zeros(2, "U3"),
    ],
    ids=str,
)
def test_any_other_array_is_refused(array: Any) -> None:
    with pytest.raises(DataError, match=r"^refused: "):
        load({b"data": array})


def test_a_type_with_crafted_flags_reaches_no_memory() -> None:
    """NumPy's own type takes such a state: its array would then read addresses as objects."""
    crafted = Crafted(np.dtype, ("u1", 0, 1), (3, "|", None, None, None, 8, 8, 63))
    state = (1, (1,), crafted, False, b"\x01" * 8)
    array = Crafted(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)
    with pytest.raises(DataError, match="8 bytes for an array of another shape"):
        load({b"data": array})


@pytest.mark.parametrize("shape", [(2, 3), (-1, -4), (2**40, 2**40), ("x",), (1.0, 4)])
def test_a_shape_that_is_not_that_of_its_bytes_is_refused(shape: tuple[Any, ...]) -> None:
    state = (1, shape, np.dtype(np.uint8), False, b"abcd")
    array = Crafted(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)
    with pytest.raises(DataError, match="4 bytes for an array of another shape"):
        load({b"data": array})


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "numpy.memmap", "numpy.frombuffer", "_codecs.decode"]
)
def test_anything_else_that_a_pickle_names_is_refused(name: str) -> None:
    module, _, function = name.rpartition(".")
    called = f"c{module}\n{function}\n(S'x'\ntR.".encode()
    pickletools.dis(called, io.StringIO())
    with pytest.raises(DataError, match=f"wants to call {name}"):
        read_pickle(io.BytesIO(called))


def test_damaged_batches_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """A byte changed, a piece cut out, a piece doubled: three hundred times."""
    folder = write_cifar10_batches(tmp_path / "batches", images_per_batch=2)
    file = folder / CIFAR10.train_batches[0]
    content = file.read_bytes()
    head = len(content) - content[::-1].index(b"data"[::-1])  # where pickle's own words stand
    rng = random.Random(5)
    messages = []
    for _ in range(300):
        damaged = bytearray(content)
        place = rng.choice([rng.randrange(min(head, 300)), rng.randrange(len(content))])
        change = rng.choice(("flip", "cut", "double"))
        if change == "flip":
            damaged[place] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del damaged[place : place + rng.randrange(1, 40)]
        else:
            damaged[place:place] = damaged[place : place + rng.randrange(1, 40)]
        file.write_bytes(bytes(damaged))
        try:
            read(CIFAR10, folder)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message]
