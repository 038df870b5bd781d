"""How long a trial and a sweep will take, from what was timed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cifar_hpo.sweep.estimate import sweep_seconds_left
from cifar_hpo.trial import Progress, TrialSpec
from cifar_hpo.workers import pool as workers
from cifar_hpo.workers.pool import Worker

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`clock(seconds)` sets the time for workers and estimates."""
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])

    def set_time(seconds: float) -> None:
        now[0] = seconds

    return set_time


@pytest.fixture
def worker(clock: Clock) -> Worker:
    """One that was given a job at second 0, without its process."""
    idle = Worker.__new__(Worker)
    idle.pipe = SimpleNamespace(send=lambda _: None)  # type: ignore[assignment]
    idle.start("job")  # type: ignore[arg-type]
    return idle


def test_nothing_is_said_before_an_epoch_is_done(worker: Worker, clock: Clock) -> None:
    clock(5)
    worker.note(Progress(0, 10))
    assert worker.seconds_left is None


def test_what_came_before_the_training_is_no_part_of_an_epoch(worker: Worker, clock: Clock) -> None:
    clock(5)
    worker.note(Progress(0, 10))
    clock(8)
    worker.note(Progress(1, 10))
    assert worker.seconds_left == pytest.approx(9 * 3)
    clock(9)
    assert worker.seconds_left == pytest.approx(9 * 3 - 1)


def test_a_slow_first_epoch_counts_until_there_is_a_second(worker: Worker, clock: Clock) -> None:
    for second, epoch in ((0, 0), (6, 1), (8, 2), (10, 3)):
        clock(second)
        worker.note(Progress(epoch, 10))
    assert worker.seconds_per_epoch == pytest.approx(2)
    assert worker.seconds_left == pytest.approx(7 * 2)


def test_a_resumed_trial_is_timed_by_the_epochs_that_it_did_here(
    worker: Worker, clock: Clock
) -> None:
    clock(4)
    worker.note(Progress(0, 10))
    clock(7)
    worker.note(Progress(9, 10, restored=8))
    assert worker.seconds_left == pytest.approx(3)
    clock(9)
    worker.note(Progress(10, 10, restored=8))
    assert worker.seconds_per_epoch == pytest.approx(2)
    assert worker.seconds_left == 0


def test_a_task_may_report_every_few_epochs_and_never_say_that_it_began(
    worker: Worker, clock: Clock
) -> None:
    clock(10)
    worker.note(Progress(5, 20))
    assert worker.seconds_left == pytest.approx(15 * 2)
    worker.note(Progress(6, 0))
    assert worker.seconds_left is None, "of how many, nobody knows"


def study(**known: Any) -> Any:
    costs = known.get("costs", {})
    return SimpleNamespace(
        planned=lambda: known.get("planned"),
        cost=lambda params: costs.get(params, 1.0),
        waiting_costs=lambda: known.get("waiting", []),
        seconds_to_timeout=lambda: known.get("timeout"),
    )


def running(worker: Worker, params: str = "") -> list[tuple[Worker, TrialSpec]]:
    return [(worker, TrialSpec(0, (), params))]  # type: ignore[arg-type]


def test_waiting_trials_go_to_the_slot_that_is_free_first(worker: Worker, clock: Clock) -> None:
    for second, epoch in ((0, 0), (1, 1)):
        clock(second)
        worker.note(Progress(epoch, 10))  # 9 s left of 10
    two_waiting = study(planned=3, waiting=[1.0, 1.0])
    assert sweep_seconds_left(two_waiting, running(worker), 1, []) == pytest.approx(29)
    assert sweep_seconds_left(two_waiting, running(worker), 2, []) == pytest.approx(19)
    assert sweep_seconds_left(two_waiting, running(worker), 3, []) == pytest.approx(10)


def test_trials_take_time_in_proportion_to_their_cost(worker: Worker, clock: Clock) -> None:
    known = study(planned=3, waiting=[3.0], costs={"large": 6.0})
    clock(10)
    left = sweep_seconds_left(known, running(worker, "large"), 2, [(20.0, 2.0)])
    assert left == pytest.approx(60 - 10), "of 6 at 10 s for each; the waiting one takes 30"


def test_no_trial_starts_after_the_timeout(worker: Worker, clock: Clock) -> None:
    ended = [(10.0, 1.0)]
    assert sweep_seconds_left(study(planned=9, waiting=[1.0] * 9, timeout=15), [], 1, ended) == 20
    endless = study(timeout=30)
    assert sweep_seconds_left(endless, [], 2, ended) == pytest.approx(35)


def test_what_nobody_can_know_is_not_said() -> None:
    assert sweep_seconds_left(study(planned=3), [], 2, []) is None
    assert sweep_seconds_left(study(), [], 2, [(10.0, 1.0)]) is None
    assert sweep_seconds_left(study(planned=3), [], 2, [(10.0, 0.0)]) is None
