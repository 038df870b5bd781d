"""A `Database` before and while a library works on it: what is wrong with it is a StudyError, on
one line, and nothing is written to one that is damaged.

`new_file` is where a first SQLite file is made, whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from filelock import FileLock
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cifar_hpo.errors import StudyError, named_line, one_line
from cifar_hpo.paths import NEW_DATABASE, NEW_DATABASE_LOCK, short_path, sqlite_file
from cifar_hpo.redaction import redacted_uri

LOCK_TIMEOUT = 11
"""Seconds that a database is waited for which another process has locked when it is opened."""

CONNECT_TIMEOUT = 7
"""Seconds until a server that does not answer is given up."""

MAX_CHECKED_SIZE = 2**28
"""Bytes up to which every page of an SQLite file is looked at before it is used, some 2 s."""

TIMEOUT_OPTIONS = {
    "psycopg2": "connect_timeout",
    "psycopg": "connect_timeout",
    "mysqldb": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pg8000": "timeout",
}
"""The argument of each driver that limits how long it tries to connect, in seconds."""

DRIVERS = {"postgresql": ("psycopg", "psycopg2")}
"""The drivers of a database by the scheme of its URLs; the first that is installed is taken."""

KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Arguments of PostgreSQL's drivers, in seconds, probes and milliseconds: a server that has gone
without a word is noticed within half a minute, also while it is asked something."""

UTC = {"options": "-c timezone=UTC"}
"""Leases are compared as times without a zone: of all processes' sessions it must be the same."""

PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
"""The package that has a driver's module, where its name is another."""

FORMS = "sqlite:///FILE, postgresql://USER@HOST/NAME, mysql://USER@HOST/NAME"

PROBLEMS = (
    (
        ("disk is full", "no space left", "file too large"),
        "has no space left; make room, then the same command goes on",
    ),
    (
        ("disk i/o error",),
        "can't be read or written (disk I/O error); make room, or see whether the disk is sound",
    ),
    (
        ("malformed", "not a database", "encrypted", "corrupt", "could not decode"),
        "is damaged; restore a copy, move it away to begin anew, or name another by {option}",
    ),
    (("is locked",), "is locked by another process; wait for its end, or end it"),
    (
        ("readonly", "unable to open"),
        "can't be written; give yourself the right to write the file and its folder",
    ),
    (
        ("out-of-date database schema",),
        "is of another MLflow; keep a copy of it, then: mlflow db upgrade {url}",
    ),
    (("can't locate revision",), "is of a newer MLflow; pip install --upgrade mlflow"),
)
"""What SQLite and the libraries say, in lower case, and what follows from it for the user."""


@dataclass(frozen=True)
class Database:
    """A database that a library keeps its tables in.

    title: what it is to the user. url: as SQLAlchemy takes it. table: one that it has if it is
    that library's. option: by which another one is named.
    """

    title: str
    url: str
    table: str
    option: str

    @property
    def file(self) -> Path | None:
        return sqlite_file(self.url)

    @property
    def engine_url(self) -> str:
        """The URL with a driver that is installed, where it names none: which one it means then
        depends on SQLAlchemy's version."""
        for scheme, drivers in DRIVERS.items():
            for driver in drivers:
                if self.url.startswith(f"{scheme}://") and find_spec(driver):
                    return self.url.replace(scheme, f"{scheme}+{driver}", 1)
        return self.url

    def __str__(self) -> str:
        return f"{self.title} {short_path(self.file) if self.file else redacted_uri(self.url)}"

    def check(self, *, will_write: bool) -> None:
        """Raise StudyError where it can't be used: damaged, locked, of something else, read-only
        though it will be written, or a server that does not answer.

        A file that is not there yet is left alone. Takes some LOCK_TIMEOUT at most.
        """
        with self.errors(ImportError):  # of a driver
            if self.file is None and self.url.startswith("sqlite"):
                raise StudyError(f"{self} is no file; give {FORMS} by {self.option}")
            if self.file is None:
                self._connect()
            elif self.file.exists():
                self._check_file(self.file, will_write=will_write)

    @contextlib.contextmanager
    def errors(self, *others: type[Exception]) -> Iterator[None]:
        """Raise StudyError in place of what SQLAlchemy and the drivers raise, at whichever query.

        others: what the library makes of their errors.
        """
        kinds: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, *others)
        try:
            yield
        except kinds as error:  # not the cause of ours: drivers' texts may hold a password
            raise StudyError(f"{self} {self._problem(error)}") from None

    def _problem(self, error: Exception) -> str:
        """What is wrong and what to do, behind the database's name."""
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ModuleNotFoundError):
                package = PACKAGES.get(cause.name or "", cause.name)
                return f"needs the package {package}; pip install {package}"
            if isinstance(cause, NoSuchModuleError | ArgumentError):
                return f"is no database's URL; give {FORMS} by {self.option}"
        text = " ".join(one_line(cause) for cause in causes).lower()
        for signs, problem in PROBLEMS:
            if any(sign in text for sign in signs):
                return problem.format(option=self.option, url=redacted_uri(self.url))
        last = named_line(causes[-1], 160)
        hint = "" if self.file else "; see whether it runs and lets you in"
        return f"can't be used ({last}){hint}"

    def has_tables(self) -> bool:
        """Whether a server's database has the tables of its library. Raises StudyError where it
        can't be asked."""
        with self.errors(ImportError):
            options = self.connect_options()
            engine = sqlalchemy.create_engine(self.engine_url, connect_args=options)
            try:
                return sqlalchemy.inspect(engine).has_table(self.table)
            finally:
                engine.dispose()

    def connect_options(self) -> dict[str, Any]:
        """The arguments of a server's driver that let it give up in time."""
        driver = sqlalchemy.make_url(self.engine_url).get_dialect().driver
        option = TIMEOUT_OPTIONS.get(driver)
        options: dict[str, Any] = {option: CONNECT_TIMEOUT} if option else {}
        if driver not in DRIVERS["postgresql"]:
            return options
        own = "options" in sqlalchemy.make_url(self.engine_url).query
        return options | KEEPALIVE | ({} if own else UTC)

    def _connect(self) -> None:
        """Ask a server for a connection: its driver would wait for minutes."""
        engine = sqlalchemy.create_engine(self.engine_url, connect_args=self.connect_options())
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    def _check_file(self, file: Path, *, will_write: bool) -> None:
        if file.is_dir():
            raise StudyError(f"{self} is a folder; name a file by {self.option}")
        if not file.stat().st_size:
            hint = f"remove it to begin anew, or name another by {self.option}"
            raise StudyError(f"{self} is empty; {hint}")
        if will_write and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise sqlite3.OperationalError("readonly")
        address = f"file:{quote(str(file.absolute()))}?mode=rw"  # never makes a file
        connected = sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT)
        with contextlib.closing(connected) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if (self.table,) not in tables.fetchall():
                problem = f"has no table {self.table}: it is a database of something else"
                raise StudyError(f"{self} {problem}; name another by {self.option}")
            if file.stat().st_size <= MAX_CHECKED_SIZE:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise sqlite3.DatabaseError("malformed")
            if will_write:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it was made of, the first cause last."""
    causes = [error]
    while True:
        last = causes[-1]
        cause = getattr(last, "orig", None) or last.__cause__ or last.__context__
        if cause is None or cause in causes:
            return causes
        causes.append(cause)


@contextlib.contextmanager
def new_file(file: Path) -> Iterator[Path | None]:
    """Where to make an SQLite file that is not there, alone; it will be whole or not there at all.

    Gives None where there is one by now: several processes may want it at once. Raises OSError
    where the folder can't be written.
    """
    if file.exists():
        yield None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(NEW_DATABASE_LOCK.format(database=file.name))
    draft = file.with_name(NEW_DATABASE.format(database=file.name))
    with FileLock(lock):
        if file.exists():
            yield None
        else:
            _remove(draft)  # of a process that was killed
            try:
                yield draft
                draft.replace(file)
            finally:
                _remove(draft)
        lock.unlink(missing_ok=True)  # whoever waits for it, or makes it anew, finds the file


def _remove(draft: Path) -> None:
    """A draft, and the journal that SQLite may have left beside it."""
    draft.unlink(missing_ok=True)
    draft.with_name(f"{draft.name}-journal").unlink(missing_ok=True)
