"""Is a difference luck? `confidence_interval` says how far the seeds let a mean lie, `p_value` and
`against_best` which means differ, `mean_gap` by how much and `gap_interval` within which limits,
`replicas_needed` how many replicas would show it.

A group is a metric by seed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from scipy import stats
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
POWER = 0.8
MAX_REPLICAS = 200
"""Replicas above which none is recommended: training them would take too long."""


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits of the mean over all seeds, at 95 %: Student's t over replicas.

    None for fewer than two replicas, whose spread is not known.
    """
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def against_best(groups: Sequence[Mapping[int, float]]) -> list[float | None]:
    """For each group the p-value of its gap to the first group, corrected; 1 for the first.

    None where there are too few seeds for a test. The tests are those of `p_value`. Because the
    first is the best of these very values, all pairs count in the correction for many comparisons,
    which is Holm's (1979): if no group differs, at least one is said to in at most 5 % of studies.
    """
    if not groups:
        return []
    pairs = list(itertools.combinations(range(len(groups)), 2))
    uncorrected = [p_value(groups[first], groups[second]) for first, second in pairs]
    corrected = dict(zip(pairs, holm(uncorrected), strict=True))
    to_first: list[float | None] = [1.0]
    for place in range(1, len(groups)):
        to_first.append(corrected[0, place])
    return to_first


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values corrected by Holm's steps for how many there are; None stays None.

    statsmodels has this too, but collects all garbage at each call.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, p * (len(known) - rank))
        corrected[place] = min(1.0, largest)
    return corrected


def shared_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> list[int]:
    """The seeds over which two groups are compared in pairs; none where they share fewer than two,
    and each is taken whole."""
    shared = sorted(first.keys() & second.keys())
    return shared if len(shared) >= 2 else []


def mean_gap(first: Mapping[int, float], second: Mapping[int, float]) -> float:
    """How much greater the mean of the first group is, over the same seeds as `p_value`."""
    shared = shared_seeds(first, second)
    means = []
    for group in (first, second):
        means.append(fmean(group[seed] for seed in shared or group))
    return means[0] - means[1]


def gap_interval(
    first: Mapping[int, float], second: Mapping[int, float]
) -> tuple[float, float] | None:
    """Limits of `mean_gap` over all seeds, at 95 %, by the test of `p_value` for this pair alone.

    None where there is no such test.
    """
    shared = shared_seeds(first, second)
    if not shared and (len(first) < 2 or len(second) < 2):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where values do not vary at all
        if shared:
            pair = [first[seed] for seed in shared], [second[seed] for seed in shared]
            test = stats.ttest_rel(*pair)
        else:
            groups = list(first.values()), list(second.values())
            test = stats.ttest_ind(*groups, equal_var=False)
        low, high = test.confidence_interval(CONFIDENCE)
    if math.isnan(low) or math.isnan(high):
        gap = mean_gap(first, second)
        return gap, gap
    return float(low), float(high)


def p_value(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """How likely so large a gap between the means of two groups would be by luck alone.

    A paired t-test over the seeds that both have, Welch's where they share fewer than two. None
    where neither can be made: the groups share fewer than two seeds, and one has fewer than two.
    """
    shared = shared_seeds(first, second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where values do not vary at all
        if shared:
            p = _paired([first[seed] for seed in shared], [second[seed] for seed in shared])
        elif len(first) >= 2 and len(second) >= 2:
            p = _welch(list(first.values()), list(second.values()))
        else:
            return None
    return 1.0 if math.isnan(p) else p


def _paired(first: Sequence[float], second: Sequence[float]) -> float:
    if first == second:
        return 1.0
    return float(stats.ttest_rel(first, second).pvalue)


def _welch(first: Sequence[float], second: Sequence[float]) -> float:
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def replicas_needed(gap: float, spread: float, pairs: int = 1) -> int | None:
    """Replicas of each of two configurations with which a gap is found four times in five.

    spread: the standard deviation over seeds. The test is the paired one of `p_value`; seeds are
    taken to help no pair. pairs: how many pairs are compared at once; the first of Holm's steps is
    assumed. None for more than MAX_REPLICAS, or where there is no gap.
    """
    if gap <= 0:
        return None
    if spread <= 0:
        return 2
    effect_size = gap / (spread * math.sqrt(2))
    significance = (1 - CONFIDENCE) / pairs
    test = TTestPower()
    for replicas in range(2, MAX_REPLICAS + 1):
        if test.power(effect_size, replicas, significance) >= POWER:
            return replicas
    return None
