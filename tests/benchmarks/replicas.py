"""What further seeds cost where they decide, beside ten seeds for each configuration.

    python tests/benchmarks/replicas.py [--most 10] [--resamplings 200]

Of nine configurations 20 seeds each were trained (`nine_configurations.json`, which names the
command). A resampling draws an order of each configuration's seeds. In it a study with
`hydra.sweeper.replicas={least: 2, most: N}` takes them as they come, and so does one that gives ten
to each. The second one's verdicts are which configurations are shown to be worse than the best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_hpo.analysis.allocation import allocate
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import separate
from cifar_hpo.study.replication import ReplicaPlan, Replicas

STORED = Path(__file__).parent / "nine_configurations.json"
FIXED = 10
"""Seeds of each configuration in the study to compare with."""

Values = Sequence[Sequence[float]]
"""By configuration, its values in the order of its seeds."""


class Outcome(NamedTuple):
    """What a study comes to.

    contenders: places of the best and of what is not shown to be worse. seeds: trained in all.
    """

    contenders: set[int]
    seeds: int


def added(values: Values, plan: ReplicaPlan) -> Outcome:
    """A study that adds seeds where they decide."""
    counts = [0] * len(values)
    while True:
        known = []
        for count, of_configuration in zip(counts, values, strict=True):
            known.append(Replicas(dict(enumerate(of_configuration[:count])), count))
        allocation = allocate(known, plan, plan)
        if not any(allocation.needed):
            return Outcome(set(allocation.contenders), sum(counts))
        counts = [count + more for count, more in zip(counts, allocation.needed, strict=True)]


def fixed(values: Values) -> Outcome:
    """A study of FIXED seeds for each."""
    groups = [dict(enumerate(of_configuration[:FIXED])) for of_configuration in values]
    separation = separate(groups, looks=Looks(FIXED, FIXED))
    return Outcome(set(separation.unseparated), FIXED * len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=FIXED)
    parser.add_argument("--resamplings", type=int, default=200)
    arguments = parser.parse_args()
    stored = json.loads(STORED.read_text())["values"]
    truth = int(np.argmax([np.mean(values) for values in stored.values()]))
    plan = ReplicaPlan(2, arguments.most)
    shares, same, more, fewer, found = [], 0, [], [], 0
    for seed in range(arguments.resamplings):
        rng = np.random.default_rng(seed)
        values = [rng.permutation(of_all).tolist() for of_all in stored.values()]
        ours, theirs = added(values, plan), fixed(values)
        shares.append(ours.seeds / theirs.seeds)
        same += ours.contenders == theirs.contenders
        found += truth in ours.contenders
        more.append(len(ours.contenders - theirs.contenders))
        fewer.append(len(theirs.contenders - ours.contenders))
    of_all = f"of {arguments.resamplings} resamplings"
    low, high = np.quantile(shares, (0.1, 0.9))
    lines = (
        f"seeds trained, beside {FIXED} each: {statistics.median(shares):.0%} in the median,",
        f"  {low:.0%} to {high:.0%} in eight of ten",
        f"the same verdicts: in {same} {of_all}; verdicts that differ, of nine:",
        f"  shown there alone {np.mean(more):.2f}, shown here alone {np.mean(fewer):.2f}",
        f"the best by all 20 seeds is not shown to be worse in {found} {of_all}",
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
