"""Names from outside: `printable` makes text of them fit for a terminal."""

from __future__ import annotations

import unicodedata
from pathlib import Path

UNPRINTABLE = ("Cc", "Cs")
"""Unicode's categories of control characters, which reach a terminal's settings, and of halves of
characters, which no file takes: of such are names that are not UTF-8."""


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
