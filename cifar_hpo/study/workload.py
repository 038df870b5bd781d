"""What a study has planned: a `Workload` counts its configurations and knows what they cost."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from statistics import fmean

from cifar_hpo.study.space import Space, Value, identity

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
        self._finished: set[str] = set()
        self.left_out: set[str] = set()
        self._drawn: set[str] = set()
        self._unplanned = 0

    @functools.cached_property
    def knows_all_costs(self) -> bool:
        """Whether it is known of each cell of a grid, so that the longest can be tried first."""
        return self.is_grid and len(self.costs) >= self.space.n_cells

    def finish(self, params: Mapping[str, Value]) -> None:
        """A configuration has an outcome; one of an earlier, different grid was not planned."""
        configuration = identity(params)
        if configuration in self._finished:
            return
        self._finished.add(configuration)
        if configuration in self.left_out:
            self.left_out.remove(configuration)
        elif not self.space.holds(params):
            self._unplanned += 1

    def leave_out(self, configurations: Iterable[str]) -> None:
        """Plan without these, unless they have an outcome."""
        self.left_out.update(set(configurations) - self._finished)

    @property
    def is_cut(self) -> bool:
        """Whether n_trials allows a part of a grid alone."""
        return self.is_grid and self.n_trials is not None and self.n_trials < self._possible

    @property
    def _possible(self) -> int:
        """The configurations of a finite space, with those of earlier grids that were tried."""
        return self.space.n_cells - len(self.left_out) + self._unplanned

    def draw(self, configurations: Iterable[str]) -> None:
        """These cells of a grid that is cut short are planned."""
        self._drawn = set(configurations)

    def planned(self) -> int | None:
        """How many trials there will be in all; None where only time or success limits them."""
        if not self.is_grid and (self.n_trials or self.space.size > MAX_LISTED_CELLS):
            return self.n_trials
        return min(self._possible, self.n_trials or self._possible)

    def cost(self, params: Mapping[str, Value]) -> float:
        """How much work a configuration is beside others; the mean of all where it is not known."""
        return self._cost(identity(params))

    def waiting_costs(self, running: AbstractSet[str]) -> list[float]:
        """The cost of each planned trial that has not begun, the longest first.

        Of more than MAX_LISTED_CELLS trials so many costs, with the sum of all.
        """
        begun = len(self._finished) + len(running - self._finished)
        count = max(0, (self.planned() or 0) - begun)
        if not self.knows_all_costs:
            listed = min(count, MAX_LISTED_CELLS)
            return [self.mean_cost * count / listed] * listed if listed else []
        waiting = (self._drawn or self.costs.keys()) - self._finished - self.left_out - running
        return self.longest_first(waiting)[:count]

    def longest_first(self, configurations: Iterable[str]) -> list[float]:
        """The costs of some configurations."""
        return sorted(map(self._cost, configurations), reverse=True)

    def _cost(self, configuration: str) -> float:
        return self.costs.get(configuration, self.mean_cost)

    @functools.cached_property
    def mean_cost(self) -> float:
        """Of the cells whose costs are known."""
        return fmean(self.costs.values()) if self.costs else 1.0
