"""Steps that the tests of tracking share: an attempt to be logged, and what MLflow has of it.

`Server` is one of MLflow's that tests can take away.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from support import clean, wait_for

from cifar_hpo.tracking.attempts import AttemptRecord, DatasetRecord, Predictions
from cifar_hpo.tracking.runs import StudyRun
from cifar_hpo.trial import Context

DATASET = DatasetRecord("four", "0123", np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.uint8))
GONE = f"{socket.gethostname()}:{os.getpid()}:1.00"
"""A process with our number that started at another time."""

PREDICTIONS = Predictions(
    classes=("cat", "dog", "owl"),
    labels=np.array([0, 0, 1, 1, 1], np.int64),
    predicted=np.array([0, 1, 1, 1, 2], np.int64),
    confidence=np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32),
)


def record(uri: str, study: StudyRun | None = None, **changes: Any) -> AttemptRecord:
    context = Context()
    if study:
        varied = ("model.filters",)
        context = Context("s", study.run_id, study.experiment_id, varied=varied, attempt=1)
    described = AttemptRecord(
        tracking_uri=uri,
        experiment_name="single",
        overrides=("model.filters=4", "data=npz"),
        params={"model.filters": 4, "data.path": "x" * 600},
        config_yaml="model:\n  filters: 4\n",
        dataset=DATASET,
        context=context,
        number=7,
        tags={"cpu": "a fast one"},
    )
    return replace(described, **changes)


def text(run_id: str, name: str) -> str:
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def fetch(run_id: str) -> Any:
    return mlflow.MlflowClient().get_run(run_id)


class Server:
    """A server of MLflow's behind a gate, both on this machine's loopback.

    state: of the gate. `open`; `hanging`, when it passes nothing on until it is open again;
    `failing`, when it answers each request with status 500; `silent`, when it passes requests on
    and no answer back. passed: how many pieces of requests it has passed on. lost_answers: how many
    answers it is still to lose while it is open.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.state = "open"
        self.passed = 0
        self.lost_answers = 0
        self._changed = threading.Condition()
        self._gate = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._gate.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, state: str) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def close(self) -> None:
        self.become("open")
        self._gate.shutdown(socket.SHUT_RDWR)
        self._gate.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the gate is closed
            while True:
                client, _ = self._gate.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            sockets = (client, server)
            answers = threading.Thread(target=self._pass_answers, args=sockets, daemon=True)
            answers.start()
            self._pass_requests(client, server)
            answers.join()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                with self._changed:
                    self._changed.wait_for(lambda: self.state != "hanging")
                    is_passed = self.state != "failing"
                    self.passed += is_passed
                if not is_passed:
                    client.sendall(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")
                    break
                server.sendall(data)
        end(client, server)

    def _pass_answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                with self._changed:
                    is_lost = self.state == "silent" or self.lost_answers > 0
                    self.lost_answers = max(self.lost_answers - 1, 0)
                if is_lost:
                    break
                client.sendall(data)
        end(client, server)


def end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """A server on the mlflow.db of a folder, which keeps artifacts there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=clean() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, 120)
        server = Server(port)
        try:
            yield server
        finally:
            server.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False
