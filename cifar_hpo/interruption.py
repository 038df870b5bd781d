"""Signals that ask the program to end, taken where nothing is half done: an `Interruption`.

The first one ends it in order, a second one at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite end, and the end of the terminal."""

GRACE = 1.0
"""Seconds that an end in order may still take after a second signal."""

ECHO = 2.0
"""Seconds in which another SIGTERM is the first one once more: a scheduler sends it to each process
of a job, and the job's shell passes it on."""


class Interruption:
    """While it is entered, a signal is noted, and `check` raises KeyboardInterrupt for it.

    So a signal never meets what must be done as a whole, such as asking a study for a trial and
    noting that it runs. After a second one, which is no echo of the first, the process ends within
    GRACE seconds, whatever it is doing. A signal that was ignored before, as `nohup` does, stays
    ignored. Beside the main thread it does nothing.

    message: of the KeyboardInterrupt. at_last: called before an end at once.
    """

    def __init__(self, message: str, at_last: Callable[[], None] = lambda: None) -> None:
        self.message = message
        self.at_last = at_last
        self.received: signal.Signals | None = None
        self._is_raised_at_once = False
        self._terminals = Terminals()
        self._before: dict[signal.Signals, Any] = {}
        self._count = _Count(self._end_at_last)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
            self._count.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._count.stop()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.received is not None:
            self._terminals.leave_lost()
            raise KeyboardInterrupt(self.message)

    @contextlib.contextmanager
    def raised_at_once(self) -> Iterator[None]:
        """Let a signal raise KeyboardInterrupt wherever it meets the code inside, which may take
        long and can be left at any point."""
        self.check()
        self._is_raised_at_once = True
        try:
            yield
        finally:
            self._is_raised_at_once = False

    def _note(self, number: int, _: object) -> None:
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        if self._is_raised_at_once:
            self._is_raised_at_once = False
            self.check()

    def _end_at_last(self, number: int) -> None:
        end_soon(128 + number, self.at_last)


class Echo:
    """Tells a SIGTERM that is no new one, but comes ECHO seconds after the last at most."""

    def __init__(self) -> None:
        self._last = -math.inf

    def is_heard(self, number: int) -> bool:
        """Whether this signal, which has just come, is an echo."""
        if number != signal.SIGTERM:
            return False
        now = time.monotonic()
        if now - self._last < ECHO:
            return True
        self._last = now
        return False


class _Count:
    """Calls `second`, from a thread of its own, for the second signal that comes.

    Python's own handlers wait for the main thread, which may be in a call to a database that
    another process holds.
    """

    def __init__(self, second: Callable[[int], None]) -> None:
        self.second = second
        self._is_started = False

    def start(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)  # as set_wakeup_fd demands
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._look, name="signals", daemon=True).start()
        self._is_started = True

    def stop(self) -> None:
        if self._is_started:
            signal.set_wakeup_fd(self._before)
            os.close(self._write)
            self._is_started = False

    def _look(self) -> None:
        count = 0
        echo = Echo()
        with os.fdopen(self._read, "rb", buffering=0) as signals:
            while True:
                numbers = signals.read(1)
                if not numbers:
                    return
                if numbers[0] not in SIGNALS or echo.is_heard(numbers[0]):
                    continue
                count += 1
                if count == 2:
                    self.second(numbers[0])


def end_soon(code: int, at_last: Callable[[], None] = lambda: None) -> None:
    """End this process with that exit code GRACE seconds from now, unless it does so before."""

    def end() -> None:
        try:
            at_last()
        finally:
            os._exit(code)

    timer = threading.Timer(GRACE, end)
    timer.daemon = True
    timer.start()


class Terminals:
    """Which of standard output and error are terminals."""

    def __init__(self) -> None:
        self.descriptors = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def leave_lost(self) -> None:
        """Print to nowhere where the terminal is gone, and each line would be an error."""
        for descriptor in self.descriptors:
            if not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
