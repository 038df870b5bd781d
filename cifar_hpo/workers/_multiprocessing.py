"""What is used of multiprocessing beyond its documented interface, of its fork server above all.

A server process imports what trials need, once; workers are forked from it, so that each is there
at once and shares that memory. A worker with a GPU is a program of its own instead.
tests/workers/test_multiprocessing.py says what broke when a new Python changes one of these.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver, get_context, parent_process, util
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from hydra.core.utils import env_override

from cifar_hpo.console import stderr_redirected
from cifar_hpo.errors import UserError, one_line

MAX_TEMP_FOLDER = 70
"""Bytes of the longest folder for temporary files in which a socket fits: the path of a socket has
104 at most on macOS and 108 on Linux, of which multiprocessing's own names take 32."""
SHORT_TEMP_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108  multiprocessing makes its own folder there

STARTS = 5
"""Servers that are tried for one worker."""

STARTS_PAUSE = 0.1
"""Seconds between two of them."""


class ServerDied(Exception):
    """No server lives until it has forked a worker; `server_log` may say why."""


def fork_server() -> ForkServerContext:
    """The context whose processes are forked from the server."""
    return get_context("forkserver")


def new_programs() -> SpawnContext:
    """The context whose processes are programs of their own, for `start_with`."""
    return get_context("spawn")


def start_with(environment: Mapping[str, str], process: BaseProcess) -> None:
    """Start a process of `new_programs` with these variables besides this one's own.

    It has them before it loads anything, and so does the file of the user's program, which
    multiprocessing imports in it before it calls what the process is for. CUDA reads its own once,
    when a library first asks for GPUs, and does not survive a fork after that.

    Raises UserError where there is no folder for temporary files.
    """
    _choose_temp_folder()
    with env_override(dict(environment)), stderr_redirected(str(server_log())):
        process.start()


def start_server(imports: Sequence[str]) -> None:
    """Start the server, which begins to import these modules and inherits this environment.

    Raises UserError where there is no folder for its socket.
    """
    _choose_temp_folder()
    forkserver.set_forkserver_preload(list(imports))
    with stderr_redirected(str(server_log())):
        forkserver.ensure_running()


def server_log() -> Path:
    """What the server, and a worker that never came to its task, has written to standard error.

    It lies in the folder that multiprocessing removes when this process ends.
    """
    return Path(util.get_temp_dir(), "server.log")


def _choose_temp_folder() -> None:
    """Let multiprocessing keep its sockets where their paths are not too long."""
    before = tempfile.tempdir
    try:
        folder = tempfile.gettempdir()
        if len(os.fsencode(folder)) > MAX_TEMP_FOLDER:
            usable = [short for short in SHORT_TEMP_FOLDERS if os.access(short, os.W_OK | os.X_OK)]
            if not usable:
                raise UserError(f"TMPDIR: {folder} is too long for sockets; set a shorter one")
            before, tempfile.tempdir = tempfile.tempdir, usable[0]
        util.get_temp_dir()  # which is kept for this process
    except OSError as error:
        raise UserError(f"TMPDIR: no folder for temporary files ({one_line(error)})") from error
    finally:
        tempfile.tempdir = before


def start(process: BaseProcess) -> None:
    """Start a process that is forked from the server; where the server dies meanwhile, as by a
    signal that a scheduler sends to all or of what it imports, from a new one.

    Raises ServerDied where STARTS servers in a row died so.
    """
    for _ in range(STARTS):
        try:
            process.start()
        except (BrokenPipeError, ConnectionResetError, EOFError):
            time.sleep(STARTS_PAUSE)
        else:
            return
    raise ServerDied


def forget_main_file() -> None:
    """Let workers not run anew the file that this process was started with, as they would."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__


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
