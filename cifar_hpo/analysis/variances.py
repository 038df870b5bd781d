"""How far seeds carry each configuration: `shared_variances` gives each a `Variance`, which its own
replicas and those of all others tell together.

Three replicas tell a variance to within a factor of forty, so each configuration's is drawn towards
that of all: empirical Bayes, the moderated t of Smyth (2004, Statistical Applications in Genetics
and Molecular Biology 3:3). The prior counts as many degrees of freedom as the spread of the log
variances leaves beyond what chance gives. With few configurations that spread is hardly known, and
taking the variances for equal where they are not is what makes a test say too much. So:

- the spread is taken one standard error larger than it is estimated, and so the prior weaker
  (where configurations are compared; the interval of one mean has it as it is estimated);
- the variance of all is their mean, not Smyth's from the logarithms, which with two replicas is
  three times as uncertain;
- no variance counts more degrees of freedom than all replicas have together, and that of a gap
  between two not more than lies between these and Welch's of the two alone (1947), nearer to the
  former the stronger the prior;
- a variance of zero, as rounded shares can have, counts in the spread as one that chance makes less
  than 1 time in 100.

Nothing pairs the replicas of two configurations by itself: the same seed draws other weights for
another network. Where one does (one split of the images by seed, say), the seeds move all
configurations alike, and `seed_effect` tests that over all of them at once, by the two-way layout.
Where that shows at 1 %, the seeds' means are taken out of the values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Group = Mapping[int, float]
"""A configuration's values by seed."""

PAIRING_SIGNIFICANCE = 0.01
"""Of the test by which pairing is shown to help: far below 5 %, because a pairing that is only luck
makes all errors look smaller."""

SPREAD_MARGIN = 1.0
"""Standard errors by which the spread of the log variances is taken larger than it is estimated.
tests/benchmarks/error_rates.md shows what this holds."""

_LEAST = 0.01
"""The chance that the least variance that counts in the spread would be smaller yet."""


@dataclass(frozen=True)
class Variance:
    """Of one configuration's values over seeds.

    value: drawn towards that of all. degrees: of freedom that it rests on, the prior's among them.
    replicas: how many there are of the configuration. own, own_degrees: what its replicas alone
    tell.
    """

    value: float
    degrees: float
    replicas: int
    own: float = 0.0
    own_degrees: float = 0.0

    @property
    def of_mean(self) -> float:
        return self.value / self.replicas


@dataclass(frozen=True)
class Variances:
    """Of several configurations; None for one whose replicas are fewer than two.

    total_degrees: of freedom, of all replicas together. is_paired: whether the means of the seeds
    were taken out, since they are shown to move all configurations alike.
    """

    by_group: Sequence[Variance | None]
    total_degrees: float
    is_paired: bool

    def of_gap(self, first: int, second: int) -> Variance | None:
        """The variance of the gap between the means of two of them, by their places; its degrees of
        freedom are Satterthwaite's (1946). None where one of them has no variance."""
        one, other = self.by_group[first], self.by_group[second]
        if one is None or other is None:
            return None
        total = one.of_mean + other.of_mean
        if total == 0:
            return Variance(0.0, self.total_degrees, 1)
        degrees = total**2 / (one.of_mean**2 / one.degrees + other.of_mean**2 / other.degrees)
        return Variance(total, min(degrees, self._most_degrees(one, other)), 1)

    def _most_degrees(self, one: Variance, other: Variance) -> float:
        """Between those of all replicas and Welch's of these two, by the weight of the prior."""
        parts = []
        for each in (one, other):
            parts.append((each.own / each.replicas, each.own_degrees))
        total = sum(part for part, _ in parts)
        welch = sum(degrees for _, degrees in parts)
        if total > 0:
            welch = total**2 / sum(part**2 / degrees for part, degrees in parts)
        own = (one.own_degrees + other.own_degrees) / 2
        weight = own / max((one.degrees + other.degrees) / 2, own)
        return (1 - weight) * self.total_degrees + weight * welch


def shared_variances(
    groups: Sequence[Group], *, pairing: bool = True, margin: float = SPREAD_MARGIN
) -> Variances:
    """The variance of each of these configurations' values over seeds.

    pairing: whether to look for an effect of the seeds that all have. margin: of the spread.
    """
    is_paired = pairing and _is_paired(groups)
    values = [np.array([group[seed] for seed in sorted(group)]) for group in groups]
    shrink = 1.0
    if is_paired:
        table = np.stack(values)  # (configuration, seed)
        values = list(table - table.mean(axis=0) + table.mean())
        shrink = 1 - 1 / len(groups)  # of variance and degrees of freedom
    replicas = np.array([len(each) for each in values])
    has_variance = replicas >= 2
    degrees = np.array([max(0, count - 1) * shrink for count in replicas])
    variances = np.zeros(len(values))
    for place in has_variance.nonzero()[0]:
        variances[place] = values[place].var(ddof=1) / shrink
    total = float(degrees.sum())
    if not total:
        return Variances([None] * len(groups), 0.0, is_paired=False)
    of_all = float((variances * degrees).sum() / total)
    prior = prior_degrees(variances[has_variance], degrees[has_variance], margin)
    by_group: list[Variance | None] = []
    for variance, own, count in zip(variances, degrees, replicas, strict=True):
        if count < 2:
            by_group.append(None)
            continue
        weight = 1.0 if math.isinf(prior) else prior / (prior + own)
        drawn = weight * of_all + (1 - weight) * float(variance)
        prior_and_own = min(prior + float(own), total)
        by_group.append(Variance(drawn, prior_and_own, int(count), float(variance), float(own)))
    return Variances(by_group, total, is_paired)


def prior_degrees(
    variances: NDArray[np.float64], degrees: NDArray[np.float64], margin: float = SPREAD_MARGIN
) -> float:
    """How many degrees of freedom the variance of all counts beside each configuration's own.

    variances, degrees: (configuration,), degrees above 0. margin: standard errors by which their
    spread is taken larger. Infinite where there is one alone, or no spread beyond chance.
    """
    count = len(variances)
    of_all = float((variances * degrees).sum() / degrees.sum())
    if count < 2 or of_all == 0:
        return math.inf
    least = of_all * stats.chi2.ppf(_LEAST, degrees) / degrees
    logarithms = np.log(np.maximum(variances, least))
    logarithms = logarithms - special.digamma(degrees / 2) + np.log(degrees / 2)
    by_chance = float(special.polygamma(1, degrees / 2).mean())
    spread = float(logarithms.var(ddof=1)) - by_chance
    spread = max(spread, 0.0) + margin * by_chance * math.sqrt(2 / (count - 1))
    return 2 * _inverse_trigamma(spread) if spread > 0 else math.inf


def _inverse_trigamma(value: float) -> float:
    """Where the trigamma function has a value above 0, by Newton's steps (Smyth 2004, appendix)."""
    place = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, place))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, place))
        place += step
        if abs(step) < 1e-9 * place:
            break
    return place


def seed_effect(groups: Sequence[Group]) -> float | None:
    """How likely seeds would move all configurations so much alike by luck alone: the p-value of
    the F test of the seeds in the two-way layout without replication (Fisher 1925).

    None where not all configurations have the same seeds, two or more of each.
    """
    seeds = groups[0].keys() if groups else set()
    if len(groups) < 2 or len(seeds) < 2 or any(group.keys() != seeds for group in groups):
        return None
    table = np.array([[group[seed] for seed in sorted(seeds)] for group in groups])
    by_seed = table.mean(axis=0)  # (seed,)
    residuals = table - table.mean(axis=1, keepdims=True) - by_seed + table.mean()
    degrees = len(seeds) - 1, (len(seeds) - 1) * (len(groups) - 1)
    of_seeds = len(groups) * float(((by_seed - by_seed.mean()) ** 2).sum()) / degrees[0]
    of_residuals = float((residuals**2).sum()) / degrees[1]
    if of_residuals <= 1e-12 * max(of_seeds, 1e-300):
        return 0.0 if of_seeds > 0 else 1.0
    return float(stats.f.sf(of_seeds / of_residuals, *degrees))


def _is_paired(groups: Sequence[Group]) -> bool:
    p = seed_effect([group for group in groups if len(group) >= 2])
    has_all = all(len(group) >= 2 for group in groups)
    return has_all and p is not None and p < PAIRING_SIGNIFICANCE


def moderated(values: Sequence[Group]) -> list[Variance | None]:
    """The variances alone, for means that are compared with nothing: seeds are left in them."""
    return list(shared_variances(values, pairing=False, margin=0.0).by_group)


def mean_interval(
    group: Group, variance: Variance | None, confidence: float
) -> tuple[float, float] | None:
    """Limits of a configuration's mean over all seeds; None without a variance."""
    if variance is None or not group:
        return None
    mean = float(np.mean(list(group.values())))
    return around(mean, dataclasses.replace(variance, replicas=len(group)), confidence)


def around(estimate: float, variance: Variance, confidence: float) -> tuple[float, float]:
    """Limits of what is estimated, by Student's t."""
    reach = float(stats.t.ppf((1 + confidence) / 2, variance.degrees))
    reach *= math.sqrt(variance.of_mean)
    return estimate - reach, estimate + reach
