"""How long a sweep will take, from what was timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support import Clock

from cifar_hpo.sweep.estimate import TimedTrial, sweep_seconds_left
from cifar_hpo.trial import Progress, TrialSpec
from cifar_hpo.workers.pace import Pace


@pytest.fixture
def pace(clock: Clock) -> Pace:
    """Of a trial that began at second 0."""
    return Pace(0)


def study(**known: Any) -> Any:
    costs = known.get("costs", {})
    return SimpleNamespace(
        planned=lambda: known.get("planned"),
        cost=lambda params: costs.get(params, 1.0),
        waiting_costs=lambda: known.get("waiting", []),
        seconds_to_timeout=lambda: known.get("timeout"),
    )


def running(pace: Pace, params: str = "") -> list[tuple[Pace, TrialSpec]]:
    return [(pace, TrialSpec(0, (), params))]  # type: ignore[arg-type]


def test_waiting_trials_go_to_the_slot_that_is_free_first(pace: Pace, clock: Clock) -> None:
    for second, epoch in ((0, 0), (1, 1)):
        clock(second)
        pace.note(Progress(epoch, 10))  # 9 s left of 10
    two_waiting = study(planned=3, waiting=[1.0, 1.0])
    assert sweep_seconds_left(two_waiting, running(pace), 1, []) == pytest.approx(29)
    assert sweep_seconds_left(two_waiting, running(pace), 2, []) == pytest.approx(19)
    assert sweep_seconds_left(two_waiting, running(pace), 3, []) == pytest.approx(10)


def test_trials_take_time_in_proportion_to_their_cost(pace: Pace, clock: Clock) -> None:
    known = study(planned=3, waiting=[3.0], costs={"large": 6.0})
    clock(10)
    left = sweep_seconds_left(known, running(pace, "large"), 2, [TimedTrial(20.0, 2.0)])
    assert left == pytest.approx(60 - 10), "of 6 at 10 s for each; the waiting one takes 30"


def test_no_trial_starts_after_the_timeout(pace: Pace, clock: Clock) -> None:
    ended = [TimedTrial(10.0, 1.0)]
    assert sweep_seconds_left(study(planned=9, waiting=[1.0] * 9, timeout=15), [], 1, ended) == 20
    endless = study(timeout=30)
    assert sweep_seconds_left(endless, [], 2, ended) == pytest.approx(35)


def test_what_nobody_can_know_is_not_said() -> None:
    assert sweep_seconds_left(study(planned=3), [], 2, []) is None
    assert sweep_seconds_left(study(), [], 2, [TimedTrial(10.0, 1.0)]) is None
    assert sweep_seconds_left(study(planned=3), [], 2, [TimedTrial(10.0, 0.0)]) is None
