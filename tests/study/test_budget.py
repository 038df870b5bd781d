"""When a study stops starting trials."""

from __future__ import annotations

import pytest

from cifar_hpo.study.budget import Budget


def budget(**limits: float) -> Budget:
    names = ("n_trials", "timeout", "max_failures", "target", "patience")
    options = {name: limits.get(name) for name in names}
    return Budget.from_options(options, "maximize")


def test_without_limits_nothing_ends_it() -> None:
    assert not budget().is_spent([1.0] * 1000, failures=1000)
    assert budget().allows(10**6)
    assert budget().seconds_left() is None


def test_trials_are_counted_up_to_their_number() -> None:
    assert budget(n_trials=3).allows(2)
    assert not budget(n_trials=3).allows(3)


@pytest.mark.parametrize(("failures", "is_spent"), [(2, False), (3, True)])
def test_failures_end_it(failures: int, is_spent: bool) -> None:
    assert budget(max_failures=3).is_spent([], failures) is is_spent


def test_time_ends_it() -> None:
    assert budget(timeout=1e-9).is_spent([], 0)
    assert not budget(timeout=3600).is_spent([], 0)


@pytest.mark.parametrize(
    ("values", "is_spent"),
    [([], False), ([None], False), ([0.4, None], False), ([0.5, 0.1], True)],
)
def test_a_target_ends_it(values: list[float | None], is_spent: bool) -> None:
    assert budget(target=0.5).is_spent(values, 0) is is_spent


def test_a_target_of_zero_is_a_target() -> None:
    assert budget(target=0).is_spent([0.0], 0)
    assert not budget(target=0).is_spent([-1.0], 0)


@pytest.mark.parametrize(
    ("values", "is_spent"),
    [
        ([1.0, 0.5], False),
        ([1.0, 0.5, None], True),
        ([1.0, 0.5, 2.0], False),
        ([1.0, 1.0, 1.0], True),
        ([], False),
    ],
)
def test_patience_ends_it(values: list[float | None], is_spent: bool) -> None:
    assert budget(patience=2).is_spent(values, 0) is is_spent


def test_less_is_better_where_it_is_minimized() -> None:
    limits = Budget(None, None, None, 0.5, None, "minimize")
    assert limits.is_spent([0.4], 0)
    assert not limits.is_spent([0.6], 0)
