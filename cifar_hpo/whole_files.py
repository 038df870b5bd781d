"""Files that are whole or not there at all: `whole_file` writes one beside its place first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, draft: Path, *, before: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which lies at `path` once all of it is on the disk.

    draft: its name until then, in the same folder; where the writing fails it is removed, since it
    would keep a full disk full. before: where what lay at `path` goes; else it is replaced. Raises
    OSError.
    """
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            with contextlib.suppress(FileNotFoundError):
                path.replace(before)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
