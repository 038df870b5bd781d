"""`python -m cifar_hpo.ui_server NAME PORT`: one of the servers of `ui`, which ends with it.

What it shows is named by the environment, since a URL may hold a password and arguments of
processes can be read by everyone. Its standard input is a pipe of which `ui` has the other end:
that closes however `ui` ends, by kill -9 as well.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import socketserver
import sys
import threading
from wsgiref.simple_server import WSGIServer, make_server

HOST = "127.0.0.1"

MLFLOW = "mlflow"
OPTUNA = "optuna"
URLS = {MLFLOW: "MLFLOW_BACKEND_STORE_URI", OPTUNA: "CIFAR_HPO_UI_STORAGE"}
"""The environment variable that names what a server shows; MLflow's is its own."""


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers several requests at once."""

    daemon_threads = True


def main() -> None:
    """Serve until `ui` ends; it leads a process group, which ends with it."""
    name, port = sys.argv[1:]
    threading.Thread(target=_end_with_ui, daemon=True).start()
    if name == MLFLOW:
        sys.argv = [MLFLOW, "ui", "--host", HOST, "--port", port, "--workers", "1"]
        runpy.run_module(MLFLOW, run_name="__main__")
        return
    dashboard = importlib.import_module("optuna_dashboard")  # of an extra
    app = dashboard.wsgi(os.environ[URLS[OPTUNA]])
    make_server(HOST, int(port), app, server_class=ThreadingServer).serve_forever()


def _end_with_ui() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the pipe closes
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
