"""The winner's optimism: by how much the best of several means is better than its configuration,
because it was chosen as the best by the same values.

By a parametric bootstrap: true means as they may be, given what was measured (drawn towards the
mean of all by empirical Bayes, James and Stein 1961, and normal), new values for each, and the best
of these beside its true mean (Efron 2011 discusses the bias). Where a single one stands out from
many that are equal, it says too much, up to twice as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from cifar_hpo.analysis.variances import Group, moderated

DRAWS = 4_000
"""Of which the mean is taken; it then varies by some 1 % of a standard error."""

MAX_NUMBERS = 4_000_000
"""That are drawn at once; of very many configurations there are fewer draws."""


def optimism(groups: Sequence[Group], direction: str = "maximize") -> float | None:
    """By how much the best one's mean is better than other seeds would give, in the metric's unit.

    groups: all configurations among which it was chosen, their values by seed. None where there
    are fewer than two, or of none the spread over seeds is known; one with a single seed is taken
    to spread as the others do.
    """
    variances = moderated(groups) if groups else []
    known = [variance for variance in variances if variance is not None]
    if len(groups) < 2 or not known:
        return None
    sign = -1 if direction == "minimize" else 1
    means = sign * np.array([fmean(group.values()) for group in groups])
    spread = fmean(variance.value for variance in known)
    of_means = []
    for variance, group in zip(variances, groups, strict=True):
        of_means.append((variance.value if variance else spread) / len(group))
    errors = np.array(of_means)  # (configuration,), squared
    between = max(0.0, float(means.var(ddof=1) - errors.mean()))
    total = between + errors
    weight = np.divide(between, total, out=np.ones_like(total), where=total > 0)
    likely = means.mean() + weight * (means - means.mean())
    random = np.random.default_rng(0)
    count = max(100, min(DRAWS, MAX_NUMBERS // len(groups)))
    shape = count, len(groups)
    true = likely + np.sqrt(weight * errors) * random.normal(size=shape)
    measured = true + np.sqrt(errors) * random.normal(size=shape)
    chosen = measured.argmax(axis=1)
    draws = np.arange(count)
    return max(0.0, float((measured[draws, chosen] - true[draws, chosen]).mean()))
