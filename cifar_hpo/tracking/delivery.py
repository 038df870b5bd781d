"""Calls to a store that may be away: a `Delivery` does them in order, on a thread of its own.

So nobody waits for the store but who wants to know that all has arrived.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from cifar_hpo.errors import one_line
from cifar_hpo.redaction import redacted

Entry = TypeVar("Entry")

NO_ANSWER = "the store does not answer"
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds before a call that failed is done again; each pause is twice the one before."""

LAYERS_BELOW = (" with exception ", " with timeout exception ")
"""Behind these MLflow adds what its libraries say, which tells a user nothing more."""

MAX_REASON_LENGTH = 200
"""Characters that are shown of an error."""


class Undelivered(Exception):
    """What was to arrive has not, because the store is away; the message says why."""


class Delivery(Generic[Entry]):
    """A queue of entries, delivered one after the other on a thread that holds up no exit.

    deliver: called with each; where it raises what `may_succeed_later`, it is called again until it
    succeeds, else the entry is dropped. refused: those that were dropped, and why, without
    passwords. trouble: why the first that waits has not been delivered; empty while all goes well.
    """

    def __init__(
        self, deliver: Callable[[Entry], object], may_succeed_later: Callable[[Exception], bool]
    ) -> None:
        self.refused: list[tuple[Entry, str]] = []
        self.trouble = ""
        self._deliver = deliver
        self._may_succeed_later = may_succeed_later
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._moved = time.monotonic()
        self._is_closed = False
        self._is_awaited = False  # somebody waits, so the next pause is none
        self._thread: threading.Thread | None = None

    def put(self, entry: Entry) -> None:
        """Let an entry be delivered after all that wait; returns at once."""
        with self._changed:
            if not self._waiting:
                self._moved = time.monotonic()
            self._waiting.append(entry)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
                self._thread.start()

    def drain(self, patience: float, at_least: float = 0.0) -> bool:
        """Wait until nothing waits any more; returns whether that is so.

        It is given up when nothing has moved for `patience` seconds, of which those before the call
        count, but not before `at_least` seconds have passed.
        """
        earliest = time.monotonic() + at_least
        with self._changed:
            self._is_awaited = True
            self._changed.notify_all()
            while self._waiting:
                left = max(self._moved + patience, earliest) - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> list[Entry]:
        """Deliver no more; returns what was not delivered.

        The first of it may be under way, and arrive after all.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return list(self._waiting)

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                entry = self._waiting[0]
            try:
                self._deliver(entry)
            except Exception as error:  # noqa: BLE001  MLflow's and its servers' errors share no base
                if self._may_succeed_later(error):
                    self.trouble = reason(error)
                    with self._changed:
                        self._changed.wait_for(lambda: self._is_closed or self._is_awaited, pause)
                        self._is_awaited = False
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                self.refused.append((entry, reason(error)))
            pause = FIRST_PAUSE
            self.trouble = ""
            with self._changed:
                if not self._is_closed:
                    self._waiting.popleft()
                self._moved = time.monotonic()
                self._changed.notify_all()


def reason(error: BaseException) -> str:
    """What is said of a store's error: its message on one line, cut, without passwords."""
    text = one_line(error)
    for behind in LAYERS_BELOW:
        text = text.partition(behind)[0]
    return redacted(text)[:MAX_REASON_LENGTH]
