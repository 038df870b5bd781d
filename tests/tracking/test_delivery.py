"""Calls to a store that may be away: in order, tried again, and in nobody's way."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from mlflow import MlflowException
from support import wait_for

from cifar_hpo.tracking import delivery
from cifar_hpo.tracking.delivery import Delivery, reason


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.02)


class Store:
    """Takes entries while it is back; refuses negative ones for good."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.taken: list[int] = []
        self.calls = 0

    def take(self, entry: int) -> None:
        self.calls += 1
        if entry < 0:
            raise ValueError(f"refused: {entry}")
        if not self.back.is_set():
            raise ConnectionError("away")
        self.taken.append(entry)


def is_transient(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_all_arrives_in_order_however_often_the_store_was_away() -> None:
    store = Store()
    queue = Delivery(store.take, is_transient)
    for entry in range(5):
        queue.put(entry)
    wait_for(lambda: store.calls > 3)
    assert store.taken == []
    assert queue.trouble == "away"
    store.back.set()
    assert queue.drain(5)
    assert store.taken == [0, 1, 2, 3, 4]
    assert queue.trouble == ""


def test_what_is_refused_for_good_holds_nothing_up() -> None:
    store = Store()
    store.back.set()
    queue = Delivery(store.take, is_transient)
    for entry in (1, -2, 3):
        queue.put(entry)
    assert queue.drain(5)
    assert store.taken == [1, 3]
    assert queue.refused == [(-2, "refused: -2")]


def test_a_store_that_stays_away_is_not_waited_for_and_what_waits_is_given_back() -> None:
    store = Store()
    queue = Delivery(store.take, is_transient)
    queue.put(1)
    queue.put(2)
    assert not queue.drain(0.1)
    assert queue.close() == [1, 2]
    calls = store.calls
    store.back.set()
    queue.put(3)
    assert store.taken in ([], [1]), "one call may have been under way"
    assert store.calls <= calls + 1


def test_what_moves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes five seconds of this clock; twenty in all."""
    now = [0.0]
    monkeypatch.setattr(delivery, "time", SimpleNamespace(monotonic=lambda: now[0]))
    taken = []
    begin = threading.Event()

    def take(entry: int) -> None:
        begin.wait()
        now[0] += 5
        taken.append(entry)

    queue = Delivery(take, is_transient)
    for entry in range(4):
        queue.put(entry)
    begin.set()
    assert queue.drain(6)
    assert taken == [0, 1, 2, 3]


HANGING = """
import threading
from cifar_hpo.tracking.delivery import Delivery

begun = threading.Event()

def hang(entry):
    begun.set()
    threading.Event().wait()

queue = Delivery(hang, lambda error: True)
queue.put(1)
begun.wait()
print("ends")
"""


def test_a_call_that_hangs_holds_up_no_exit() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "ends\n"


def test_a_reason_is_a_line_without_passwords() -> None:
    error = ConnectionError("no route to\n http://me:secret@host/ " + "x" * 300)
    assert reason(error).startswith("no route to http://me:***@host/ xx")
    assert len(reason(error)) == 200
    request = MlflowException("API request to http://h/api failed with exception Pool(host='h')")
    assert reason(request) == "API request to http://h/api failed"
