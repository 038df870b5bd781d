"""Which configurations are not yet separated from the best, by how much, and how surely: `separate`
gives each a `Standing`, from its values by seed alone; `between` two that were named beforehand.

The test is t, with variances that all configurations share (`variances`). That the best was chosen
by the same values is accounted for by comparing all pairs: by Tukey's studentized range, step by
step as Ryan, Einot, Gabriel and Welsch do (Welsch 1977). A pair differs where every set of
configurations that holds both is too far apart for its size; sets are judged by the gaps to the
best alone, which says rather less. That it was looked at before is accounted for by `looks`: the
p-value is the least over all numbers of replicas so far, each against its share of 5 %, so that
what is once shown stays shown. (Of two that are named beforehand it may be lost again, where the
one that was behind has overtaken the other.)

Hsu's comparisons with the best (MCB, 1984) were tried instead: with their smaller critical values
they find more, and of ten equal configurations they say in one study of four that one is worse
(tests/benchmarks/error_rates.md), because they promise only that no *unique* best is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.analysis.looks import ERROR, Looks
from cifar_hpo.analysis.studentized import range_p_value
from cifar_hpo.analysis.variances import Group, Variance, around, shared_variances

TOP_K = 10
"""Configurations at the top that are compared with one another; each further one would make all
comparisons less sure."""


@dataclass(frozen=True)
class Standing:
    """How a configuration stands beside the best.

    gap: by how much the best's mean is better, 0 or more. interval: of the gap over all seeds, at
    95 %, for this pair alone. p_value: how likely so large a gap, among all that were compared and
    at all numbers of replicas so far, would be by luck alone; it is worse where this is 5 % or
    less. Both None where one of the two has fewer than two replicas.
    """

    gap: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def is_separated(self) -> bool:
        return self.p_value is not None and self.p_value <= ERROR


@dataclass(frozen=True)
class Separation:
    """The best of several configurations, and how each stands beside it, in the given order.

    best: its place. is_paired: whether the seeds move all alike, and were taken out.
    """

    best: int
    standings: Sequence[Standing]
    is_paired: bool

    @property
    def unseparated(self) -> list[int]:
        """The places of the best and of all that are not shown to be worse, the best first."""
        others = []
        for place, standing in enumerate(self.standings):
            if place != self.best and not standing.is_separated:
                others.append(place)
        return [self.best, *sorted(others, key=lambda place: self.standings[place].gap)]


def separate(
    groups: Sequence[Group],
    direction: str = "maximize",
    looks: Looks | None = None,
    *,
    to_come: int = 0,
    compared: int | None = None,
) -> Separation:
    """How configurations stand beside the best of them, by their values of each seed.

    groups: one or more, of one value or more each; seeds count in their order, and those of all
    configurations need not be the same. looks: the plan of the replicas. to_come: configurations
    of which nothing is known yet and which may be as good. compared: how many of the best are
    compared with one another; all unless said. All of them tell the variances.
    """
    looks = looks or Looks()
    sign = -1 if direction == "minimize" else 1
    signed = [{seed: sign * value for seed, value in group.items()} for group in groups]
    most_compared = compared or len(groups) + to_come
    p_values: list[float | None] = [None] * len(groups)
    for seen, share in _seen_at_looks(signed, looks):
        for place, p in _family_p_values(seen, most_compared, to_come).items():
            known = p_values[place]
            p_values[place] = min(1.0, p / share, 1.0 if known is None else known)
    means = [fmean(group.values()) for group in signed]
    best = int(np.argmax(means))
    variances = shared_variances(signed)
    standings = []
    for place, mean in enumerate(means):
        gap = means[best] - mean
        of_gap = variances.of_gap(best, place)
        if place == best:
            standings.append(Standing(0.0, None, 1.0))
        elif of_gap is None:
            standings.append(Standing(gap, None, None))
        else:
            interval = around(gap, of_gap, 1 - ERROR)
            standings.append(Standing(gap, interval, p_values[place]))
    return Separation(best, standings, variances.is_paired)


def between(
    groups: Sequence[Group], first: int, second: int, looks: Looks
) -> tuple[float, Standing]:
    """By how much the mean of the first of two configurations is greater, and how they stand.

    groups: all configurations that tell the variances, these two by their places among them. They
    are taken for two that were not chosen by these values, so the p-value of the `Standing` is that
    of this pair alone. looks: the plan of the replicas; a look at which the other one of the two
    was ahead shows nothing.
    """
    gap, of_gap = _gap(groups, first, second)
    if of_gap is None:
        return gap, Standing(abs(gap), None, None)
    p = 1.0
    for seen, share in _seen_at_looks(groups, looks):
        gap_then, of_gap_then = _gap(seen, first, second)
        if of_gap_then is not None and gap_then * gap > 0:
            ranges = _ranges([gap_then], [of_gap_then.value])
            p = min(p, float(range_p_value(ranges, 2, of_gap_then.degrees)[0]) / share)
    return gap, Standing(abs(gap), around(abs(gap), of_gap, 1 - ERROR), p)


def _seen_at_looks(
    groups: Sequence[Group], looks: Looks
) -> Iterator[tuple[Sequence[Group], float]]:
    """What is seen at each number of replicas from the first that is tested, and the part of the
    error that this look may make. Seeds count in their order; a configuration that has fewer is
    seen with all that it has."""
    most = max(len(group) for group in groups)
    for replicas in range(min(max(2, looks.first), most), most + 1):
        seen = [{seed: group[seed] for seed in sorted(group)[:replicas]} for group in groups]
        yield seen, looks.level(replicas) / ERROR


def _gap(groups: Sequence[Group], first: int, second: int) -> tuple[float, Variance | None]:
    """The gap of two means, and its variance; None where one of them has a single value."""
    gap = fmean(groups[first].values()) - fmean(groups[second].values())
    return gap, shared_variances(groups).of_gap(first, second)


def _family_p_values(groups: Sequence[Group], compared: int, to_come: int) -> dict[int, float]:
    """The p-values of the gaps to the best of the first `compared`, by place; for this look alone.

    Only of those with two values or more; the others count as some that may be as good.
    """
    means = np.array([fmean(group.values()) for group in groups])
    top = np.argsort(-means, kind="stable")[:compared].tolist()
    variances = shared_variances(groups)
    best, others = top[0], top[1:]
    gaps, of_gaps, places = [], [], []
    for place in others:
        variance = variances.of_gap(best, place)
        if variance is not None:
            places.append(place)
            gaps.append(float(means[best] - means[place]))
            of_gaps.append(variance)
    if not places:
        return {}
    family = min(len(top) + to_come, compared)
    ranges = _ranges(gaps, [variance.value for variance in of_gaps])
    degrees = np.array([variance.degrees for variance in of_gaps])
    adjusted = step_down(ranges, degrees, family)
    return dict(zip(places, adjusted.tolist(), strict=True))


def _ranges(gaps: Sequence[float], variances: Sequence[float]) -> NDArray[np.float64]:
    """Gaps in standard errors of one mean, as the studentized range has them."""
    ranges = []
    for gap, variance in zip(gaps, variances, strict=True):
        if variance > 0:
            ranges.append(abs(gap) * math.sqrt(2 / variance))
        else:
            ranges.append(math.inf if gap else 0.0)
    return np.array(ranges)


def step_down(
    ranges: NDArray[np.float64], degrees: NDArray[np.float64], family: int
) -> NDArray[np.float64]:
    """The p-values of the gaps to the best, corrected for all pairs of a family.

    ranges, degrees: (other,), of each other configuration's gap. family: how many configurations
    there are, the best among them; those that are in no gap may be as good as any. A gap is shown
    where each set of configurations that holds both is shown not to be equal: one of its gaps to
    the best is too large for a set of that size, whose level is Ryan's.
    """
    others = len(ranges)
    adjusted = np.zeros(others)
    for size in range(2, family + 1):
        p = range_p_value(ranges, size, degrees)
        if size < family - 1:
            p = -np.expm1(np.log1p(-np.minimum(p, 1 - 1e-12)) * family / size)
        # The set that shows least has this one, and of the others those with the largest p-values.
        unseen = family - 1 - others
        weakest = np.sort(np.concatenate([p, np.ones(unseen)]))[::-1]
        for place in range(others):
            shown = p[place]
            if size > 2:
                place_in_order = size - 3 if p[place] < weakest[size - 3] else size - 2
                shown = min(shown, weakest[place_in_order])
            adjusted[place] = max(adjusted[place], shown)
    return adjusted
