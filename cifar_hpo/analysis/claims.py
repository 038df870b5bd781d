"""What is claimed of two configurations, with its figures: a `Claim`.

`claims` has those on which a study's verdict rests, one for each configuration beside the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cifar_hpo.analysis.comparison import TOP_K, Comparison
from cifar_hpo.analysis.statistics import (
    CONFIDENCE,
    gap_interval,
    mean_gap,
    p_value,
    shared_seeds,
)

Shown = Literal["better", "worse", "tied", "unknown"]

PAIRED, WELCH = "paired t", "Welch's t"


@dataclass(frozen=True)
class Claim:
    """How the first of two configurations stands beside the second.

    shows: what is shown of the first one, at 95 %; unknown where there are too few seeds for a
    test. gap: by how much the first one's mean is better, in the metric's unit, over the seeds that
    were compared; less than 0 where it is worse. interval: of the gap over all seeds, at 95 %, for
    this pair alone. p: how likely so large a gap is by luck alone, by Holm's correction for `pairs`
    pairs; 1 where the best is not ahead over these seeds. n, n_second: how many seeds of each were
    compared. test: how; empty where it could not be.
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
    pairs = len(top) * (len(top) - 1) // 2
    made = []
    for other in top[1:]:
        made.append(
            _claim(
                (best.name, other.name),
                (best.values, other.values),
                comparison.directions[0],
                p=other.p_value,
                pairs=pairs,
            )
        )
    return made


def claim(
    first: str,
    values: Mapping[int, float],
    second: str,
    second_values: Mapping[int, float],
    direction: str,
) -> Claim:
    """Two configurations that were not chosen from among others, by their values of each seed."""
    p = p_value(values, second_values)
    return _claim((first, second), (values, second_values), direction, p=p, pairs=1)


def _claim(
    names: tuple[str, str],
    groups: tuple[Mapping[int, float], Mapping[int, float]],
    direction: str,
    *,
    p: float | None,
    pairs: int,
) -> Claim:
    gap, interval = mean_gap(*groups), gap_interval(*groups)
    if direction == "minimize":
        gap = -gap
        interval = interval and (-interval[1], -interval[0])
    shared = shared_seeds(*groups)
    shows: Shown = "tied"
    if p is None:
        shows = "unknown"
    elif p <= 1 - CONFIDENCE:
        shows = "better" if gap > 0 else "worse"
    test = PAIRED if shared else WELCH
    return Claim(
        first=names[0],
        second=names[1],
        shows=shows,
        gap=gap,
        interval=interval,
        p=p,
        n=len(shared or groups[0]),
        n_second=len(shared or groups[1]),
        test="" if p is None else test,
        pairs=pairs,
    )
