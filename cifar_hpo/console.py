"""The terminal: `terminal` prints to it, `clock` and `sparkline` write what a line has room for.

A `Heartbeat` breaks silences. `set_up_output` makes of standard output and standard error an
`Output` each, through which all that is printed goes.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from cifar_hpo.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console  # half of what `--help` would take

log = logging.getLogger(__name__)

PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
"""Options of `print` for text that is not rich's markup and must not be folded."""

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_POINTS = 20

PLAIN_SIGNS = {
    "≥": ">=",
    "≤": "<=",
    "×": "x",
    "–": "-",
    "…": "...",
    "·": "|",
    "→": "->",
    "±": "+-",
    **{bar: str(height) for height, bar in enumerate(BARS, start=1)},
}
"""What stands for a sign on a terminal that does not have it; ? for any other."""

PLAIN_ERRORS = "cifar_hpo.plain"
"""The name under which Python knows `_plain_signs`."""

SILENCE = 25.0
"""Seconds without a line after which a `Heartbeat` says how things stand: CI kills what is
silent."""


class Output(io.TextIOWrapper):
    """Standard output or error without passwords, in the terminal's own encoding.

    Where nobody reads it any more, or there is no space for it, what is written is lost and the
    program goes on: what it computes is worth more than what it prints.
    """

    @classmethod
    def over(cls, stream: io.TextIOWrapper) -> Self:
        """Writes where the stream does, in its place."""
        stream.flush()
        return cls(
            stream.buffer,
            stream.encoding,
            errors=PLAIN_ERRORS,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        try:
            super().write(redacted(text))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def close(self) -> None:
        """What it writes to stays open: it is the process's own."""
        with contextlib.suppress(ValueError):
            self.flush()

    def _give_up(self) -> None:
        """Let what is still to be written go nowhere, as Python's documentation advises."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class RedactedRecord(logging.LogRecord):
    """A record of the log whose message and traceback have no passwords, whatever prints it."""

    def getMessage(self) -> str:  # noqa: N802  logging's name
        return redacted(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        return self._exc_text

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._exc_text = text and redacted(text)


def set_up_output() -> None:
    """Whatever this process prints or logs from now on has no passwords, and is readable on any
    terminal."""
    codecs.register_error(PLAIN_ERRORS, _plain_signs)
    logging.setLogRecordFactory(RedactedRecord)
    replace_closed_streams()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, Output):
            setattr(sys, name, Output.over(stream))


def replace_closed_streams() -> None:
    """Give a process whose output was closed when it began, as daemons are, some that leads
    nowhere."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.fstat(number)
            except OSError:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What is written for signs that an encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(sign, "?") for sign in signs), error.end


def terminal() -> Console:
    """The terminal; where there is none, wide, because there is no reason to fold what goes to a
    file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, from an hour on as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def sparkline(values: Sequence[float]) -> str:
    """A learning curve in one line, from its lowest value to its highest; its latest points."""
    values = values[-SPARKLINE_POINTS:]
    low, high = min(values, default=0.0), max(values, default=0.0)
    bars = []
    for value in values:
        height = (value - low) / ((high - low) or 1)
        bars.append(BARS[int(height * (len(BARS) - 1))])
    return "".join(bars)


@contextlib.contextmanager
def stderr_redirected(path: str) -> Iterator[None]:
    """What this process, and one that it starts, writes to standard error goes to a file's end."""
    sys.stderr.flush()
    stderr, file = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(file)


class Heartbeat:
    """Calls `say` from a thread whenever nothing has been said for a while. A context manager.

    say: prints a line. silence: seconds, SILENCE unless given. soon: asked once a second until it
    is true, whereupon `say` is called at once; for what is worth a line of its own as soon as it is
    known.
    """

    def __init__(
        self,
        say: Callable[[], object],
        silence: float | None = None,
        soon: Callable[[], bool] | None = None,
    ) -> None:
        self._say = say
        self._silence = SILENCE if silence is None else silence
        self._soon = soon
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def heard(self) -> None:
        """Something else was printed, so the silence begins anew."""
        self._last = time.monotonic()

    def _beat(self) -> None:
        while not self._ended.wait(min(1.0, self._silence)):
            try:
                is_known = self._soon is not None and self._soon()
                if is_known:
                    self._soon = None
                if is_known or time.monotonic() - self._last >= self._silence:
                    self._say()
                    self.heard()
            except Exception:
                log.exception("the heartbeat ends")
                return


def still(doing: str) -> Heartbeat:
    """Says that something is going on which takes long."""
    return Heartbeat(lambda: log.info("still %s", doing))
