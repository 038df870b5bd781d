"""What a study has planned, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cifar_hpo.study.space import Space, identity
from cifar_hpo.study.workload import MAX_LISTED_CELLS, Workload


def cells(space: Space) -> list[str]:
    return [identity(cell) for cell in space.cells()]


def test_a_grid_plans_its_cells_and_what_was_tried_before(space: Callable[..., Space]) -> None:
    workload = Workload(space("+x=1,2,3"), is_grid=True, n_trials=None)
    assert workload.planned() == 3
    for tried in (3, 9, 3):
        workload.finish({"+x": tried})
    assert workload.planned() == 4, "9 is an earlier grid's"
    workload.leave_out([identity({"+x": 1})])
    assert workload.planned() == 3
    workload.leave_out([identity({"+x": 3})])
    assert workload.planned() == 3, "3 has an outcome"
    workload.finish({"+x": 1})
    assert workload.planned() == 4


def test_a_number_of_trials_limits_it(space: Callable[..., Space]) -> None:
    assert Workload(space("+x=1,2,3"), is_grid=True, n_trials=2).planned() == 2
    assert Workload(space("+x=1,2,3"), is_grid=True, n_trials=9).planned() == 3
    assert Workload(space("+x=1,2,3"), is_grid=False, n_trials=9).planned() == 9
    assert Workload(space("+x=interval(0,1)"), is_grid=False, n_trials=None).planned() is None


def test_the_longest_wait_first(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3,4")
    first, second, third, fourth = cells(wanted)
    costs = {first: 1.0, second: 5.0, third: 3.0, fourth: 7.0}
    workload = Workload(wanted, is_grid=True, n_trials=None, costs=costs)
    workload.finish({"+x": 2})
    assert workload.waiting_costs({first}) == [7.0, 3.0]
    assert workload.cost({"+x": 4}) == 7.0
    assert workload.cost({"+x": 9}) == 4.0


def test_unknown_costs_are_all_the_same(space: Callable[..., Space]) -> None:
    for costs in (None, {identity({"+x": 1}): 0.0}):
        workload = Workload(space("+x=1,2"), is_grid=True, n_trials=None, costs=costs)
        assert workload.waiting_costs(set()) == [1.0, 1.0]
    sampled = Workload(space("+x=interval(0,1)"), is_grid=False, n_trials=3)
    sampled.finish({"+x": 0.5})
    assert sampled.waiting_costs({identity({"+x": 0.1})}) == [1.0]


def test_where_some_costs_are_known_the_others_cost_their_mean(
    space: Callable[..., Space],
) -> None:
    wanted = space("+x=range(0,4000)", "+y=range(0,4000)")
    first, second = identity({"+x": 0, "+y": 0}), identity({"+x": 0, "+y": 1})
    workload = Workload(wanted, is_grid=True, n_trials=None, costs={first: 2.0, second: 4.0})
    waiting = workload.waiting_costs(set())
    assert len(waiting) == MAX_LISTED_CELLS
    assert sum(waiting) == pytest.approx(3.0 * 4000**2)


def test_a_grid_is_cut_where_fewer_trials_are_allowed_than_it_has(
    space: Callable[..., Space],
) -> None:
    grid = space("+x=1,2,3")
    assert Workload(grid, is_grid=True, n_trials=2).is_cut
    assert not Workload(grid, is_grid=True, n_trials=3).is_cut
    assert not Workload(grid, is_grid=False, n_trials=2).is_cut
    drawn = Workload(grid, is_grid=True, n_trials=2, costs=costs_of(grid))
    drawn.draw({identity({"+x": 1}), identity({"+x": 2})})
    assert drawn.waiting_costs(set()) == [2.0, 1.0]


def costs_of(grid: Space) -> dict[str, float]:
    return {identity(cell): float(cell["+x"]) for cell in grid.cells()}
