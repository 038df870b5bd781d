"""Bytes and names from outside: `damage_refused` lets nothing but DataError out of a library that
reads them, `printable` makes text of them fit for a terminal."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from cifar_hpo.errors import DataError, one_line

MAX_CAUSE = 200
"""Characters of a library's message that are shown: some hold what they could not read."""

UNPRINTABLE = ("Cc", "Cs")
"""Unicode's categories of control characters, which reach a terminal's settings, and of halves of
characters, which no file takes: of such are names that are not UTF-8."""


@contextlib.contextmanager
def damage_refused(what: str, expected: str = "") -> Iterator[None]:
    """Raise DataError, `what (cause); expected`, for whatever is raised inside.

    Of damaged and crafted bytes libraries raise what they happen to come to: a list of exceptions
    would never be whole.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        known = isinstance(error, OSError) and error.strerror
        cause = printable(str(known) if known else one_line(error))[:MAX_CAUSE]
        hint = f"; {expected}" if expected else ""
        raise DataError(f"{what} ({cause}){hint}") from error


def printable(name: str | Path) -> str:
    """A text with control characters and halves of characters as escapes."""
    return "".join(_escaped(character) for character in str(name))


def is_printable(name: str) -> bool:
    """Whether a name can be shown and stored everywhere."""
    return printable(name) == name


def _escaped(character: str) -> str:
    if unicodedata.category(character) in UNPRINTABLE:
        return f"\\x{ord(character) & 255:02x}"  # the byte that a half of a character stands for
    return character
