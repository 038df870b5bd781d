"""A PostgreSQL server of a test run's own, on this machine's loopback, and the databases in it."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of each version, outside of PATH."""

USER = "postgres"
SETTINGS = "-c max_connections=200 -c unix_socket_directories="
UNSAFE = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off"
"""For a server that nobody will miss."""


@functools.cache
def programs() -> Path | None:
    """The folder that has PostgreSQL's `initdb` and `pg_ctl`; None where it is not installed."""
    for folder in sorted(DEBIAN.glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def why_not() -> str:
    """Why there can't be a server here; empty where there can."""
    if programs() is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and not _has_user():
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return ""


class PostgresServer:
    """A server whose files lie in a folder. url: without a database's name.

    is_safe: whether what it has taken is on the disk, as it promises unless told otherwise.
    """

    def __init__(self, folder: str, *, is_safe: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"postgresql://{USER}@127.0.0.1:{port}"
        self.user = USER if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self.data = f"{folder}/data"
        self.log = f"{folder}/log"
        self.options = f"-p {port} -h 127.0.0.1 {SETTINGS} {'' if is_safe else UNSAFE}"
        self._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        self._run("pg_ctl", "-l", self.log, "-o", self.options, "-w", "start")

    def stop(self) -> None:
        """All connections end; what was committed is kept."""
        self._run("pg_ctl", "-m", "fast", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder
        command = [str(folder / program), "-D", self.data, *arguments]
        subprocess.run(command, check=True, user=self.user, cwd="/", stdout=subprocess.DEVNULL)


@contextmanager
def postgres_server(*, is_safe: bool = False) -> Iterator[PostgresServer]:
    """A server that runs, whose files go with it."""
    # Not in a folder of pytest's, through which its owner alone may go.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(folder, is_safe=is_safe)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def new_database(server: str) -> str:
    """The URL of an empty database of its own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{server}/{name}"


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True
