"""What further seeds cost where they decide, beside ten seeds for each configuration.

    python tests/benchmarks/replicas.py [--most 16] [--times 200]
    python tests/benchmarks/replicas.py --equal 4 [--most 16] [--times 600]

Of nine configurations 20 seeds each were trained (`nine_configurations.json`, which names the
command). A resampling draws an order of each configuration's seeds. In it a study with
`hydra.sweeper.replicas={least: 2, most: N}` takes them as they come, and so does one that gives ten
to each. The second one's verdicts are which configurations are shown to be worse than the best.

With --equal there are so many configurations whose seeds are drawn from one distribution, or from
distributions of one mean whose standard deviations lie between a half and two: how often is any
wrongly shown to be worse? And how often do the first two, which somebody asked about beforehand,
seem to differ, looked at once at the end and as the plan has it?
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.analysis.allocation import allocate
from cifar_hpo.analysis.looks import ERROR, PLANNED_SHARE, Looks
from cifar_hpo.analysis.separation import between, separate
from cifar_hpo.study.replication import ReplicaPlan, Replicas

STORED = Path(__file__).parent / "nine_configurations.json"
FIXED = 10
"""Seeds of each configuration in the study to compare with."""

Values = Sequence[Sequence[float]]
"""By configuration, its values in the order of its seeds."""

Draw = Callable[[int, int, int], Sequence[float]]
"""Gives the values of further seeds: of which configuration, behind how many, how many."""


class Outcome(NamedTuple):
    """What a study comes to.

    contenders: places of the best and of what is not shown to be worse. values: of all that was
    trained.
    """

    contenders: set[int]
    values: Values

    @property
    def seeds(self) -> int:
        """Trained in all."""
        return sum(map(len, self.values))


def added(draw: Draw, count: int, plan: ReplicaPlan) -> Outcome:
    """A study of so many configurations that adds seeds where they decide."""
    values: list[list[float]] = [[] for _ in range(count)]
    while True:
        known = [Replicas(dict(enumerate(seeds)), len(seeds)) for seeds in values]
        allocation = allocate(known, plan, plan)
        if not any(allocation.needed):
            return Outcome(set(allocation.contenders), values)
        for place, more in enumerate(allocation.needed):
            values[place] += draw(place, len(values[place]), more)


def fixed(values: Values) -> Outcome:
    """A study of FIXED seeds for each."""
    groups = [dict(enumerate(of_configuration[:FIXED])) for of_configuration in values]
    separation = separate(groups, looks=Looks(FIXED, FIXED))
    return Outcome(set(separation.unseparated), [list(group.values()) for group in groups])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=16)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--equal", type=int, metavar="CONFIGURATIONS")
    arguments = parser.parse_args()
    plan = ReplicaPlan(2, arguments.most)
    lines = (
        errors(arguments.equal, plan, arguments.times)
        if arguments.equal
        else shares(plan, arguments.times)
    )
    sys.stdout.write("\n".join(lines) + "\n")


def shares(plan: ReplicaPlan, times: int) -> list[str]:
    """What is trained of the stored seeds, and which verdicts are reached."""
    stored = json.loads(STORED.read_text())["values"]
    truth = int(np.argmax([np.mean(values) for values in stored.values()]))
    trained, there_alone, here_alone = [], [], []
    same, found = 0, 0
    for seed in range(times):
        rng = np.random.default_rng(seed)
        values = [rng.permutation(of_all).tolist() for of_all in stored.values()]

        def next_ones(place: int, behind: int, more: int, values: Values = values) -> list[float]:
            return list(values[place][behind : behind + more])

        ours, theirs = added(next_ones, len(values), plan), fixed(values)
        trained.append(ours.seeds / theirs.seeds)
        same += ours.contenders == theirs.contenders
        found += truth in ours.contenders
        there_alone.append(len(ours.contenders - theirs.contenders))
        here_alone.append(len(theirs.contenders - ours.contenders))
    low, high = np.quantile(trained, (0.1, 0.9))
    return [
        f"seeds trained, beside {FIXED} each: {statistics.median(trained):.0%} in the median,",
        f"  {low:.0%} to {high:.0%} in eight of ten",
        f"the same verdicts: in {same} of {times} resamplings; verdicts that differ, of nine:",
        f"  shown there alone {np.mean(there_alone):.2f}, here alone {np.mean(here_alone):.2f}",
        f"the best by all 20 seeds is not shown to be worse: in {found} of {times}",
    ]


def errors(count: int, plan: ReplicaPlan, times: int) -> list[str]:
    """How often any of so many configurations of one mean is shown to be worse."""
    lines = []
    for name, spreads in (("equal", np.ones(count)), ("0.5 to 2", np.linspace(0.5, 2, count))):
        wrong, pairs_once, pairs_planned = 0, 0, 0
        for seed in range(times):
            rng = np.random.default_rng([seed, count])

            def drawn(
                place: int,
                _: int,
                more: int,
                rng: np.random.Generator = rng,
                spreads: NDArray[np.float64] = spreads,
            ) -> list[float]:
                return [float(value) for value in rng.normal(0, spreads[place], more)]

            outcome = added(drawn, count, plan)
            wrong += len(outcome.contenders) < count
            groups = [dict(enumerate(values)) for values in outcome.values]
            most = max(map(len, groups))
            _, at_the_end = between(groups, 0, 1, Looks(most, most))
            p = (at_the_end.p_value or 0) * PLANNED_SHARE  # at 5 %, as if nobody had looked before
            pairs_once += p <= ERROR
            pairs_planned += between(groups, 0, 1, Looks(*plan))[1].is_separated
        lines.append(f"spreads {name}: {wrong / times:.1%} of {times} studies show one as worse")
        lines.append(
            f"  the first two seem to differ: {pairs_once / times:.1%} looked at once, "
            f"{pairs_planned / times:.1%} by the plan"
        )
    return lines


if __name__ == "__main__":
    main()
