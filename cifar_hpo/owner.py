"""Whose something is that outlives its process: `owner` names a process, on whichever host, so that
`is_alive` can tell whether it still runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


def owner() -> str:
    """Who runs this: host, process and its start time.

    By the time another process with the same number is not taken for it.
    """
    return f"{_host()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str) -> bool:
    """Whether that process still runs; one on another host is believed to."""
    host, pid, started = owner.rsplit(":", 2)
    if host not in (_host(), socket.gethostname()):  # the latter is what earlier versions noted
        return True
    process = _running(int(pid))
    return process is not None and abs(process.create_time() - float(started)) < 0.1


def is_gone(owner: str) -> bool:
    """Whether no process has its number on this host, which is so whatever a clock has done since;
    of one on another host nobody can say."""
    host, pid, _ = owner.rsplit(":", 2)
    return host == _host() and _running(int(pid)) is None


def host_of(owner: str) -> str:
    """The name of its host, as a person knows it."""
    return owner.partition("/")[0].partition(":")[0]


def _running(pid: int) -> psutil.Process | None:
    """This host's process of that number; None where there is none, or only what is left of one."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _host() -> str:
    """This host's name and, on Linux, what tells it from others of that name: two containers may
    share it, and none sees the processes of the other."""
    name = socket.gethostname()
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
        namespace = PID_NAMESPACE.readlink().name
    except OSError:
        return name
    return f"{name}/{boot[:8]}-{namespace.removeprefix('pid:')}"
