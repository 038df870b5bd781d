"""The pickle of a CIFAR-10 batch, read without running anything that it names: `read_pickle`.

A pickle may call whatever it names, and NumPy's own types take states that reach raw memory. So
what it says of arrays is kept as it is, and made an array of bytes by NumPy's public API.
"""

from __future__ import annotations

import math
import pickle
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.errors import DataError

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
BYTE_TYPES = ("u1", "|u1")
"""How NumPy names uint8 in pickles."""


def read_pickle(file: IO[bytes]) -> Any:
    """What a pickle of dicts, lists, bytes, numbers and arrays of uint8 holds.

    Raises DataError for a pickle that names anything else, and what pickle and NumPy raise for one
    that is damaged.
    """
    return _with_arrays(_Unpickler(file, encoding="bytes").load())


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
        raise DataError(f"refused: a CIFAR-10 batch that wants to call {module}.{name}")


class _StoredType:
    """What a pickle says of an array's type; its state, such as flags, is not looked at."""

    def __init__(self, name: Any, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)

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
            raise DataError("refused: a CIFAR-10 batch with an array of an unknown form")
        _, shape, kind, is_fortran, content = self.state
        is_plain = isinstance(kind, _StoredType) and kind.name in BYTE_TYPES and not is_fortran
        if not is_plain or not isinstance(content, bytes):
            name = kind.name if isinstance(kind, _StoredType) else type(kind).__name__
            raise DataError(f"refused: a CIFAR-10 batch with an array of {name}, expected uint8")
        sizes = [size for size in shape if isinstance(size, int) and size >= 0]
        if len(sizes) != len(shape) or math.prod(sizes) != len(content):
            raise DataError(f"refused: {len(content)} bytes for an array of shape {shape}")
        return np.frombuffer(content, np.uint8).reshape(sizes)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as later pickles write them, as text in Latin-1."""
    if encoding != "latin1":
        raise DataError(f"refused: a CIFAR-10 batch with text in {encoding}")
    return text.encode("latin1")


def _with_arrays(value: Any) -> Any:
    """The same with arrays in the place of their descriptions, in a dict or a list."""
    if isinstance(value, _StoredArray):
        return value.to_numpy()
    if isinstance(value, dict):
        return {key: _with_arrays(entry) for key, entry in value.items()}
    return value
