"""Which configurations are to have further seeds: `allocate`.

All begin with the least that is asked for. From then on the best has a seed more, and each that is
not shown to be worse, round by round, until nothing but the best is left or all that are left have
their most. So training goes where the verdict is open, and what is shown to be worse has no more of
it (successive elimination: Even-Dar, Mannor and Mansour 2006), by the tests of `separation`, whose
errors hold at all rounds together.

Top-two sampling and LUCB look for the best alone and give the runner-up all that is left, where
here each further contender would stay undecided for as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

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
    complete = [place for place, known in enumerate(configurations) if known.is_complete]
    if not complete or any(len(configurations[place].values) < asked.least for place in complete):
        return Allocation(nobody)
    contenders = _contenders(configurations, complete, direction, planned)
    needed = list(nobody)
    level = min(len(configurations[place].values) for place in contenders)
    for place in contenders:
        known = configurations[place]
        if len(contenders) > 1 and known.begun == level and level < asked.most:
            needed[place] = 1
    return Allocation(needed, contenders)


def _contenders(
    configurations: Sequence[Replicas],
    complete: Sequence[int],
    direction: str,
    planned: ReplicaPlan,
) -> list[int]:
    """Those of the TOP_K best that are not shown to be worse than the best, which is the first."""
    sign = -1 if direction == "minimize" else 1
    best_first = sorted(
        complete, key=lambda place: -sign * fmean(configurations[place].values.values())
    )
    groups = [configurations[place].values for place in best_first]
    looks = Looks(planned.least, planned.most)
    separation = separate(groups, direction, looks, compared=TOP_K)
    return [best_first[place] for place in separation.unseparated if place < TOP_K]
