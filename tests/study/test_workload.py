"""What a study has planned, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

from cifar_hpo.study.space import Space, identity
from cifar_hpo.study.workload import Workload


def cells(space: Space) -> list[str]:
    return [identity(cell) for cell in space.cells()]


def test_a_grid_plans_its_cells_and_what_was_tried_before(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3")
    workload = Workload(wanted, is_grid=True, n_trials=None)
    assert workload.planned(set()) == 3
    assert workload.planned({identity({"+x": 3}), identity({"+x": 9})}) == 4
    workload.leave_out([identity({"+x": 1})])
    assert workload.planned(set()) == 2


def test_a_number_of_trials_limits_it(space: Callable[..., Space]) -> None:
    assert Workload(space("+x=1,2,3"), is_grid=True, n_trials=2).planned(set()) == 2
    assert Workload(space("+x=1,2,3"), is_grid=True, n_trials=9).planned(set()) == 3
    assert Workload(space("+x=1,2,3"), is_grid=False, n_trials=9).planned(set()) == 9
    assert Workload(space("+x=interval(0,1)"), is_grid=False, n_trials=None).planned(set()) is None


def test_the_longest_wait_first(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3,4")
    first, second, third, fourth = cells(wanted)
    costs = {first: 1.0, second: 5.0, third: 3.0, fourth: 7.0}
    workload = Workload(wanted, is_grid=True, n_trials=None, costs=costs)
    assert workload.waiting_costs({second}, {first}) == [7.0, 3.0]
    assert workload.cost({"+x": 4}) == 7.0
    assert workload.cost({"+x": 9}) == 4.0


def test_unknown_costs_are_all_the_same(space: Callable[..., Space]) -> None:
    for costs in (None, {identity({"+x": 1}): 0.0}):
        workload = Workload(space("+x=1,2"), is_grid=True, n_trials=None, costs=costs)
        assert workload.waiting_costs(set(), set()) == [1.0, 1.0]
    sampled = Workload(space("+x=interval(0,1)"), is_grid=False, n_trials=3)
    assert sampled.waiting_costs({"a"}, {"b"}) == [1.0]
