"""Bytes from outside: `damage_refused` lets nothing but DataError out of a library that reads
them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cifar_hpo.errors import DataError, one_line
from cifar_hpo.printable import printable

MAX_CAUSE = 200
"""Characters of a library's message that are shown: some hold what they could not read."""


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
