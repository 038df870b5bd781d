"""How good the best of so many tried configurations is: `best_after` of one study, and by
`chance_ahead` of one beside another.

A study's finished configurations are a pool; n of them are drawn at random without replacement, and
the best counts. Its distribution is known exactly: of the values in their order, the best of n is
at most the i-th with probability C(i, n) / C(N, n). Dodge et al. ("Show Your Work: Improved
Reporting of Experimental Results", EMNLP 2019) draw with replacement, which is biased; without it
the mean is the unbiased estimator of Tang et al. ("Showing Your Work Doesn't Always Work", ACL
2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOW, HIGH = 0.05, 0.95
"""The quantiles between which the band of nine draws in ten lies."""


@dataclass(frozen=True)
class BestAfter:
    """The best of n drawn configurations.

    mean: its expectation; None where all that are drawn may be without a value. low, median, high:
    its quantiles; None where so many draws have no value at all.
    """

    n: int
    mean: float | None
    low: float | None
    median: float | None
    high: float | None


def best_after(values: Sequence[float | None], direction: str) -> list[BestAfter]:
    """The best of 1, 2, … of these values, drawn without replacement, up to all of them.

    values: of a pool; None for a configuration without one, such as one that failed, which is drawn
    like the others and is never best. direction: maximize or minimize.
    """
    pool = _worst_first(values, direction)
    curve = []
    for n in range(1, len(pool) + 1):
        chances = _chances(len(pool), n)
        mean = None
        if all(value is not None for value, chance in zip(pool, chances, strict=True) if chance):
            mean = math.fsum(
                chance * (value or 0.0) for value, chance in zip(pool, chances, strict=True)
            )
        # The worse end of a band is the lower quantile from the worst on.
        worse, median, better = (_quantile(pool, chances, share) for share in (LOW, 0.5, HIGH))
        low, high = (worse, better) if direction == "maximize" else (better, worse)
        curve.append(BestAfter(n, mean, low, median, high))
    return curve


def chance_ahead(
    first: Sequence[float | None], second: Sequence[float | None], n: int, direction: str
) -> float:
    """How likely the best of n of the first pool is better than the best of n of the second; half
    of it where they are equal.

    n: at most the size of each.
    """
    pools = [_worst_first(values, direction) for values in (first, second)]
    chances = [_chances(len(pool), n) for pool in pools]
    total = 0.0
    for value, chance in zip(pools[0], chances[0], strict=True):
        for other, other_chance in zip(pools[1], chances[1], strict=True):
            total += chance * other_chance * _share_won(value, other, direction)
    return total


def _share_won(value: float | None, other: float | None, direction: str) -> float:
    """1 where a value is better than another one, 0.5 where neither is."""
    key, other_key = _key(value, direction), _key(other, direction)
    if key == other_key:
        return 0.5
    return float(key > other_key)


def _worst_first(values: Sequence[float | None], direction: str) -> list[float | None]:
    return sorted(values, key=lambda value: _key(value, direction))


def _key(value: float | None, direction: str) -> float:
    """Larger for what is better."""
    if value is None:
        return -math.inf
    return value if direction == "maximize" else -value


def _chances(size: int, n: int) -> list[float]:
    """How likely each of a pool, the worst first, is the best of n that are drawn."""
    whole = math.comb(size, n)
    return [math.comb(place, n - 1) / whole for place in range(size)]


def _quantile(pool: Sequence[float | None], chances: Sequence[float], share: float) -> float | None:
    """The first of a pool, the worst first, that the best is at most with this probability."""
    total = 0.0
    for value, chance in zip(pool, chances, strict=True):
        total += chance
        if total >= share - 1e-12:
            return value
    return pool[-1]
