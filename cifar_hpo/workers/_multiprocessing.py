"""What is used of multiprocessing's fork server beyond its documented interface.

A server process imports what trials need, once; workers are forked from it, so that each is there
at once and shares that memory. tests/workers/test_multiprocessing.py says what broke when a new
Python changes one of these.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from multiprocessing import connection, forkserver, get_context, parent_process
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """The context whose processes are forked from the server."""
    return get_context("forkserver")


def start_server(imports: Sequence[str]) -> None:
    """Start the server, which begins to import these modules and inherits this environment."""
    forkserver.set_forkserver_preload(list(imports))
    forkserver.ensure_running()


def server_pid() -> int | None:
    """The server's process id; None where it does not run."""
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
    return pid


def kill_server() -> None:
    """End the server at once; left to itself it would finish its imports first."""
    pid = server_pid()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for_parent_to_end() -> None:
    """Return when the process that started this one is gone; called in a worker.

    The worker's parent by process id is the server, so the pipe that multiprocessing keeps to the
    starting process is watched.
    """
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
