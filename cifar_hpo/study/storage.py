"""Where Optuna keeps studies: a storage is opened, a study of it loaded or locked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from cifar_hpo.errors import StudyError, one_line
from cifar_hpo.paths import (
    IN_MEMORY,
    LOCK_HOLDER,
    SHARED_LOCKS,
    STUDIES_DB,
    STUDY_LOCK,
    sqlite_file,
    storage_url,
)
from cifar_hpo.redaction import redacted
from cifar_hpo.study import _optuna

SQLITE_TIMEOUT = 60
"""Seconds that a write waits for another process's."""


def open_storage(given: str | None) -> BaseStorage:
    """Optuna's storage; None is studies.db among what is generated, `memory` keeps nothing.

    Raises StudyError when it can't be opened, with no password in the message.
    """
    url = storage_url(given)
    if url == IN_MEMORY:
        return _optuna.memory()
    options: dict[str, Any] = {"pool_pre_ping": True}
    file = sqlite_file(url)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": SQLITE_TIMEOUT}}
    try:
        return _optuna.connect(url, options)
    except Exception as error:  # noqa: BLE001  SQLAlchemy's and the drivers' errors share no base
        cause = f"{type(error).__name__}: {redacted(one_line(error))[:120]}"
        where = f"hydra.sweeper.storage: {redacted(url)}"
        raise StudyError(f"{where} can't be opened ({cause})") from None


def open_existing(given: str | None) -> BaseStorage:
    """The storage of studies that are there already. Raises StudyError where this folder has
    none."""
    if not given and not STUDIES_DB.exists():
        raise StudyError(
            f"{STUDIES_DB} is not here; go to the folder where the sweep was started, "
            "or give --storage"
        )
    return open_storage(given)


def load_study(storage: BaseStorage, name: str | None = None) -> optuna.Study:
    """A study that is there, by default the one that was worked on last.

    Raises StudyError where it is not there, with the names of those that are.
    """
    known = optuna.get_all_study_names(storage)
    if not known or (name and name not in known):
        listed = ", ".join(sorted(known)) or "none"
        raise StudyError(f"there is no study {name or 'here'}; there are: {listed}")
    if not name:
        name = max(known, key=lambda study: _optuna.last_start(storage, study))
    return optuna.load_study(study_name=name, storage=storage)


def is_file(storage: BaseStorage) -> bool:
    """Whether it is an SQLite file, whose locks keep out every process that can open it."""
    url = _optuna.url_of(storage)
    return url is not None and sqlite_file(url) is not None


@contextlib.contextmanager
def study_lock(storage: BaseStorage, study: str) -> Iterator[None]:
    """One asker for a study: two would lay out the same cells, and take each other's running trials
    for abandoned ones.

    The lock lies beside an SQLite file; for other storages it keeps out the commands of this
    machine only. Raises StudyError when another process holds the study.
    """
    url = _optuna.url_of(storage)
    if url is None:
        yield
        return
    path = _lock_file(url, study)
    holder = path.with_suffix(LOCK_HOLDER)
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        raise StudyError(
            f"study {study}: {who} is working on it; wait for its end, or use "
            "hydra.sweeper.fresh=true"
        ) from None
    with lock:
        holder.write_text(f"process {os.getpid()}")
        yield


def _lock_file(url: str, study: str) -> Path:
    """Beside an SQLite file, else among this machine's temporary files."""
    storage = sqlite_file(url)
    if storage is None:
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        storage = Path(tempfile.gettempdir(), SHARED_LOCKS.format(digest=digest))
    return storage.with_name(STUDY_LOCK.format(storage=storage.name, study=study))
