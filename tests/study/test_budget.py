"""When a study stops starting trials."""

from __future__ import annotations

import pytest

from cifar_hpo.study.budget import Budget


def budget(**limits: float) -> Budget:
    names = ("n_trials", "timeout", "max_failures", "target", "patience")
    options = {name: limits.get(name) for name in names}
    return Budget.from_options(options, "maximize")


def test_without_limits_nothing_ends_it() -> None:
    assert not budget().is_spent(1.0, since_best=1000, failures=1000)
    assert budget().allows(10**6)
    assert budget().seconds_left() is None


def test_trials_are_counted_up_to_their_number() -> None:
    assert budget(n_trials=3).allows(2)
    assert not budget(n_trials=3).allows(3)


@pytest.mark.parametrize(("failures", "is_spent"), [(2, False), (3, True)])
def test_failures_end_it(failures: int, is_spent: bool) -> None:
    assert budget(max_failures=3).is_spent(None, 0, failures) is is_spent


def test_time_ends_it() -> None:
    assert budget(timeout=1e-9).is_spent(None, 0, 0)
    assert not budget(timeout=3600).is_spent(None, 0, 0)


@pytest.mark.parametrize(("best", "is_spent"), [(None, False), (0.4, False), (0.5, True)])
def test_a_target_ends_it(best: float | None, is_spent: bool) -> None:
    assert budget(target=0.5).is_spent(best, 0, 0) is is_spent


def test_a_target_of_zero_is_a_target() -> None:
    assert budget(target=0).is_spent(0.0, 0, 0)
    assert not budget(target=0).is_spent(-1.0, 0, 0)


@pytest.mark.parametrize(("since_best", "is_spent"), [(-1, False), (1, False), (2, True)])
def test_patience_ends_it(since_best: int, is_spent: bool) -> None:
    assert budget(patience=2).is_spent(1.0, since_best, 0) is is_spent
    assert budget(patience=2).is_spent(None, since_best, 0) is is_spent


def test_less_is_better_where_it_is_minimized() -> None:
    limits = Budget(None, None, None, 0.5, None, "minimize")
    assert limits.is_spent(0.4, 0, 0)
    assert not limits.is_spent(0.6, 0, 0)
