"""One mean, and what would tell two apart: `confidence_interval` says how far the seeds let a mean
lie, `replicas_needed` how many of them would show a gap, `holm` corrects p-values of comparisons
that were planned.

`separation` compares the configurations of a study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.studentized import critical_range

CONFIDENCE = 0.95
POWER = 0.8
SMALLEST_P = 1e-4
"""Of a p-value that is written out: smaller ones depend on the far tails of distributions, which
are normal near their middle at best."""

MAX_REPLICAS = 200
"""Replicas above which none is recommended: training them would take too long."""


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits of the mean over all seeds, at 95 %: Student's t over these replicas alone.

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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values corrected by Holm's steps (1979) for how many there are; None stays None.

    statsmodels has this too, but collects all garbage at each call.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, p * (len(known) - rank))
        corrected[place] = min(1.0, largest)
    return corrected


def replicas_needed(
    gap: float, spread: float, compared: int = 2, looks: Looks | None = None, present: int = 1
) -> int | None:
    """Replicas of each configuration with which a gap to the best is found four times in five.

    spread: the standard deviation over seeds, taken for that of all. compared: how many
    configurations are. looks: the plan of the study that goes on; a new one is looked at once
    unless said. present: replicas that there are, which did not show it. None for more than
    MAX_REPLICAS, or where there is no gap.
    """
    if gap <= 0:
        return None
    if spread <= 0:
        return present + 1
    for replicas in range(present + 1, MAX_REPLICAS + 1):
        degrees = compared * (replicas - 1)
        level = (looks or Looks(replicas, replicas)).level(replicas)
        critical = critical_range(level, compared, degrees) / math.sqrt(2)
        effect = gap / (spread * math.sqrt(2 / replicas))
        if stats.nct.sf(critical, degrees, effect) >= POWER:
            return replicas
    return None


def p_text(p_value: float) -> str:
    """A p-value in two digits, `p = 0.012`, or `p < 0.0001`."""
    return f"p < {SMALLEST_P:g}" if p_value < SMALLEST_P else f"p = {p_value:.2g}"
