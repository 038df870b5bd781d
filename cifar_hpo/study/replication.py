"""Seeds that a study adds where they decide: a `Replication` says which trials come next.

`hydra.sweeper.replicas` makes the seed a dimension of the grid, of which not all cells are tried.
Whoever opens the study says by an `Allocate` which configurations deserve a further seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cifar_hpo.study.order import Cell
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.seeds import as_seed, seed_in, values_by_seed, without_seed
from cifar_hpo.study.space import Space, identity

REPLICA_PLAN = "replicas"
"""The attribute of Optuna's study with the plan that its first command had: the least and the most
seeds of a configuration. Its tests rest on that plan, whatever a later command asks for."""


class ReplicaPlan(NamedTuple):
    """How many seeds each configuration has at first, and at most."""

    least: int
    most: int


def noted_plan(attributes: Mapping[str, Any]) -> ReplicaPlan | None:
    """The plan of a study's first command, by the study's attributes; None where it adds no
    seeds."""
    noted = attributes.get(REPLICA_PLAN)
    return ReplicaPlan(**noted) if noted else None


@dataclass(frozen=True)
class Replicas:
    """The seeds of a configuration so far.

    values: by seed, of those that finished. begun: how many have begun, whatever came of them.
    running: how many of these have no outcome yet.
    """

    values: Mapping[int, float]
    begun: int
    running: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether none was lost, so that its mean tells of all."""
        return len(self.values) + self.running == self.begun


@dataclass(frozen=True)
class Allocation:
    """Who is to have further seeds, by places of the configurations.

    needed: how many further seeds of each are sure to be trained, as far as it is known now.
    contenders: the best and those that are not shown to be worse, the best first; empty while not
    all have their first seeds. compared: how many were compared with one another. lost: those of
    which a seed has no value, which are not compared.
    """

    needed: Sequence[int]
    contenders: Sequence[int] = ()
    compared: int = 0
    lost: Sequence[int] = ()


Allocate = Callable[[Sequence[Replicas], ReplicaPlan, ReplicaPlan], Allocation]
"""Says who is to have further seeds. It is given all configurations, the plan of the study's first
command, and what is asked for now."""


@dataclass(frozen=True)
class NextSeeds:
    """What is to be tried next, of these configurations.

    cells: the trials that are sure to come, the most urgent first. contenders, compared, lost: as
    `Allocation` has them, each configuration as what it varies, without the seed.
    """

    cells: Sequence[Cell]
    contenders: Sequence[Cell]
    compared: int
    lost: Sequence[Cell]

    @property
    def is_decided(self) -> bool:
        """Whether all are shown to be worse than one."""
        return self.compared > 1 and len(self.contenders) == 1


class Replication:
    """The seeds of a study's configurations.

    space: with a dimension of seeds. replicas: seeds of each trial, which count up from its own.
    metric: what configurations are compared by. noted: the plan of the study's first command.
    """

    def __init__(
        self,
        space: Space,
        plan: ReplicaPlan,
        noted: ReplicaPlan,
        allocate: Allocate,
        *,
        replicas: int,
        metric: str,
    ) -> None:
        self.space = space
        self.plan, self.noted = plan, noted
        self.replicas, self.metric = replicas, metric
        self._allocate = allocate
        self._seeds = list(space.choices(space.seed_key))

    def next_seeds(
        self,
        configurations: Sequence[Cell],
        finished: Iterable[FinishedTrial],
        running: Iterable[Cell],
    ) -> NextSeeds:
        """What is to be tried next.

        configurations: all that may be tried, without seeds, in the order in which they are to
        begin. finished, running: trials of this space, or of an earlier, different one.
        """
        values: dict[str, dict[int, float]] = {}
        begun: dict[str, set[int]] = {}
        under_way: dict[str, int] = {}
        for trial in finished:
            configuration = identity(without_seed(trial.params))
            seed = as_seed(seed_in(trial.params, 0))
            begun.setdefault(configuration, set()).add(seed)
            of_trial = values_by_seed(trial.metrics, self.metric, seed, trial.value)
            values.setdefault(configuration, {}).update(of_trial)
        for params in running:
            configuration = identity(without_seed(params))
            begun.setdefault(configuration, set()).add(as_seed(seed_in(params, 0)))
            under_way[configuration] = under_way.get(configuration, 0) + self.replicas
        known = []
        for cell in configurations:
            key = identity(cell)
            count = len(begun.get(key, ())) * self.replicas
            known.append(Replicas(values.get(key, {}), count, under_way.get(key, 0)))
        allocation = self._allocate(known, self.noted, self.plan)
        seeds_begun = [begun.get(identity(cell), set()) for cell in configurations]
        cells = list(self._cells(configurations, seeds_begun, allocation))
        contenders = [configurations[place] for place in allocation.contenders]
        lost = [configurations[place] for place in allocation.lost]
        return NextSeeds(cells, contenders, allocation.compared, lost)

    def _cells(
        self,
        configurations: Sequence[Cell],
        begun: Sequence[set[int]],
        allocation: Allocation,
    ) -> Iterator[Cell]:
        """A further seed of each configuration that needs one, then of those that need two."""
        to_come: dict[int, list[int]] = {}
        for place, count in enumerate(allocation.needed):
            free = [seed for seed in self._seeds if as_seed(seed) not in begun[place]]
            to_come[place] = [as_seed(seed) for seed in free[: math.ceil(count / self.replicas)]]
        fewest_first = sorted(to_come, key=lambda place: len(begun[place]))
        for turn in range(max(map(len, to_come.values()), default=0)):
            for place in fewest_first:
                if turn < len(to_come[place]):
                    cell = {**configurations[place], self.space.seed_key: to_come[place][turn]}
                    yield {key: cell[key] for key in self.space.dimensions if key in cell}
