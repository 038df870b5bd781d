"""What a study has planned: a `Workload` counts its configurations and knows what they cost."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from statistics import fmean

from cifar_hpo.study.space import Space, Value, identities, identity

MAX_LISTED_CELLS = 20_000
"""Cells above which a sampler's space counts as one without end: nobody will try them all, and to
list them takes long."""


class Workload:
    """The configurations of a space that will be tried, by their identities.

    costs: of cells, as far as they are known; they count beside one another alone.
    """

    def __init__(
        self,
        space: Space,
        *,
        is_grid: bool,
        n_trials: int | None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self.space, self.is_grid, self.n_trials = space, is_grid, n_trials
        self.costs: Mapping[str, float] = costs or {}
        if not any(self.costs.values()):
            self.costs = {}
        self.left_out: set[str] = set()

    def leave_out(self, configurations: Iterable[str]) -> None:
        """Plan without these."""
        self.left_out.update(configurations)

    def planned(self, finished: AbstractSet[str]) -> int | None:
        """How many trials there will be in all; None where only time or success limits them."""
        if not self.is_grid and (self.n_trials or self.space.size > MAX_LISTED_CELLS):
            return self.n_trials
        planned = len((self._cells - self.left_out) | finished)
        return min(planned, self.n_trials or planned)

    def cost(self, params: Mapping[str, Value]) -> float:
        """How much work a configuration is beside others; the mean of all where it is not known."""
        return self._cost(identity(params))

    def waiting_costs(self, finished: AbstractSet[str], running: AbstractSet[str]) -> list[float]:
        """The cost of each planned trial that has not begun, the longest first."""
        begun = finished | running
        count = max(0, (self.planned(finished) or 0) - len(begun))
        if not self.is_grid:
            return [self._mean_cost] * count
        return self.longest_first(self._cells - begun - self.left_out)[:count]

    def longest_first(self, configurations: Iterable[str]) -> list[float]:
        """The costs of some configurations."""
        return sorted(map(self._cost, configurations), reverse=True)

    def _cost(self, configuration: str) -> float:
        return self.costs.get(configuration, self._mean_cost)

    @functools.cached_property
    def _mean_cost(self) -> float:
        return fmean(self.costs.values()) if self.costs else 1.0

    @functools.cached_property
    def _cells(self) -> frozenset[str]:
        return frozenset(identities(self.space.cells()))
