"""What is claimed of two configurations, with its figures: a `Claim`.

`claims` has those on which a study's verdict rests, one for each configuration beside the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cifar_hpo.analysis.comparison import Comparison
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import TOP_K, Standing, between
from cifar_hpo.analysis.variances import shared_variances

Shown = Literal["better", "worse", "tied", "unknown"]

MODERATED, PAIRED = "moderated t", "moderated t, paired by seed"
"""With variances that configurations share; and with the seeds' means taken out of the values."""


@dataclass(frozen=True)
class Claim:
    """How the first of two configurations stands beside the second.

    shows: what is shown of the first one, at 95 %; unknown where there are too few seeds for a
    test. gap: by how much the first one's mean is better, in the metric's unit; less than 0 where
    it is worse. interval: of the gap over all seeds, at 95 %, for this pair alone. p: how likely so
    large a gap is by luck alone, among `pairs` pairs and at all numbers of seeds so far. n,
    n_second: how many seeds of each were compared. test: how; empty where it could not be.
    """

    first: str
    second: str
    shows: Shown
    gap: float
    interval: tuple[float, float] | None
    p: float | None
    n: int
    n_second: int
    test: str
    pairs: int = 1


def claims(comparison: Comparison) -> list[Claim]:
    """The best configuration beside each other one that it was compared with, the second first.

    None for a study of several metrics, whose differences are not tested.
    """
    top = comparison.complete[:TOP_K]
    if len(comparison.metrics) > 1 or not top:
        return []
    best = top[0]
    pairs = comparison.compared * (comparison.compared - 1) // 2
    made = []
    for other in top[1:]:
        if other.standing is not None:
            made.append(
                _claim(
                    (best.name, other.name),
                    (len(best.values), len(other.values)),
                    other.standing.gap,
                    other.standing,
                    pairs=pairs,
                    is_paired=comparison.is_paired,
                )
            )
    return made


def claim(
    first: str,
    values: Mapping[int, float],
    second: str,
    second_values: Mapping[int, float],
    *,
    direction: str,
    looks: Looks,
) -> Claim:
    """Two configurations by their values of each seed, each taken as it is: how it was chosen in
    its study is not accounted for. looks: the plan of the replicas."""
    groups = values, second_values
    gap, standing = between(groups, 0, 1, looks)
    if direction == "minimize":
        gap = -gap
    is_paired = shared_variances(groups).is_paired
    counts = len(values), len(second_values)
    return _claim((first, second), counts, gap, standing, pairs=1, is_paired=is_paired)


def _claim(
    names: tuple[str, str],
    counts: tuple[int, int],
    gap: float,
    standing: Standing,
    *,
    pairs: int,
    is_paired: bool,
) -> Claim:
    """gap: by how much the first is better; that of the standing has no sign."""
    interval = standing.interval
    shows: Shown = "tied"
    if standing.p_value is None:
        shows = "unknown"
    elif standing.is_separated:
        shows = "better" if gap > 0 else "worse"
    if interval and gap < 0:
        interval = -interval[1], -interval[0]
    test = PAIRED if is_paired else MODERATED
    return Claim(
        first=names[0],
        second=names[1],
        shows=shows,
        gap=gap,
        interval=interval,
        p=standing.p_value,
        n=counts[0],
        n_second=counts[1],
        test="" if standing.p_value is None else test,
        pairs=pairs,
    )
