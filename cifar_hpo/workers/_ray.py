"""What is used of Ray beyond its documented interface, and how it is started.

That is the folder in which a local Ray keeps its files, the address that it has, what an error says
of a lost actor, and the function by which Ray prints what its nodes say. The tests of
tests/workers/test_ray_cluster.py fail where a new Ray changes one of these, and name it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from cifar_hpo.console import stderr_redirected
from cifar_hpo.errors import ConfigError, one_line
from cifar_hpo.redaction import redacted

log = logging.getLogger(__name__)

LOCAL, AUTO = "local", "auto"
"""The addresses by which Ray starts anew, whatever runs or is named in the environment, and by
which it finds what runs here."""

CONNECT_SECONDS = 10.0
"""In which a cluster answers; Ray itself tries for many minutes."""

AUTH_MODE = "RAY_AUTH_MODE"
HOW_TO_AUTHENTICATE = f"where it asks for a token, set {AUTH_MODE}=token"

LOOPBACK = "127.0.0.1"

USAGE_STATS = "RAY_USAGE_STATS_ENABLED"

OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a Ray of our own. Ray's least is 75 MiB; jobs and results are kilobytes, and
images lie in files."""

MAX_PROBLEM = 300
"""Characters of what Ray says that are shown."""

OF_RAY = "node:"
OF_MEMORY = ("memory", "object_store_memory")
"""What nodes list among their resources, and nobody asks for here."""

CAUSE = re.compile(r"because its ([^.]*)\.")
"""In the text of a lost actor's error: what died."""
ADDRESS = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)


def require() -> None:
    """Raise ConfigError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        hint = "pip install 'cifar_hpo[ray]'"
        raise ConfigError("hydra/launcher", f"ray needs ray, which is not installed; {hint}")


def connect(address: str | None, runtime_env: Mapping[str, Any], folder: str, cores: int) -> None:
    """Connect this process to a cluster; without an address to one of its own, which ends with it.

    runtime_env: Ray's, of all that this process starts there. folder: where a Ray of its own keeps
    sockets and logs. cores: that it has. Raises ConfigError where there is no such cluster, or not
    one of this version.
    """
    if address and address != AUTO:
        _refuse_unanswered(address)
    import ray

    options: dict[str, Any] = {"address": address or LOCAL}
    if not address:
        options |= {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"include_dashboard": False, "_temp_dir": folder, "_node_ip_address": LOOPBACK}
    try:
        with _our_own_signals(), _quiet(folder), env_override(_no_telemetry()):
            ray.init(
                **options,
                runtime_env=dict(runtime_env) or None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            _keep_terminal()
    except (OSError, RuntimeError, TypeError, ValueError, ray.exceptions.RayError) as error:
        key = "runtime_env" if runtime_env and not address else "address"
        asks = address not in (None, AUTO) and AUTH_MODE not in os.environ
        hint = f"; {HOW_TO_AUTHENTICATE}" if asks else ""
        raise ConfigError(f"hydra.launcher.{key}", f"{problem_of(error)}{hint}") from error


def _refuse_unanswered(address: str) -> None:
    """Raise ConfigError where nobody listens."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        problem = f"{address!r} is no address; write host:port, or auto"
        raise ConfigError("hydra.launcher.address", problem)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        problem = f"no Ray answers at {address} ({one_line(error)})"
        raise ConfigError("hydra.launcher.address", problem) from error


def _no_telemetry() -> dict[str, str]:
    """Ray tells its makers of a cluster that is started, unless it is told not to."""
    return {USAGE_STATS: os.environ.get(USAGE_STATS, "0")}


@contextlib.contextmanager
def _our_own_signals() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM, which would end this process anywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet(folder: str) -> Iterator[None]:
    """Ray tells of what it will do otherwise some day, and its native part of each try to
    connect."""
    with warnings.catch_warnings(), stderr_redirected(str(Path(folder, "connecting.log"))):
        warnings.simplefilter("ignore")
        yield


def _keep_terminal() -> None:
    """Let Ray not print the last lines of a lost node's log between those of the sweep, whose own
    line says what happened."""
    import ray

    ray._private.worker.print_to_stdstream = _log_lines  # noqa: SLF001  there is no option


def _log_lines(said: Mapping[str, Any], **_: object) -> None:
    """said: as Ray has it."""
    for line in said.get("lines", ()):
        log.debug("ray: %s", redacted(str(line)))


def node_resources() -> list[dict[str, float]]:
    """What each node that lives has, in all: CPU, GPU and custom resources by name."""
    import ray

    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            kept = {}
            for name, amount in node["Resources"].items():
                if not name.startswith(OF_RAY) and name not in OF_MEMORY:
                    kept[name] = float(amount)
            nodes.append(kept)
    return nodes


def problem_of(error: BaseException) -> str:
    """What Ray says, on one line without passwords, cut; where a traceback ends, the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    is_traceback = any(line.startswith("File ") for line in lines)
    text = lines[-1] if is_traceback else one_line(error)
    return redacted(text)[:MAX_PROBLEM]


def cause_of_death(error: BaseException) -> str:
    """Of an actor, by the error of what was asked of it."""
    import ray

    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "worker lost: its node does not answer"
    text = str(error)
    cause, address = CAUSE.search(text), ADDRESS.search(text)
    if cause is None:
        return f"worker lost: {problem_of(error)}"
    place = f" at {address[1]}" if address else ""
    return f"worker lost: its {cause[1]}{place}"
