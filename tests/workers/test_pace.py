"""How long a trial will go on, from the epochs that were timed."""

from __future__ import annotations

import pytest
from support import Clock

from cifar_hpo.trial import Progress
from cifar_hpo.workers.pace import Pace


@pytest.fixture
def pace(clock: Clock) -> Pace:
    """Of a trial that began at second 0."""
    return Pace(0)


def test_nothing_is_said_before_an_epoch_is_done(pace: Pace, clock: Clock) -> None:
    clock(5)
    pace.note(Progress(0, 10))
    assert pace.seconds_left is None


def test_what_came_before_the_training_is_no_part_of_an_epoch(pace: Pace, clock: Clock) -> None:
    clock(5)
    pace.note(Progress(0, 10))
    clock(8)
    pace.note(Progress(1, 10))
    assert pace.seconds_left == pytest.approx(9 * 3)
    clock(9)
    assert pace.seconds_left == pytest.approx(9 * 3 - 1)


def test_a_slow_first_epoch_counts_until_there_is_a_second(pace: Pace, clock: Clock) -> None:
    for second, epoch in ((0, 0), (6, 1), (8, 2), (10, 3)):
        clock(second)
        pace.note(Progress(epoch, 10))
    assert pace.seconds_per_epoch == pytest.approx(2)
    assert pace.seconds_left == pytest.approx(7 * 2)


def test_a_resumed_trial_is_timed_by_the_epochs_that_it_did_here(pace: Pace, clock: Clock) -> None:
    clock(4)
    pace.note(Progress(0, 10))
    clock(7)
    pace.note(Progress(9, 10, restored=8))
    assert pace.seconds_left == pytest.approx(3)
    clock(9)
    pace.note(Progress(10, 10, restored=8))
    assert pace.seconds_per_epoch == pytest.approx(2)
    assert pace.seconds_left == 0


def test_a_task_may_report_every_few_epochs_and_never_say_that_it_began(
    pace: Pace, clock: Clock
) -> None:
    clock(10)
    pace.note(Progress(5, 20))
    assert pace.seconds_left == pytest.approx(15 * 2)
    pace.note(Progress(6, 0))
    assert pace.seconds_left is None, "of how many, nobody knows"
