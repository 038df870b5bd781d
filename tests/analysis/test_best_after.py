"""The best of n drawn configurations, against every draw that there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from cifar_hpo.analysis.best_after import HIGH, LOW, best_after, chance_ahead

POOLS: list[list[float | None]] = [
    [0.5],
    [0.3, 0.1, 0.2, 0.7, 0.4],
    [0.2, 0.2, 0.9, 0.2],
    [0.6, None, 0.1, None, 0.8, 0.3],
]


def bests(pool: Sequence[float | None], n: int, direction: str) -> list[float | None]:
    """The best of every draw of n, the worst first."""
    found: list[float | None] = []
    for draw in itertools.combinations(pool, n):
        values = [value for value in draw if value is not None]
        best = max if direction == "maximize" else min
        found.append(best(values) if values else None)
    return sorted(found, key=lambda value: better(value, direction))


def better(value: float | None, direction: str) -> float:
    if value is None:
        return float("-inf")
    return value if direction == "maximize" else -value


def quantile(ordered: Sequence[float | None], share: float) -> float | None:
    """The first of which this share is at most as good."""
    for place, value in enumerate(ordered, start=1):
        if place / len(ordered) >= share - 1e-12:
            return value
    raise AssertionError


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("pool", POOLS)
def test_mean_and_quantiles_are_those_of_all_draws(
    pool: Sequence[float | None], direction: str
) -> None:
    curve = best_after(pool, direction)
    assert [point.n for point in curve] == list(range(1, len(pool) + 1))
    for point in curve:
        draws = bests(pool, point.n, direction)
        values = [value for value in draws if value is not None]
        if len(values) == len(draws):
            assert point.mean == pytest.approx(sum(values) / len(values))
        else:
            assert point.mean is None
        worse, better_end = quantile(draws, LOW), quantile(draws, HIGH)
        ends = (worse, better_end) if direction == "maximize" else (better_end, worse)
        assert (point.low, point.high) == ends
        assert point.median == quantile(draws, 0.5)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_chance_to_be_ahead_is_that_of_all_pairs_of_draws(n: int, direction: str) -> None:
    first, second = POOLS[2], POOLS[3]
    pairs = list(itertools.product(bests(first, n, direction), bests(second, n, direction)))
    won = 0.0
    for one, other in pairs:
        ahead = better(one, direction) - better(other, direction) if one != other else 0
        won += 0.5 if one == other else float(ahead > 0)
    assert chance_ahead(first, second, n, direction) == pytest.approx(won / len(pairs))
    assert chance_ahead(second, first, n, direction) == pytest.approx(1 - won / len(pairs))
