"""What each parameter does: `importances` says how much of the metric's variation it explains, each
an `Importance`, and `choice_mean` how the configurations with one choice do together.

On a complete grid the variation is taken apart by a linear model with interactions, over all
replicas (analysis of variance, type II). A share is ω² (Hays 1963), which unlike η² is not raised
by chance; its interval is that of the noncentral F distribution (Steiger 2004), the other shares
taken as they are. What remains is the seeds'.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import optimize, stats

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.statistics import CONFIDENCE, confidence_interval
from cifar_hpo.analysis.variances import Variance, around

MIN_TRIALS = 30
"""Of a sampled space, below which nothing is said about importance."""

MAX_ORDER = 3
"""Of interactions: of more parameters than that, only pairs are in the model."""

MIN_MEANS = 5
"""Configurations with one seed each, below which the interval of their mean would say more of their
number than of the parameter."""

SEEDS = "seeds"
"""What is explained by no parameter."""


@dataclass(frozen=True)
class Importance:
    """How much of the variation a parameter explains, or several together beyond each alone.

    keys: of these; none for the seeds. share: 0 to 1. interval: at 95 %; None where seeds tell
    nothing about it.
    """

    keys: tuple[str, ...]
    share: float
    interval: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return " × ".join(self.keys) or SEEDS


def is_complete_grid(comparison: Comparison) -> bool:
    """Whether each combination of the values that occur has a configuration that is complete."""
    keys = varied_keys(comparison)
    cells = [_cell(configuration, keys) for configuration in comparison.complete]
    if not keys or any(None in cell for cell in cells) or len(comparison.metrics) > 1:
        return False
    combinations = math.prod(len({cell[place] for cell in cells}) for place in range(len(keys)))
    return len(comparison.finished) == len(set(cells)) == len(cells) == combinations


def varied_keys(comparison: Comparison) -> list[str]:
    """The keys that have several values among the finished configurations."""
    varied = []
    for key in comparison.keys:
        values = {str(configuration.params.get(key)) for configuration in comparison.finished}
        if len(values) > 1:
            varied.append(key)
    return varied


def _cell(configuration: Configuration, keys: Sequence[str]) -> tuple[str | None, ...]:
    params = configuration.params
    return tuple(str(params[key]) if key in params else None for key in keys)


def importances(comparison: Comparison) -> list[Importance]:
    """Of a complete grid's parameters and their interactions, the largest first and the seeds last.

    Empty where the grid is not complete, or has too few values to tell parameters from seeds.
    """
    if not is_complete_grid(comparison):
        return []
    keys = varied_keys(comparison)
    columns: dict[str, list[str]] = {f"x{place}": [] for place in range(len(keys))}
    values: list[float] = []
    for configuration in comparison.complete:
        cell = _cell(configuration, keys)
        for value in configuration.values.values():
            values.append(value)
            for place, choice in enumerate(cell):
                columns[f"x{place}"].append(str(choice))
    order = _order(comparison, keys)
    if not order:
        return []
    return _explained(keys, columns, values, order)


def _order(comparison: Comparison, keys: Sequence[str]) -> int:
    """How many parameters the largest interaction has that leaves something to the seeds; 0 for
    none."""
    highest = len(keys) if len(keys) <= MAX_ORDER else 2
    values = sum(len(configuration.values) for configuration in comparison.complete)
    cells = [_cell(configuration, keys) for configuration in comparison.complete]
    choices = [len({cell[place] for cell in cells}) for place in range(len(keys))]
    for order in range(highest, 0, -1):
        degrees = 1
        for size in range(1, order + 1):
            for together in itertools.combinations(choices, size):
                degrees += math.prod(count - 1 for count in together)
        if degrees < values:
            return order
    return 0


def _explained(
    keys: Sequence[str], columns: dict[str, list[str]], values: list[float], order: int
) -> list[Importance]:
    """keys: of the columns x0, x1, …, (value,) each."""
    import pandas as pd  # these two take a second
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    frame = pd.DataFrame({**columns, "y": values})
    factors = " + ".join(f"C({column})" for column in columns)
    model = ols(f"y ~ ({factors})**{order}" if order > 1 else f"y ~ {factors}", frame).fit()
    table = anova_lm(model, typ=2)
    squares, degrees = table["sum_sq"].to_dict(), table["df"].to_dict()
    error, error_degrees = squares.pop("Residual"), degrees["Residual"]
    of_all = sum(squares.values()) + error
    if of_all <= 0:
        return []
    mean_error = error / error_degrees
    count = len(values)
    effects = {}
    for term, square in squares.items():
        effects[term] = max(0.0, square - degrees[term] * mean_error) / (of_all + mean_error)
    explained = []
    for term, share in effects.items():
        interval = None
        if mean_error > 1e-12 * of_all:
            statistic = square_ratio(squares[term], degrees[term], mean_error)
            others = sum(effects.values()) - share
            limits = noncentrality(statistic, degrees[term], error_degrees)
            low, high = (limit / (limit + count) * (1 - others) for limit in limits)
            interval = min(low, share), max(high, share)
        names = tuple(keys[int(part.strip("C()x"))] for part in term.split(":"))
        explained.append(Importance(names, share, interval))
    explained.sort(key=lambda importance: -importance.share)
    return [*explained, Importance((), max(0.0, 1 - sum(effects.values())))]


def square_ratio(squares: float, degrees: float, mean_error: float) -> float:
    """The F statistic of a sum of squares."""
    return squares / degrees / mean_error


def noncentrality(statistic: float, degrees: float, error_degrees: float) -> tuple[float, float]:
    """Limits of the noncentrality of F at 95 %, given its statistic."""
    limits = []
    for below in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2):

        def beyond(noncentral: float, below: float = below) -> float:
            return float(stats.ncf.cdf(statistic, degrees, error_degrees, noncentral)) - below

        high = 4 * statistic * degrees + 50
        if stats.f.cdf(statistic, degrees, error_degrees) <= below:
            limits.append(0.0)
        elif beyond(high) > 0:
            limits.append(high)
        else:
            limits.append(float(optimize.brentq(beyond, 1e-9, high)))
    return limits[0], limits[1]


def choice_mean(
    configurations: Sequence[Configuration],
) -> tuple[float, tuple[float, float] | None]:
    """The mean over configurations that share a choice, and its limits at 95 %.

    With several seeds of each the limits are about seeds: what these configurations would give with
    others. With one, they are about configurations, and None for fewer than MIN_MEANS.
    """
    means = [configuration.value for configuration in configurations]
    known = [mean for mean in means if mean is not None]
    mean = fmean(known)
    variances = [configuration.variance for configuration in configurations]
    if not all(variances):
        limits = confidence_interval(known) if len(known) >= MIN_MEANS else None
        if len(configurations) == 1:
            limits = configurations[0].confidence_interval
        return mean, limits
    parts = [variance for variance in variances if variance is not None]
    return mean, around(mean, _of_mean_of_means(parts), CONFIDENCE)


def _of_mean_of_means(parts: Sequence[Variance]) -> Variance:
    """The variance of a mean of means, with Satterthwaite's degrees of freedom."""
    count = len(parts)
    total = sum(part.of_mean for part in parts) / count**2
    if total == 0:
        return Variance(0.0, 1.0, 1)
    degrees = total**2 / sum((part.of_mean / count**2) ** 2 / part.degrees for part in parts)
    return Variance(total, degrees, 1)
