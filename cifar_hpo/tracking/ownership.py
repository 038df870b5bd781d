"""Whose a run is: `owner` names a process, `end_dead_runs` ends the runs of those that are gone."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil

from cifar_hpo.trial import KILLED

RUNNING = "RUNNING"

OWNER = "cifar_hpo.owner"
"""The tag that says which process writes a run."""


def owner() -> str:
    """Who runs this: host, process and its start time.

    By the time another process with the same number is not taken for it.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str) -> bool:
    """Whether that process still runs; one on another host is believed to."""
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(started)) < 0.1
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_dead_runs(client: Any, experiment_id: str, condition: str, *, of_all: bool = False) -> None:
    """Mark as KILLED the runs of an experiment that say RUNNING and whose owner is gone.

    condition: a filter of `search_runs`. of_all: whether no owner can be alive, whatever it is
    called; else a run that names none is left alone.
    """
    for run in client.search_runs([experiment_id], condition):
        if not of_all and is_alive(run.data.tags.get(OWNER, "::")):
            continue
        # Since it was found it may have come to its end, and its process with it.
        if client.get_run(run.info.run_id).info.status == RUNNING:
            client.set_terminated(run.info.run_id, KILLED)
