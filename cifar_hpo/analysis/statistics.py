"""Is it luck? `interval` says how far the seeds let a mean lie, `chance` and `against_best` which
means differ, `replicas_needed` how many would tell."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
POWER = 0.8
MOST = 200
"""Replicas beyond which nobody would train them."""


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean over all seeds lies, at 95 %: Student's t over replicas. None for a single
    replica, which cannot tell."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def against_best(groups: Sequence[Mapping[int, float]]) -> list[float | None]:
    """For each group of values by seed the chance of so large a gap to the first group if there
    were none; None where it can't be told.

    Paired t-tests over the seeds that two groups share, Welch's where they share fewer than two.
    Because the first is the best of these very values, all pairs count in the correction for many
    comparisons, which is Holm's (1979): if no group differs, at least one is said to in at most 5 %
    of studies.
    """
    pairs = list(itertools.combinations(range(len(groups)), 2))
    chances = dict(
        zip(
            pairs,
            holm([p_value(groups[one], groups[other]) for one, other in pairs]),
            strict=True,
        )
    )
    return [1.0 if place == 0 else chances[0, place] for place in range(len(groups))]


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Each chance as it counts beside the others, by Holm's steps; statsmodels has these too, but
    collects all garbage each time."""
    known = sorted((chance, place) for place, chance in enumerate(chances) if chance is not None)
    found: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (chance, place) in enumerate(known):
        found[place] = highest = min(1.0, max(chance * (len(known) - rank), highest))
    return found


def p_value(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """How likely so large a gap between two groups of values by seed would be by luck alone; None
    where it can't be told."""
    shared = sorted(one.keys() & other.keys())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where values do not vary at all
        if len(shared) >= 2:
            first, second = ([group[seed] for seed in shared] for group in (one, other))
            found = 1.0 if first == second else float(stats.ttest_rel(first, second).pvalue)
        elif len(one) >= 2 and len(other) >= 2:
            found = float(
                stats.ttest_ind(list(one.values()), list(other.values()), equal_var=False).pvalue
            )
        else:
            return None
    return 1.0 if math.isnan(found) else found


def replicas_needed(gap: float, spread: float, pairs: int = 1) -> int | None:
    """Replicas of each of two configurations with which a gap is found four times in five; None for
    more than anyone would train.

    spread: the standard deviation over seeds. The test is the paired one above; seeds are taken to
    help no pair. pairs: how many pairs are compared at once; the first of Holm's steps is assumed.
    """
    if gap <= 0 or spread <= 0:
        return None if gap <= 0 else 2
    effect = gap / (spread * math.sqrt(2))
    test = TTestPower()
    return next(
        (n for n in range(2, MOST + 1) if test.power(effect, n, (1 - CONFIDENCE) / pairs) >= POWER),
        None,
    )
