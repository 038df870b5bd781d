"""Files from the network: a `RemoteFile` with its checksum, fetched into Keras' cache.

A file that is there, from whomever, is held against the checksum before it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cifar_hpo.console import Heartbeat, terminal
from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError, one_line
from cifar_hpo.printable import printable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10
"""Seconds without an answer after which a server is taken for out of reach."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset.

    title: the dataset's name for people. beside: the names of further files of it, which lie where
    this one does.
    """

    title: str
    url: str
    sha256: str
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def how_to_get(self) -> str:
        if self.beside:
            them = f"{self.url}, and from beside it {', '.join(self.beside)}, to a folder"
            return f"download {them} and set data.path to that, or try data=synthetic"
        return f"download {self.url} and set data.path to it, or try data=synthetic"

    def verify(self, file: Path) -> None:
        """Raise DataError for a file that can't be read or is another one."""
        with damage_refused(f"{printable(file)}: can't be read"), file.open("rb") as opened:
            checksum = hashlib.file_digest(opened, "sha256").hexdigest()
        if checksum != self.sha256:
            kind = "archive" if ".tar" in self.name else "file"
            raise DataError(
                f"{printable(file)}: sha256 {checksum[:12]}…, expected {self.sha256[:12]}…: not "
                f"the official {kind} of {self.url}"
            )

    def download(self, target: Path) -> Path:
        """Fetch it to a place, with its progress shown; returns the place.

        Its checksum is verified before it gets its name. Raises DataError.
        """
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        log.info("%s is not in the Keras cache: trying to download %s", self.title, self.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(draft)
            self.verify(draft)
            draft.replace(target)
        except (OSError, TypeError, DataError) as error:  # TypeError: an answer without a length
            problem = f"{self.title} could not be downloaded ({one_line(error)})"
            raise DataError(f"{problem}; {self.how_to_get}") from error
        finally:
            draft.unlink(missing_ok=True)
        return target

    def _fetch(self, draft: Path) -> None:
        from rich.progress import wrap_file

        opened = urllib.request.urlopen(self.url, timeout=CONNECT_TIMEOUT)  # noqa: S310  of this file
        with opened as response:
            size = int(response.headers["Content-Length"])
            with (
                draft.open("wb") as file,
                wrap_file(response, size, description=f"downloading {self.title}") as body,
                _logged_progress(draft, size),
            ):
                shutil.copyfileobj(body, file)


def keras_cache() -> Path:
    """Where Keras keeps its datasets."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets")


def _logged_progress(draft: Path, size: int) -> contextlib.AbstractContextManager[object]:
    """A line now and then with the bytes that are there, of size; on a terminal there is a bar."""
    if terminal().is_terminal:
        return contextlib.nullcontext()

    def log_progress() -> None:
        log.info("%d of %d MB downloaded", draft.stat().st_size // 10**6, size // 10**6)

    return Heartbeat(log_progress)
