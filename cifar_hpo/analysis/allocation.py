"""Which configurations are to have further seeds: `allocate`.

All begin with the least that is asked for. From then on the best has a seed more, and each that is
not shown to be worse, round by round, until nothing but the best is left or all that are left have
their most. One that comes among the TOP_K late, because another has fallen behind it, catches up
first. So training goes where the verdict is open, and what is shown to be worse has no more of it
(successive elimination: Even-Dar, Mannor and Mansour 2006), by the tests of `separation`, whose
errors hold at all rounds together.

Top-two sampling and LUCB look for the best alone and give the runner-up all that is left, where
here each further contender would stay undecided for as long.
"""

from __future__ import annotations

from collections.abc import Sequence

from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import TOP_K, separate
from cifar_hpo.study.replication import Allocation, ReplicaPlan, Replicas


def allocate(
    configurations: Sequence[Replicas],
    planned: ReplicaPlan,
    asked: ReplicaPlan,
    *,
    direction: str = "maximize",
) -> Allocation:
    """Who is to have further seeds.

    planned: what the study began with, on which its tests rest. asked: what is wanted now. A
    configuration of which a seed was lost has none beyond the least, and is not compared.
    """
    lacking = [max(0, asked.least - known.begun) for known in configurations]
    if any(lacking):
        return Allocation(lacking)
    nobody = [0] * len(configurations)
    complete: list[int] = []
    lost: list[int] = []
    for place, known in enumerate(configurations):
        (complete if known.is_complete else lost).append(place)
    if not complete or any(len(configurations[place].values) < asked.least for place in complete):
        return Allocation(nobody, lost=lost)
    level, contenders = _judged(configurations, complete, direction, planned, asked.least)
    needed = list(nobody)
    if len(contenders) > 1:
        is_anyone_behind = any(len(configurations[place].values) < level for place in contenders)
        wanted = min(level if is_anyone_behind else level + 1, asked.most)
        for place in contenders:
            needed[place] = max(0, wanted - configurations[place].begun)
    return Allocation(needed, contenders, min(TOP_K, len(complete)), lost)


def _judged(
    configurations: Sequence[Replicas],
    complete: Sequence[int],
    direction: str,
    planned: ReplicaPlan,
    least: int,
) -> tuple[int, list[int]]:
    """The last round that all who were in it have come to the end of, as a number of seeds, and
    who is left then.

    What some have beyond it decides nothing: a round that is judged in its middle is a look more
    than the plan allows for, and says what was faster. Among those left may be some that were not
    in the round, because others have fallen behind them; they have fewer seeds.
    """
    level = max(len(configurations[place].values) for place in complete)
    while level > least:
        were_left = _contenders(configurations, complete, direction, planned, level - 1)
        if all(len(configurations[place].values) >= level for place in were_left):
            break
        level -= 1
    return level, _contenders(configurations, complete, direction, planned, level)


def _contenders(
    configurations: Sequence[Replicas],
    complete: Sequence[int],
    direction: str,
    planned: ReplicaPlan,
    level: int,
) -> list[int]:
    """Those of the TOP_K best that are not shown to be worse than the best, which is the first; by
    so many of the seeds of each."""
    first = [dict(sorted(configurations[place].values.items())[:level]) for place in complete]
    looks = Looks(planned.least, planned.most)
    separation = separate(first, direction, looks, compared=TOP_K)
    contenders = []
    for place in separation.unseparated:
        if separation.standings[place].p_value is not None:  # else it was not compared
            contenders.append(complete[place])
    return contenders
