"""`--serve`: the page of a study on loopback, built anew as its trials end, until Ctrl-C.

A `LivePage` is what the server shows at the moment. The browser asks for its `State` every two
seconds, and takes the new page where there is one, without losing its place.
"""

from __future__ import annotations

import contextlib
import html
import json
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.console import PLAIN
from cifar_hpo.errors import StudyError, UserError, one_line
from cifar_hpo.report.follow import running_table
from cifar_hpo.report.page import build_page
from cifar_hpo.report.runs import StoredRuns, open_runs, with_new_images
from cifar_hpo.study.storage import storage_errors
from cifar_hpo.table import Table

HOST = "127.0.0.1"

INTERVAL = 1.0
"""Seconds between two looks at the storage."""

REST = 2.0
"""How many times as long as the last page took to build nothing is built, where trials end so fast
that it would go on without end."""

SECURITY = {
    # The figures that are images lie within the page.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "script-src 'unsafe-inline'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer: the page needs nothing but itself and its server."""


@dataclass(frozen=True)
class State:
    """How the page stands. version: of the page. status: a line of text. running: HTML."""

    version: int = 0
    status: str = ""
    running: str = ""


class LivePage:
    """A study's page and its state; written by one thread, read by those that answer.

    given: what names the storage, as `open_storage` takes it. tracking_uri: MLflow's store; None
    for the one that the study was logged to.
    """

    def __init__(
        self, study: str, storage: BaseStorage, given: str | None, tracking_uri: str | None
    ) -> None:
        self.study = study
        self.storage = storage
        self.given = given
        self.tracking_uri = tracking_uri
        self.page = ""
        self.state = State()
        self._built_of: object = None
        self._built_at = self._took = 0.0
        self._runs: StoredRuns | None = None

    def look(self) -> None:
        """Show what has changed; a storage that can't be read now is said, and left alone."""
        try:
            with storage_errors(self.given):
                comparison = compare_study(self.study, self.storage)
                self._show(comparison)
        except StudyError as error:
            self.state = replace(self.state, status=f"at {_time()}: {one_line(error)}")

    def _show(self, comparison: Comparison) -> None:
        found = [(trial.number, trial.state, trial.run_id) for trial in comparison.trials]
        now = time.monotonic()
        is_new = found != self._built_of
        if is_new and (not self.page or now - self._built_at > REST * self._took):
            self._open_runs(comparison)
            with tempfile.TemporaryDirectory() as folder:
                judged = with_new_images(comparison, self._runs)
                page = build_page(judged, self._runs, Path(folder), is_live=True)
            self.page, self._built_of = page, found
            self._built_at = time.monotonic()
            self._took = self._built_at - now
            self.state = replace(self.state, version=self.state.version + 1)
        running = self._running(comparison)
        status = f"{len(running)} running; as of {_time()}"
        shown = _to_html(running, comparison)
        self.state = replace(self.state, status=status, running=shown)

    def _open_runs(self, comparison: Comparison) -> None:
        """MLflow's, as soon as the study has a run there."""
        if self._runs is None:
            quiet = Console(quiet=True)
            self._runs = open_runs(comparison, self.tracking_uri, quiet)

    def _running(self, comparison: Comparison) -> Sequence[tuple[str, Sequence[float]]]:
        """Names of the trials that run, and their values so far, where MLflow has them."""
        if self._runs is not None and comparison.run_id:
            with contextlib.suppress(StudyError):  # a server may be back at the next look
                return self._runs.running(comparison.run_id, comparison.metrics[0])
        states = (TrialState.RUNNING,)
        trials = comparison.study.get_trials(deepcopy=False, states=states)
        running = []
        for trial in trials:
            params = ", ".join(f"{key}={value}" for key, value in trial.params.items())
            values = [
                trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)
            ]
            running.append((f"trial {trial.number}: {params}", values))
        return running


def _time() -> str:
    return time.strftime("%H:%M:%S")


def _to_html(running: Sequence[tuple[str, Sequence[float]]], comparison: Comparison) -> str:
    """The table of running trials; empty where none runs."""
    if not running:
        return ""
    table: Table = running_table(running, comparison.metrics[0])
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = []
    for row in table.rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


class _Server(ThreadingHTTPServer):
    """Answers on loopback."""

    daemon_threads = True

    def __init__(self, port: int, live: LivePage) -> None:
        super().__init__((HOST, port), _Handler)
        self.live = live

    @property
    def hosts(self) -> tuple[str, str]:
        """The names by which a browser of this machine asks for it."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    """Answers `/`, the page, and `/state`."""

    server: _Server

    def do_GET(self) -> None:
        # A page of elsewhere whose name leads here would read the study by a browser of this
        # machine; it asks under its own name.
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._send(self.server.live.page, "text/html")
        elif self.path == "/state":
            self._send(json.dumps(asdict(self.server.live.state)), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in SECURITY.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the browser has gone elsewhere
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """A line for each request is of no use to anyone."""


def serve(live: LivePage, port: int, console: Console, *, is_opened: bool = False) -> None:
    """Show a study's page until Ctrl-C.

    port: 0 takes one that is free. is_opened: whether a browser is opened. Raises UserError for a
    port that is taken.
    """
    with _serving(live, port) as address, contextlib.suppress(KeyboardInterrupt):
        live.look()
        console.print(f"page: {address}  (Ctrl-C ends it)", **PLAIN)
        if is_opened:
            webbrowser.open(address)
        while True:
            time.sleep(INTERVAL)
            live.look()


@contextlib.contextmanager
def _serving(live: LivePage, port: int) -> Iterator[str]:
    """The server's address, while it answers in a thread of its own."""
    try:
        server = _Server(port, live)
    except (OSError, OverflowError) as error:
        hint = "leave it out for one that is free"
        raise UserError(f"--port {port}: can't be had ({one_line(error)}); {hint}") from None
    with server:
        threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()
