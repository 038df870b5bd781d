"""`python -m cifar_hpo.ui`: MLflow's UI and optuna-dashboard on this folder's stores, for this
machine only; Ctrl-C ends both."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import GENERATED

HOST = "127.0.0.1"
LOG = Path(GENERATED, "ui.log")
STUDIES = 5
"""Studies whose runs are pointed to, the latest first."""

PATIENCE = 60
"""Seconds until a server that does not answer is given up."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 where there is nothing to show or a port is taken."""
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.ui",
        description="MLflow's UI and optuna-dashboard on this folder's stores.",
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {GENERATED}/studies.db unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; MLFLOW_TRACKING_URI, else mlflow.db unless said"
    )
    parser.add_argument("--mlflow-port", type=int, help="5000, or a free one, unless said")
    parser.add_argument("--optuna-port", type=int, help="8080, or a free one, unless said")
    given = parser.parse_args(arguments)
    for ending in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # a KeyboardInterrupt that meets an import may end Python with another code
        signal.signal(ending, lambda *_: sys.exit(0))
    try:
        servers = _servers(given)
        with _served(servers) as processes:
            _tell(servers, given.tracking_uri)
            while all(process.poll() is None for process in processes):
                time.sleep(0.2)
            raise StudyError(f"a server has ended by itself; its last words are in {LOG}")
    except UserError as error:
        exit_with(error)


def _servers(given: argparse.Namespace) -> dict[str, tuple[int, list[str]]]:
    """Port and command of each server by name. Raises StudyError where there is nothing to show."""
    storage = given.storage or f"sqlite:///{GENERATED}/studies.db"
    uri = given.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    for url in (storage, uri):
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
            raise StudyError(
                f"{url.removeprefix('sqlite:///')} is not here; go to the folder where the sweep "
                "was started, or say where it is"
            )
    port = _port(given.mlflow_port, 5000, "--mlflow-port")
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    servers = {"MLflow": (port, mlflow)}
    if command := shutil.which(
        "optuna-dashboard",
        path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    ):
        port = _port(given.optuna_port, 8080, "--optuna-port")
        servers["Optuna"] = (port, [command, storage, "--host", HOST, "--port", str(port)])
    else:
        sys.stdout.write("Optuna  not installed; pip install 'cifar_hpo[ui]'\n")
    return servers


def _port(chosen: int | None, usual: int, option: str) -> int:
    """The one chosen, which must be free; else the usual one, or any that is free."""
    for port in (chosen,) if chosen else (usual, 0):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise StudyError(f"{option}: {chosen} is taken or no port; leave it out for a free one")


@contextlib.contextmanager
def _served(servers: dict[str, tuple[int, list[str]]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All servers, each in a group of its own and answering; at the end none of them and none of
    their children is left."""
    processes = []
    LOG.parent.mkdir(exist_ok=True)
    try:
        with LOG.open("w") as log:
            for _, command in servers.values():
                processes.append(
                    subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)  # noqa: S603
                )
        for (port, _), process in zip(servers.values(), processes, strict=True):
            _await(port, process)
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _tell(servers: dict[str, tuple[int, list[str]]], tracking_uri: str | None) -> None:
    """Where to look."""
    from cifar_hpo.tracking.reader import Records

    for name, (port, _) in servers.items():
        sys.stdout.write(f"{name:<7} http://{HOST}:{port}\n")
    for study, place in list(Records(tracking_uri).views().items())[:STUDIES]:
        sys.stdout.write(f"  study {study}: http://{HOST}:{servers['MLflow'][0]}/{place}\n")
    sys.stdout.write("Ctrl-C ends both\n" if len(servers) > 1 else "Ctrl-C ends it\n")
    sys.stdout.flush()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; one that ended is noticed by the caller."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=2),
        ):
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
