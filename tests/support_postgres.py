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


@contextmanager
def postgres_server(*, is_safe: bool = False) -> Iterator[str]:
    """A server whose files go with it; gives its URL without a database's name.

    is_safe: whether what it has taken is on the disk, as it promises unless told otherwise.
    """
    user = USER if os.geteuid() == 0 else None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not in a folder of pytest's, through which its owner alone may go.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        _run(["initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"], user)
        log = [
            "-l",
            f"{folder}/log",
            "-o",
            f"-p {port} -h 127.0.0.1 {SETTINGS} {'' if is_safe else UNSAFE}",
        ]
        _run(["pg_ctl", "-D", data, *log, "-w", "start"], user)
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}"
        finally:
            _run(["pg_ctl", "-D", data, "-m", "immediate", "stop"], user)


def new_database(server: str) -> str:
    """The URL of an empty database of its own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{server}/{name}"


def _run(command: list[str], user: str | None) -> None:
    folder = programs()
    assert folder
    subprocess.run(
        [str(folder / command[0]), *command[1:]],
        check=True,
        user=user,
        cwd="/",
        stdout=subprocess.DEVNULL,
    )


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True
