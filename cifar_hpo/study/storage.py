"""Where Optuna keeps studies: a storage is opened, a study of it loaded or locked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from cifar_hpo.database import Database, new_file
from cifar_hpo.errors import StudyError, named_line, one_line
from cifar_hpo.paths import (
    IN_MEMORY,
    LOCK_HOLDER,
    SHARED_LOCKS,
    SQLITE,
    STUDY_LOCK,
    STUDY_NAME,
    short_path,
    sqlite_file,
    storage_url,
)
from cifar_hpo.redaction import redacted
from cifar_hpo.study import _optuna
from cifar_hpo.study.sharing import LEASE, RENEWAL, others_kept_out
from cifar_hpo.study.turns import DIALECTS, closing_turn

SQLITE_TIMEOUT = 60
"""Seconds that a write waits for another process's."""

OPTION = "hydra.sweeper.storage (--storage)"

HOLDER_TIMEOUT = 2.0
"""Seconds that are waited for the holder of a lock to give its name."""


def open_storage(given: str | None, *, will_write: bool = True) -> BaseStorage:
    """Optuna's storage; None is studies.db among what is generated, `memory` keeps nothing.

    will_write: whether a storage that can only be read is refused. Raises StudyError when it can't
    be opened, with no password in the message; nothing is written to a damaged one.
    """
    url = storage_url(given)
    if url == IN_MEMORY:
        return _optuna.memory()
    database = _database(given)
    database.check(will_write=will_write)
    with storage_errors(given):
        file = database.file
        if file is None:
            options = {"pool_pre_ping": True, "connect_args": database.connect_options()}
            if server(given) is None:
                return _optuna.connect(database.engine_url, options)
            with closing_turn(database, "tables"):
                return _optuna.connect(database.engine_url, options, lease=(RENEWAL, LEASE))
        _make(file)
        return _optuna.connect(url, {"connect_args": {"timeout": SQLITE_TIMEOUT}})


def _make(file: Path) -> None:
    """Give a file that is not there Optuna's tables; two processes at once make one."""
    try:
        with new_file(file) as draft:
            if draft is not None:
                _optuna.create_tables(f"{SQLITE}{draft}")
    except (FileExistsError, NotADirectoryError):
        raise StudyError(f"{file} can't be made: {file.parent} is no folder") from None


def server(given: str | None) -> Database | None:
    """The database server that a storage is in, in which several commands can work on one study;
    None for one that is not."""
    database = _database(given)
    if database.url == IN_MEMORY or database.file is not None:
        return None
    with database.errors():
        dialect = sqlalchemy.make_url(database.url).get_backend_name()
    return database if dialect in DIALECTS else None


def open_existing(given: str | None, *, will_write: bool = False) -> BaseStorage:
    """The storage of studies that are there already. Raises StudyError where there are none."""
    url = storage_url(given)
    if url == IN_MEMORY:
        raise StudyError("the storage in memory keeps no studies; give another by --storage")
    file = sqlite_file(url)
    if file and not file.exists():
        raise StudyError(
            f"{short_path(file)} is not here; go to the folder where the sweep was started, "
            "or give --storage"
        )
    return open_storage(given, will_write=will_write)


def storage_if_there(given: str | None) -> BaseStorage | None:
    """The storage, to be read; None where nobody has made one yet. Raises as `open_storage`."""
    database = _database(given)
    if database.url == IN_MEMORY:
        return None
    is_there = database.file.exists() if database.file else database.has_tables()
    return open_storage(given, will_write=False) if is_there else None


@contextlib.contextmanager
def storage_errors(given: str | None) -> Iterator[None]:
    """Raise StudyError in place of what Optuna, SQLAlchemy and the database's driver raise.

    They may at any call, long after a storage was opened.
    """
    database = _database(given)
    try:
        with database.errors(StorageInternalError):
            yield
    except (LookupError, ValueError, RuntimeError) as error:
        if not _optuna.is_of_storage(error):
            raise
        if isinstance(error, RuntimeError):
            raise StudyError(f"{database} {_schema_problem(one_line(error), database)}") from None
        cause = named_line(error, 100)
        problem = f"holds what Optuna can't read ({cause}); restore a copy of it"
        raise StudyError(f"{database} {problem}") from None


def _database(given: str | None) -> Database:
    return Database("Optuna's storage", storage_url(given), "studies", OPTION)


def _schema_problem(text: str, database: Database) -> str:
    """What to do with tables of another version; Optuna's text says whether it is older."""
    if "storage upgrade" in text:
        command = f"optuna storage upgrade --storage {redacted(database.url)}"
        return f"is of an older Optuna; keep a copy, then: {command}"
    return "is of a newer Optuna; pip install --upgrade optuna"


def load_study(storage: BaseStorage, name: str | None = None) -> optuna.Study:
    """A study that is there, by default the one that was worked on last.

    Raises StudyError where it is not there, with the names of those that are.
    """
    known = optuna.get_all_study_names(storage)
    if not known or (name and name not in known):
        listed = ", ".join(sorted(known)) or "none"
        raise StudyError(f"there is no study {name or 'here'}; there are: {listed}")
    if not name:
        name = latest_first(storage)[0]
    return optuna.load_study(study_name=name, storage=storage)


def latest_first(storage: BaseStorage) -> list[str]:
    """The names of all studies, by when their last trials began."""
    names = optuna.get_all_study_names(storage)
    return sorted(names, key=lambda study: _optuna.last_start(storage, study), reverse=True)


def is_file(storage: BaseStorage) -> bool:
    """Whether it is an SQLite file, whose locks keep out every process that can open it."""
    url = _optuna.url_of(storage)
    return url is not None and sqlite_file(url) is not None


@contextlib.contextmanager
def study_lock(
    storage: BaseStorage, study: str, *, hint: str = "use hydra.sweeper.fresh=true"
) -> Iterator[None]:
    """One asker for a study: two would lay out the same cells, and take each other's running trials
    for abandoned ones.

    The lock lies beside an SQLite file. In a server that has turns it is one, in which nobody runs
    a trial of the study; of any other server it keeps out the commands of this machine only. hint:
    what else to do than to wait. Raises StudyError when another process holds the study, or its
    name can't be that of a file.
    """
    url = _optuna.url_of(storage)
    if url is None:
        yield
        return
    database = server(url)
    if database is not None:
        with others_kept_out(storage, database, study):
            yield
        return
    path = _lock_file(url, as_file_name(study))
    holder = path.with_suffix(LOCK_HOLDER)
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        raise StudyError(
            f"study {study}: {read_holder(holder)} is working on it; wait for its end, or {hint}"
        ) from None
    with lock:
        with contextlib.suppress(OSError):  # a full disk, which its database will tell of
            holder.write_text(f"process {os.getpid()}")
        yield


def read_holder(holder: Path) -> str:
    """Who has a lock. It is noted a moment after the lock was taken; until then an earlier
    holder's name is there, or none."""
    deadline = time.monotonic() + HOLDER_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            who = holder.read_text()
            if psutil.pid_exists(int(who.removeprefix("process "))):
                return who
        time.sleep(0.05)
    return "another process"


def is_held(storage: BaseStorage, study: str) -> bool | None:
    """Whether a process holds a study in a file; None of a study elsewhere, which several may
    share."""
    if not is_file(storage):
        return None
    try:
        with study_lock(storage, study):
            return False
    except StudyError:
        return True


def as_file_name(study: str) -> str:
    """A study's name where it becomes part of a file's: another program may have named it.

    Raises StudyError where it might lead out of its folder.
    """
    if not STUDY_NAME.fullmatch(study):
        problem = f"{study[:60]!r} is no name that files can have"
        raise StudyError(f"{problem}; export it with python -m cifar_hpo.studies, or rename it")
    return study


def _lock_file(url: str, study: str) -> Path:
    """Beside an SQLite file, else among this machine's temporary files."""
    storage = sqlite_file(url)
    if storage is None:
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        storage = Path(tempfile.gettempdir(), SHARED_LOCKS.format(digest=digest))
    return storage.with_name(STUDY_LOCK.format(storage=storage.name, study=study))
