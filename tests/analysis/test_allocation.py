"""Who is to have further seeds: training goes where the verdict is open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cifar_hpo.analysis.allocation import allocate
from cifar_hpo.study.replication import Allocation, ReplicaPlan, Replicas

PLAN = ReplicaPlan(2, 6)


def of(*values: float, running: int = 0, lost: int = 0) -> Replicas:
    """A configuration with these values of its first seeds."""
    begun = len(values) + running + lost
    return Replicas(dict(enumerate(values)), begun, running)


def allocated(*configurations: Replicas, direction: str = "maximize") -> Allocation:
    return allocate(configurations, PLAN, PLAN, direction=direction)


CLEAR = (of(0.90, 0.91), of(0.30, 0.31), of(0.20, 0.21), of(0.25, 0.24))


def test_all_have_their_first_seeds_before_any_is_judged() -> None:
    assert allocated(of(), of(0.5), of(0.5, 0.6)).needed == [2, 1, 0]
    waiting = allocated(of(0.9, running=1), of(0.1, 0.1))
    assert waiting.needed == [0, 0]
    assert not waiting.contenders


def test_where_one_is_shown_to_be_the_best_nothing_is_to_be_trained() -> None:
    decided = allocated(*CLEAR)
    assert decided.contenders == [0]
    assert not any(decided.needed)
    assert allocated(*CLEAR, direction="minimize").contenders[0] == 2


def test_what_is_not_told_apart_has_a_seed_more_round_by_round() -> None:
    close = of(0.89, 0.92)
    open_still = allocated(*CLEAR, close)
    assert set(open_still.contenders) == {0, 4}
    assert open_still.needed == [1, 0, 0, 0, 1]
    one_runs = allocated(of(0.90, 0.91, running=1), *CLEAR[1:], close)
    assert one_runs.needed == [0, 0, 0, 0, 1], "the other of this round"
    one_is_ahead = allocated(of(0.90, 0.91, 0.90), *CLEAR[1:], of(0.89, 0.92, running=1))
    assert not any(one_is_ahead.needed), "it waits for the other of its round"


def test_a_round_is_judged_when_all_have_come_to_its_end() -> None:
    ahead, behind = of(0.600, 0.602, 0.601), of(0.598, 0.603)
    fast = of(0.600, 0.602, 0.700)
    assert set(allocated(ahead, behind).contenders) == {0, 1}
    told = allocated(fast, behind)
    assert set(told.contenders) == {0, 1}, "by two seeds of each"
    assert told.needed == [0, 1]


def test_a_round_in_which_one_is_ahead_and_alone_left_is_not_judged_either() -> None:
    level = [of(0.90, 0.91, 0.90), of(0.89, 0.90, 0.91), of(0.88, 0.91, 0.90)]
    ahead = of(0.90, 0.91, 0.90, 9.0)
    assert set(allocated(*level).contenders) == {0, 1, 2}
    assert allocated(ahead, *level[1:]).needed == [0, 1, 1]


def test_who_comes_among_the_best_late_catches_up_first() -> None:
    best = [of(0.73, 0.71, 0.72)] * 9
    falling = of(0.72, 0.70, 0.66)
    late = of(0.71, 0.70)
    assert allocated(*best, of(0.72, 0.70), late).needed[-1] == 0, "it is the eleventh"
    behind = allocated(*best, falling, late)
    assert 10 in behind.contenders
    assert behind.needed == [0] * 10 + [1]
    assert not any(allocated(*best, falling, of(0.71, 0.70, running=1)).needed)
    level = allocated(*best, falling, of(0.71, 0.70, 0.71))
    assert level.needed == [1] * 11, "nothing shows yet that the one behind is worse"


def test_one_alone_is_not_decided_and_what_was_compared_is_known() -> None:
    alone = allocated(of(0.5, 0.6))
    assert (alone.contenders, alone.compared, alone.lost) == ([0], 1, [])
    lost = allocated(*CLEAR, of(0.95, lost=1))
    assert (lost.contenders, lost.compared, lost.lost) == ([0], 4, [4])


def test_none_has_more_than_the_most_or_of_a_later_command_as_many_as_it_asks_for() -> None:
    six = (of(*[0.9, 0.91] * 3), of(*[0.91, 0.9] * 3))
    assert not any(allocated(*six).needed)
    assert len(allocated(*six).contenders) == 2
    assert allocate(six, PLAN, ReplicaPlan(2, 7)).needed == [1, 1]


def test_what_lost_a_seed_is_not_compared_and_has_no_more() -> None:
    lost = allocated(of(0.95, lost=1), *CLEAR[1:], CLEAR[0], CLEAR[0])
    assert lost.needed == [0, 0, 0, 0, 1, 1]
    assert 0 not in lost.contenders
    assert not allocated(of(lost=2), of(0.5, lost=1)).contenders


def simulated(means: Sequence[float], spread: float, seed: int) -> tuple[Allocation, list[int]]:
    """What a study comes to whose seeds are drawn, and how many each configuration takes."""
    rng = np.random.default_rng(seed)
    values: list[list[float]] = [[] for _ in means]
    plan = ReplicaPlan(2, 8)
    while True:
        allocation = allocate([of(*known) for known in values], plan, plan)
        if not any(allocation.needed):
            return allocation, [len(known) for known in values]
        for place, count in enumerate(allocation.needed):
            values[place] += rng.normal(means[place], spread, count).tolist()


def test_a_study_of_clear_losers_is_decided_with_a_part_of_the_training() -> None:
    counts = []
    for seed in range(20):
        allocation, seeds = simulated([0.80, 0.75, 0.70, 0.65, 0.60], 0.01, seed)
        assert allocation.contenders == [0]
        counts.append(sum(seeds))
    assert np.median(counts) < 20, "of 40"


@pytest.mark.parametrize("seed", range(5))
def test_of_more_than_are_compared_all_that_stay_open_have_their_most(seed: int) -> None:
    allocation, seeds = simulated([0.70] * 14, 0.02, seed)
    open_still = [seeds[place] for place in allocation.contenders]
    assert open_still == [8] * len(open_still) or len(open_still) == 1
