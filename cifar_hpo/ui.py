"""`python -m cifar_hpo.ui`: MLflow's UI and optuna-dashboard on this folder's stores.

Each is a `Server`, for this machine only; Ctrl-C ends both, and so does any other end of `ui`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cifar_hpo import paths
from cifar_hpo.console import set_up_output
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.ui_server import HOST, MLFLOW, OPTUNA, URLS

MAX_STUDIES = 5
"""Studies to whose runs an address is printed, the latest first."""

MLFLOW_PORT = 5000
OPTUNA_PORT = 8080
"""The ports that people know these servers by."""

START_TIMEOUT = 60
"""Seconds until a server that does not answer is given up."""

STOP_TIMEOUT = 5
"""Seconds until a server that was asked to end is killed."""


@dataclass(frozen=True)
class Server:
    """A web server of this machine: its title, its port, and what `ui_server` is to show.

    name, url: as `ui_server` takes them.
    """

    title: str
    port: int
    name: str
    url: str

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self, log: int) -> subprocess.Popen[bytes]:
        """Its process, which leads a process group and ends with this one.

        log: the file that takes what it prints. The URL is in no argument: it may hold a password.
        """
        return subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", "cifar_hpo.ui_server", self.name, str(self.port)],
            env=os.environ | {URLS[self.name]: self.url},
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 where there is nothing to show or a port is taken."""
    set_up_output()
    options = _parser().parse_args(arguments)
    # A KeyboardInterrupt that meets an import may end Python with another code.
    signal.signal(signal.SIGINT, _exit)
    signal.signal(signal.SIGTERM, _exit)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup wants
        signal.signal(signal.SIGHUP, _exit)
    try:
        check_stores(options)
        servers = configure_servers(options)
        with running(servers) as processes:
            print_addresses(servers, options.tracking_uri)
            while all(process.poll() is None for process in processes):
                time.sleep(0.2)
            raise StudyError(f"a server has ended by itself; its last words are in {paths.UI_LOG}")
    except (UserError, OSError) as error:
        exit_with(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.ui",
        description="MLflow's UI and optuna-dashboard on this folder's stores.",
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {paths.STUDIES_DB} unless said")
    parser.add_argument(
        "--tracking-uri",
        help=f"MLflow's store; MLFLOW_TRACKING_URI, else {paths.MLFLOW_DB} unless said",
    )
    parser.add_argument(
        "--mlflow-port", type=int, help=f"{MLFLOW_PORT}, or a free one, unless said"
    )
    parser.add_argument(
        "--optuna-port", type=int, help=f"{OPTUNA_PORT}, or a free one, unless said"
    )
    return parser


def _exit(*_: object) -> None:
    sys.exit(0)


def check_stores(options: argparse.Namespace) -> None:
    """Raise StudyError where a store is not there or can't be read; a server would say it in many
    lines, and make an SQLite file that is not there."""
    from cifar_hpo.study.storage import open_existing, storage_errors
    from cifar_hpo.tracking.reader import RunReader

    with storage_errors(options.storage):
        open_existing(options.storage)
    RunReader(options.tracking_uri)


def configure_servers(options: argparse.Namespace) -> list[Server]:
    """The servers to run, MLflow's first; optuna-dashboard where it is installed.

    Raises StudyError where a port is taken.
    """
    port = free_port(options.mlflow_port, MLFLOW_PORT, "--mlflow-port")
    servers = [Server("MLflow", port, MLFLOW, paths.tracking_uri(options.tracking_uri))]
    if importlib.util.find_spec("optuna_dashboard"):
        port = free_port(options.optuna_port, OPTUNA_PORT, "--optuna-port")
        servers.append(Server("Optuna", port, OPTUNA, paths.storage_url(options.storage)))
    else:
        sys.stdout.write("Optuna  not installed; pip install 'cifar_hpo[ui]'\n")
    return servers


def free_port(chosen: int | None, usual: int, option: str) -> int:
    """The chosen port, which must be free; else the usual one, or any that is free.

    Raises StudyError, with the option's name, for one that can't be had.
    """
    for port in (chosen,) if chosen else (usual, 0):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise StudyError(f"{option}: {chosen} is taken or no port; leave it out for a free one")


@contextlib.contextmanager
def running(servers: Sequence[Server]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All servers, each in a process group of its own and answering.

    At the end none of them and none of their children is left.
    """
    processes: list[subprocess.Popen[bytes]] = []
    paths.UI_LOG.parent.mkdir(exist_ok=True)
    try:
        with paths.UI_LOG.open("w") as log:
            for server in servers:
                processes.append(server.start(log.fileno()))
        for server, process in zip(servers, processes, strict=True):
            _wait_for_answer(server, process)
        yield processes
    finally:
        _stop(processes)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the process group of each, by force after STOP_TIMEOUT for all together.

    A further signal may end this on the way; then they are killed, too, as their pipes close.
    """
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def print_addresses(servers: Sequence[Server], tracking_uri: str | None) -> None:
    """Where to look: each server, and in MLflow the runs of the latest studies."""
    from cifar_hpo.tracking.reader import RunReader

    for server in servers:
        sys.stdout.write(f"{server.title:<7} {server.address}\n")
    views = RunReader(tracking_uri).views()
    for study in list(views)[:MAX_STUDIES]:
        sys.stdout.write(f"  study {study}: {servers[0].address}/{views[study]}\n")
    sys.stdout.write("Ctrl-C ends both\n" if len(servers) > 1 else "Ctrl-C ends it\n")
    sys.stdout.flush()


def _wait_for_answer(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; one that ended is noticed by the caller."""
    until = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{HOST}:{server.port}/", timeout=2),
        ):
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
