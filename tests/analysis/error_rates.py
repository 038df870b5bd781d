"""How often the comparison of configurations is wrong, and how often it finds what is there:
studies drawn from known truths, judged by `separate` and by other tests.

    python tests/analysis/error_rates.py [--studies 300] [--page tests/benchmarks/error_rates.md]

The numbers drawn are the same each time. Run by hand, some ten minutes on a core;
tests/analysis/test_error_rates.py runs a few studies of each kind.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cifar_hpo.analysis.looks import ERROR, Looks
from cifar_hpo.analysis.separation import separate
from cifar_hpo.analysis.statistics import holm
from cifar_hpo.analysis.studentized import range_p_value
from cifar_hpo.analysis.variances import Group, mean_interval, moderated, shared_variances
from cifar_hpo.table import Table

Floats = NDArray[np.float64]

CONFIGURATIONS = (2, 4, 10, 20)
SEEDS = (2, 3, 5, 10)
EFFECT = 4.0
"""By how many standard errors of the gap between two means the best is better, where one is."""

UNEQUAL = 3.0
"""The largest standard deviation over the smallest, where they are not equal."""


OF_TWO = 5
"""Times as many studies of two configurations in the table of errors: they are hardest to judge,
and take the least time."""


@dataclass(frozen=True)
class Truth:
    """From what a study's values are drawn: normal numbers around each configuration's mean.

    spread: whether the standard deviations over seeds are equal, or lie between 1 and UNEQUAL, in
    logarithms evenly, without regard to the means. seed_std: of what a seed adds to all alike.
    means: `equal`; `best`, one better than all others; `half`, a better half of equal ones.
    """

    configurations: int
    seeds: int
    spread: str = "equal"
    seed_std: float = 0.0
    means: str = "equal"

    def draw(self, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Means, (configuration,), and values, (configuration, seed)."""
        count = self.configurations
        stds = np.ones(count)
        if self.spread == "unequal":
            stds = random.permutation(np.geomspace(1, UNEQUAL, count))
        gap = EFFECT * math.sqrt(2 / self.seeds) * math.sqrt(float((stds**2).mean()))
        means = np.zeros(count)
        if self.means == "best":
            means[0] = gap
        elif self.means == "half":
            means[: max(2, count // 2)] = 10 * gap
        values = means[:, None] + stds[:, None] * random.normal(size=(count, self.seeds))
        values += self.seed_std * random.normal(size=self.seeds)
        return means, values


def groups_of(values: Floats) -> list[Group]:
    return [dict(enumerate(row.tolist())) for row in values]


Test = Callable[[Floats], Floats]
"""From values, (configuration, seed), the p-value of each configuration's gap to the best of them;
1 for that one."""


def ours(values: Floats, looks: Looks | None = None) -> Floats:
    """As the report has it; looks: one at all seeds unless said."""
    seeds = values.shape[1]
    found = separate(groups_of(values), looks=looks or Looks(seeds, seeds))
    return np.array([standing.p_value for standing in found.standings])


def paired_holm(values: Floats) -> Floats:
    """What the report had until 2026: t in pairs by seed, all pairs by Holm."""
    best = int(values.mean(axis=1).argmax())
    pairs = list(itertools.combinations(range(len(values)), 2))
    first, second = np.array(pairs).T
    gaps = values[first] - values[second]  # (pair, seed)
    seeds = values.shape[1]
    with np.errstate(divide="ignore"):
        t = gaps.mean(axis=1) / (gaps.std(axis=1, ddof=1) / math.sqrt(seeds))
    corrected = holm((2 * stats.t.sf(abs(t), seeds - 1)).tolist())
    p_values = np.ones(len(values))
    for pair, p in zip(pairs, corrected, strict=True):
        if best in pair and p is not None:
            p_values[pair[0] if pair[1] == best else pair[1]] = p
    return p_values


def tukey(values: Floats) -> Floats:
    """One variance for all, and Tukey's range at once: sharp where variances are equal."""
    count, seeds = values.shape
    means = values.mean(axis=1)
    error = math.sqrt(float(values.var(axis=1, ddof=1).mean()) / seeds)
    return range_p_value((means.max() - means) / error, count, count * (seeds - 1))


def best_only(values: Floats) -> Floats:
    """Hsu's comparisons with the best, one variance for all; a p-value of 0 or 1 for worse or not,
    at 5 %."""
    count, seeds = values.shape
    means = values.mean(axis=1)
    error = math.sqrt(2 * float(values.var(axis=1, ddof=1).mean()) / seeds)
    critical = _dunnett(count - 1, count * (seeds - 1))
    return np.where((means.max() - means) / error > critical, 0.0, 1.0)


_CRITICAL: dict[tuple[int, int], float] = {}


def _dunnett(others: int, degrees: int) -> float:
    """The one-sided 5 % point of the largest of several gaps to one mean (Dunnett 1955)."""
    key = others, degrees
    if key not in _CRITICAL:
        random = np.random.default_rng(0)
        normal = random.normal(size=(40_000, others + 1))
        scale = np.sqrt(random.chisquare(degrees, 40_000) / degrees)
        largest = (normal[:, 1:].max(axis=1) - normal[:, 0]) / (math.sqrt(2) * scale)
        _CRITICAL[key] = float(np.quantile(largest, 1 - ERROR))
    return _CRITICAL[key]


def is_wrong(means: Floats, p_values: Floats) -> bool:
    """Whether one of the truly best is said to be worse."""
    said = (p_values <= ERROR) & (means == means.max())
    return bool(said.any())


def share_found(means: Floats, p_values: Floats) -> float:
    """Which share of the truly worse ones is said to be worse."""
    worse = means < means.max()
    return float((p_values[worse] <= ERROR).mean())


Judge = Callable[[Floats, Floats], float]


def rate(truth: Truth, test: Test, judge: Judge, studies: int) -> float:
    """The mean of what the judge says of so many studies."""
    random = np.random.default_rng([truth.configurations, truth.seeds])
    judged = []
    for _ in range(studies):
        means, values = truth.draw(random)
        judged.append(judge(means, test(values)))
    return float(np.mean(judged))


def coverage(truth: Truth, studies: int) -> tuple[float, float]:
    """How often the 95 % interval of a mean, and that of a gap between two, holds the truth."""
    random = np.random.default_rng([truth.configurations, truth.seeds, 1])
    of_means, of_gaps = [], []
    for _ in range(studies):
        means, values = truth.draw(random)
        groups = groups_of(values)
        for mean, group, variance in zip(means, groups, moderated(groups), strict=True):
            low, high = mean_interval(group, variance, 1 - ERROR) or (math.nan, math.nan)
            of_means.append(low <= mean <= high)
        of_gap = shared_variances(groups).of_gap(0, 1)
        assert of_gap is not None
        reach = stats.t.ppf(1 - ERROR / 2, of_gap.degrees) * math.sqrt(of_gap.value)
        error = values[0].mean() - values[1].mean() - means[0] + means[1]
        of_gaps.append(abs(error) <= reach)
    return float(np.mean(of_means)), float(np.mean(of_gaps))


def percent(share: float, *, is_outside: bool = False) -> str:
    text = f"{100 * share:.1f} %"
    return f"**{text}**" if is_outside else text


def too_many(share: float, studies: int) -> bool:
    """Whether errors are more than 5 %, and more than chance makes of 5 %."""
    return share > ERROR + 2 * math.sqrt(ERROR * (1 - ERROR) / studies)


Kinds = Sequence[tuple[str, str, float]]

KINDS: Kinds = (("equal", "equal", 0.0), ("unequal", "unequal", 0.0), ("seeds", "equal", 2.0))
"""Title, `spread` and `seed_std` of a truth."""


def errors(studies: int) -> Table:
    """All equal: how often one is said to be worse. A better half: how often one of it is."""
    columns = ["configurations", "seeds"]
    columns += ["equal variances", "unequal", "moved by seeds", "better half, equal", "unequal"]
    columns += ["paired t, Holm: equal", "unequal", "Tukey: unequal", "MCB: equal"]
    rows = []
    for count, seeds in itertools.product(CONFIGURATIONS, SEEDS):
        row = [str(count), str(seeds)]
        equal, unequal = Truth(count, seeds), Truth(count, seeds, "unequal")
        cases: list[tuple[Truth, Test]] = [
            (equal, ours),
            (unequal, ours),
            (Truth(count, seeds, seed_std=2.0), ours),
            (Truth(count, seeds, means="half"), ours),
            (Truth(count, seeds, "unequal", means="half"), ours),
            (equal, paired_holm),
            (unequal, paired_holm),
            (unequal, tukey),
            (equal, best_only),
        ]
        drawn = studies * (OF_TWO if count == 2 else 1)
        for truth, test in cases:
            share = rate(truth, test, is_wrong, drawn)
            row.append(percent(share, is_outside=too_many(share, drawn)))
        rows.append(row)
    return Table(columns, rows)


def looked_at(studies: int, configurations: Sequence[int] = CONFIGURATIONS) -> Table:
    """All equal, and looked at after each further seed: how often one is ever said to be worse."""
    plans = (
        ("2 planned, on to 16", Looks(2, 2), 16),
        ("5 planned, on to 16", Looks(5, 5), 16),
        ("2 to 16 planned", Looks(2, 16), 16),
    )
    columns = ["configurations"]
    for title, _, _ in plans:
        columns += [f"{title}: equal", "unequal"]
    columns += ["paired t, Holm, at 2 to 16: equal"]
    rows = []
    for count in configurations:
        row = [str(count)]
        cases: list[tuple[Truth, Test]] = []
        for _, looks, most in plans:
            for spread in ("equal", "unequal"):
                cases.append((Truth(count, most, spread), _with(looks)))
        cases.append((Truth(count, 16), _paired_holm_at_each))
        for truth, test in cases:
            share = rate(truth, test, is_wrong, studies)
            row.append(percent(share, is_outside=too_many(share, studies)))
        rows.append(row)
    return Table(columns, rows)


def _with(looks: Looks) -> Test:
    return lambda values: ours(values, looks)


def _paired_holm_at_each(values: Floats) -> Floats:
    seen = [paired_holm(values[:, :seeds]) for seeds in range(2, values.shape[1] + 1)]
    least: Floats = np.min(seen, axis=0)
    return least


def coverages(studies: int) -> Table:
    """How often 95 % intervals hold the truth."""
    columns = ["configurations", "seeds", "mean: equal variances", "unequal"]
    columns += ["gap of two: equal", "unequal", "moved by seeds"]
    rows = []
    for count, seeds in itertools.product(CONFIGURATIONS, SEEDS):
        equal = coverage(Truth(count, seeds), studies)
        unequal = coverage(Truth(count, seeds, "unequal"), studies)
        moved = coverage(Truth(count, seeds, seed_std=2.0), studies)
        shares = [equal[0], unequal[0], equal[1], unequal[1], moved[1]]
        cells = [percent(share, is_outside=not 0.93 <= share <= 0.97) for share in shares]
        rows.append([str(count), str(seeds), *cells])
    return Table(columns, rows)


def powers(studies: int) -> Table:
    """One is better by EFFECT standard errors: the share of all others that is found to be
    worse."""
    columns = ["configurations", "seeds"]
    for title, _, _ in KINDS:
        columns += [f"{title}: ours", "paired t, Holm"]
    columns += ["equal: Tukey", "MCB", "ours, plan 2 to 16"]
    rows = []
    for count, seeds in itertools.product(CONFIGURATIONS, SEEDS):
        row = [str(count), str(seeds)]
        cases: list[tuple[Truth, Test]] = []
        for _, spread, seed_std in KINDS:
            truth = Truth(count, seeds, spread, seed_std, means="best")
            cases += [(truth, ours), (truth, paired_holm)]
        equal = Truth(count, seeds, means="best")
        cases += [(equal, tukey), (equal, best_only), (equal, _with(Looks(2, 16)))]
        row += [percent(rate(truth, test, share_found, studies)) for truth, test in cases]
        rows.append(row)
    return Table(columns, rows)


PAGE = """# How often the comparison of configurations is wrong

Written by `python tests/analysis/error_rates.py`: {studies} studies of each kind, drawn from
normal distributions whose means and standard deviations are known. "Unequal": standard deviations
from 1 to {unequal:g}, in any order. "Moved by seeds": each seed adds the same to all
configurations, with twice the standard deviation that they have themselves. Bold: outside of what
is promised, an error of 5 % (beyond what chance makes of that with so many studies) and a coverage
of 93 to 97 %. "Paired t, Holm" is what the report did before.

## Errors, looked at once

Of equal configurations one is said to be worse; where half are better by ten times as much as in
the table of power, one of the better half is. Of two configurations {of_two} times as many studies.

{errors}

## Errors, looked at after each further seed

{looked_at}

## Coverage of 95 % intervals

{coverages}

## Power

One configuration is better than all others by {effect:g} standard errors of a gap between two
means: the share of the others that is said to be worse.

{powers}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument(
        "--page", type=Path, default=Path(__file__).parents[1] / "benchmarks/error_rates.md"
    )
    given = parser.parse_args(arguments)
    page = PAGE.format(
        studies=given.studies,
        unequal=UNEQUAL,
        effect=EFFECT,
        of_two=OF_TWO,
        errors=errors(given.studies).to_markdown(),
        looked_at=looked_at(given.studies).to_markdown(),
        coverages=coverages(given.studies).to_markdown(),
        powers=powers(given.studies).to_markdown(),
    )
    given.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
