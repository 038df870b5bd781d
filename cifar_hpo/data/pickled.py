"""The pickle of a CIFAR batch, read without running anything that it names: `read_pickle`.

A pickle may call whatever it names, and NumPy's own types take states that reach raw memory. So
what it says of arrays is kept as it is, and made an array of bytes by NumPy's public API.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.errors import DataError
from cifar_hpo.printable import printable

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
BYTE_TYPES = ("u1", "|u1")
"""How NumPy names uint8 in pickles."""

MAX_SHOWN = 80
"""Characters of a pickle's words in a message."""

MAX_DIMENSIONS = 8
MAX_TUPLES = 1_000
"""Tuples in a pickle; a batch has ten. Python's own code for very deep ones ends the process."""


def read_pickle(file: IO[bytes]) -> Any:
    """What a pickle of dicts, lists, bytes, numbers and arrays of uint8 holds.

    Raises DataError for a pickle that names anything else or would take more than its own size of
    memory, and what pickle and NumPy raise for one that is damaged.
    """
    content = file.read()
    _refuse_bombs(content)
    return _with_arrays(_Unpickler(io.BytesIO(content), encoding="bytes").load())


def _refuse_bombs(content: bytes) -> None:
    """Raise DataError for what would fill the memory or the stack before anything is built."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        tuples += opcode.name.startswith("TUPLE")
        # Each place of the memo takes memory, and so do those before it.
        is_far = "PUT" in opcode.name and isinstance(argument, int) and argument > len(content)
        if is_far or tuples > MAX_TUPLES:
            raise DataError(f"refused: a CIFAR batch that would take too much ({opcode.name})")


class _Unpickler(pickle.Unpickler):
    """Builds nothing but Python's own plain values, and descriptions of arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _StoredType
        if (module, name) == ("numpy", "ndarray"):
            return None  # only named, as an argument of _reconstruct
        if module in ARRAY_MODULES and name == "_reconstruct":
            return _StoredArray
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        called = printable(f"{module}.{name}")[:MAX_SHOWN]
        raise DataError(f"refused: a CIFAR batch that wants to call {called}")


class _StoredType:
    """What a pickle says of an array's type; its state, such as flags, is not looked at."""

    def __init__(self, name: Any, *_: object) -> None:
        text = name.decode() if isinstance(name, bytes) else name
        self.name = printable(text)[:MAX_SHOWN] if isinstance(text, str) else ""

    def __setstate__(self, state: Any) -> None:
        pass


class _StoredArray:
    """What a pickle says of an array."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> NDArray[np.uint8]:
        """Raises DataError for anything but bytes of the length that the shape asks for."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise DataError("refused: a CIFAR batch with an array of an unknown form")
        _, shape, kind, is_fortran, content = self.state
        is_plain = isinstance(kind, _StoredType) and kind.name in BYTE_TYPES and not is_fortran
        if not is_plain or not isinstance(content, bytes):
            name = kind.name if isinstance(kind, _StoredType) else type(kind).__name__
            raise DataError(f"refused: a CIFAR batch with an array of {name}, expected uint8")
        if not _is_shape_of(shape, len(content)):
            raise DataError(f"refused: {len(content)} bytes for an array of another shape")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _is_shape_of(shape: Any, size: int) -> bool:
    """Whether an array of so many elements may have this shape."""
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        return False
    if not all(isinstance(length, int) and 0 <= length <= size for length in shape):
        return False
    return math.prod(shape) == size


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as later pickles write them, as text in Latin-1."""
    if encoding != "latin1":
        raise DataError("refused: a CIFAR batch with text that is not in Latin-1")
    return text.encode("latin1")


def _with_arrays(value: Any) -> Any:
    """The same with arrays in the place of their descriptions, in a dict or a list."""
    if isinstance(value, _StoredArray):
        return value.to_numpy()
    if isinstance(value, dict):
        return {key: _with_arrays(entry) for key, entry in value.items()}
    return value
