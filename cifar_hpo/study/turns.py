"""One after another: in its `Turn` a process changes what several share in a database server.

A turn is a lock of the server's own and no row of a table, so nothing of it is left behind: it ends
with the connection of a process that dies, and after MAX_SILENCE with that of a host that is gone.
A thread keeps the connection from being silent while its process is at work, however long.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from cifar_hpo.database import Database
from cifar_hpo.errors import StudyError

PATIENCE = 120
"""Seconds that a turn is waited for; each takes some milliseconds, the first and the last of a
sweep, which ask MLflow's server, some seconds."""

PAUSE = 0.5
"""Seconds between two tries to reach a server that is away."""

MAX_SILENCE = 15
"""Seconds after which the server ends a connection that has the turn and says nothing."""

SIGN_OF_LIFE = 4.0
"""Seconds after which a process that still has its turn says so."""

log = logging.getLogger(__name__)

DIALECTS = ("postgresql", "mysql", "mariadb")
"""The databases that have such locks; MySQL's are written by its manual, and were never tried."""


class TurnLost(Exception):
    """Another process may have had its turn meanwhile, because this one stood still for long."""


class Turn:
    """The right to change what goes by a name in a database; `with turn:` waits for it.

    Any thread may ask; one that has it already may ask again. A process that was stopped, or whose
    machine slept, may have lost it meanwhile: `check` says so.

    Raises StudyError where it does not come within PATIENCE seconds.
    """

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.name = name
        self._engine = sqlalchemy.create_engine(
            database.engine_url, connect_args=database.connect_options(), poolclass=NullPool
        )
        self._connection: Connection | None = None
        self._speaking = threading.Lock()  # whoever uses the connection while the turn lasts
        self._threads = threading.RLock()
        self._depth = 0
        self._closed = threading.Event()
        self._signs: threading.Thread | None = None

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if not self._depth:
                self._take()
        except BaseException:
            self._threads.release()
            raise
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        try:
            if not self._depth:
                self._give_back()
        finally:
            self._threads.release()

    def check(self) -> None:
        """Raise TurnLost unless the turn has lasted until now; to be asked before a change that
        must not be made twice."""
        with self._speaking:
            if not self._is_heard():
                raise TurnLost

    def close(self) -> None:
        """End the connection."""
        self._closed.set()
        with self._threads:
            self._disconnect()

    def _disconnect(self) -> None:
        with self._speaking:
            if self._connection is not None:
                with contextlib.suppress(SQLAlchemyError):
                    self._connection.close()
            self._connection = None

    def _is_heard(self) -> bool:
        """Whether the server still hears the connection that has the turn."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:  # what comes next on it fails likewise
            return False
        return True

    def _give_signs(self) -> None:
        while not self._closed.wait(SIGN_OF_LIFE):
            with self._speaking:
                if self._depth:
                    self._is_heard()

    def _take(self) -> None:
        with self.database.errors():
            is_ours = self._ask_until(time.monotonic() + PATIENCE)
        if not is_ours:
            problem = f"has been changed by another process for {PATIENCE} s"
            raise StudyError(f"study {self.name} {problem}; see whether that one still works")

    def _ask_until(self, deadline: float) -> bool:
        """Ask again while the server is away: it may be started anew, or have ended a connection
        that was silent for long."""
        is_told = False
        while True:
            try:
                return self._ask()
            except OperationalError as error:
                was_connected = self._connection is not None
                self._disconnect()
                if "lock timeout" in str(error):
                    return False
                if time.monotonic() > deadline:
                    raise
                if not was_connected and not is_told:
                    log.warning("%s is away; it is waited for", self.database)
                    is_told = True
            time.sleep(PAUSE)

    def _ask(self) -> bool:
        """Wait for the turn, in a transaction that is open as long as it lasts."""
        if self._signs is None:
            self._signs = threading.Thread(target=self._give_signs, name="turn", daemon=True)
            self._signs.start()
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        if connection.dialect.name == "postgresql":
            silence = f"SET LOCAL idle_in_transaction_session_timeout = '{MAX_SILENCE}s'"
            connection.execute(sqlalchemy.text(silence))
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{PATIENCE}s'"))
            lock = sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)")
            connection.execute(lock, {"key": _as_number(self.name)})
            return True
        connection.execute(sqlalchemy.text(f"SET SESSION wait_timeout = {MAX_SILENCE}"))
        lock = sqlalchemy.text("SELECT GET_LOCK(:key, :seconds)")
        key = {"key": f"cifar_hpo {_as_number(self.name)}", "seconds": PATIENCE}
        return connection.execute(lock, key).scalar() == 1

    def _give_back(self) -> None:
        if self._connection is None:
            return
        try:
            with self._speaking:
                if self._connection.dialect.name != "postgresql":
                    release = sqlalchemy.text("SELECT RELEASE_LOCK(:key)")
                    self._connection.execute(release, {"key": f"cifar_hpo {_as_number(self.name)}"})
                self._connection.rollback()
        except SQLAlchemyError:  # the connection is gone, and the lock with it
            self._disconnect()


def _as_number(name: str) -> int:
    """A name as PostgreSQL's locks have it: 64 bits, signed."""
    digest = hashlib.sha256(f"cifar_hpo {name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


@contextlib.contextmanager
def closing_turn(database: Database, name: str) -> Iterator[None]:
    """A turn for one change, such as to make the tables."""
    turn = Turn(database, name)
    try:
        with turn:
            yield
    finally:
        turn.close()
