"""The article's tables tried again: its accuracies, claims and times, a `Table` of each.

A table is made from the `Comparison`s of our studies, by the study's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.separation import between
from cifar_hpo.analysis.statistics import CONFIDENCE, confidence_interval, holm, p_text
from cifar_hpo.results.article import CLAIMS, EPOCHS, ROWS, STUDIES, Claim, Row
from cifar_hpo.study.space import Value
from cifar_hpo.table import Table

Comparisons = Mapping[str, Comparison]
"""The studies that are here, by name; each has a finished configuration."""


def accuracy_table(comparisons: Comparisons) -> Table:
    """The article's rows beside our means over seeds."""
    columns = [
        "study",
        "configuration",
        "article, one seed",
        f"ours, mean of {_seeds(comparisons)} seeds (95 %)",
        "our seeds",
        "its seed among them",
    ]
    rows = []
    for row, configuration in _matched(comparisons, STUDIES):
        accuracies = configuration.test_accuracies
        low, high = min(accuracies.values()), max(accuracies.values())
        ours = [mean_text(accuracies), f"{low:.4f} – {high:.4f}", _place(row.accuracy, low, high)]
        rows.append([row.study, row.name, f"{row.accuracy:.4f}", *ours])
    return Table(columns, rows)


def _seeds(comparisons: Comparisons) -> str:
    """How many seeds our configurations have, as a number or a range."""
    counts = set()
    for name in STUDIES:
        if name in comparisons:
            finished = comparisons[name].finished
            counts |= {len(configuration.values) for configuration in finished}
    if len(counts) == 1:
        return str(counts.pop())
    return f"{min(counts)} to {max(counts)}"


def _matched(comparisons: Comparisons, studies: Sequence[str]) -> list[tuple[Row, Configuration]]:
    """The article's rows of these studies, each with our configuration; without those that we do
    not have."""
    matched = []
    for row in ROWS:
        if row.study in studies and row.study in comparisons:
            configuration = _configuration(comparisons[row.study], row.value)
            if configuration:
                matched.append((row, configuration))
    return matched


def _configuration(comparison: Comparison, value: Value) -> Configuration | None:
    """The finished configuration in which the one thing that varies has this value."""
    for configuration in comparison.finished:
        if [str(varied) for varied in configuration.params.values()] == [str(value)]:
            return configuration
    return None


def _place(accuracy: float, low: float, high: float) -> str:
    """Whether the article's seed lies among ours."""
    if accuracy > high:
        return f"no, {accuracy - high:.3f} above"
    if accuracy < low:
        return f"no, {low - accuracy:.3f} below"
    return "yes"


@dataclass(frozen=True)
class Gap:
    """By how much the first of a claim's pair is better on the test images; below 0 it is worse.

    p: the p-value, corrected for the claim's pairs and for all looks at the study; None where there
    are too few seeds.
    """

    pair: tuple[Value, Value]
    difference: float
    p: float | None

    @property
    def is_significant(self) -> bool:
        return self.p is not None and self.p <= 1 - CONFIDENCE

    def to_text(self) -> str:
        better, worse = self.pair
        text = f"{better} over {worse}: {self.difference:+.4f}"
        return text if self.p is None else f"{text}, {p_text(self.p)}"


def claims_table(comparisons: Comparisons) -> Table:
    """What the article concludes, and what our studies show of it."""
    rows = []
    for claim in CLAIMS:
        gaps = gaps_of(claim, comparisons)
        if gaps:
            shown = "; ".join(gap.to_text() for gap in gaps)
            rows.append([claim.text, f"**{claim_verdict(gaps)}**", shown])
    return Table(["the article concludes", "", "gaps, ours"], rows)


def gaps_of(claim: Claim, comparisons: Comparisons) -> list[Gap]:
    """Our gap of each of a claim's pairs; none where a configuration is missing."""
    if claim.study not in comparisons:
        return []
    comparison = comparisons[claim.study]
    finished = comparison.finished
    groups = [one.test_accuracies for one in finished if one.test_accuracies]
    differences = []
    p_values = []
    for pair in claim.pairs:
        better = _configuration(comparison, pair[0])
        worse = _configuration(comparison, pair[1])
        if better is None or worse is None:
            return []
        places = groups.index(better.test_accuracies), groups.index(worse.test_accuracies)
        difference, standing = between(groups, *places, comparison.looks)
        differences.append(difference)
        p_values.append(standing.p_value)
    return [Gap(*gap) for gap in zip(claim.pairs, differences, holm(p_values), strict=True)]


def claim_verdict(gaps: Sequence[Gap]) -> str:
    """Confirmed where each pair differs as claimed, wrong where one differs the other way round;
    neither by luck."""
    if any(gap.difference < 0 and gap.is_significant for gap in gaps):
        return "wrong"
    return "confirmed" if all(gap.is_significant for gap in gaps) else "not shown"


def times_table(comparisons: Comparisons) -> Table:
    """How long our studies took, beside the article's notebooks."""
    columns = [
        "study",
        "what ours trained",
        "minutes on one core",
        "its notebook, one seed each",
        "share",
    ]
    rows = []
    for study in STUDIES:
        matched = _matched(comparisons, [study])
        if matched:
            rows.append([study, *_times(matched)])
    return Table(columns, rows)


def _times(matched: Sequence[tuple[Row, Configuration]]) -> list[str]:
    """Our models and their minutes, the article's minutes, and ours as a share of those."""
    models = sum(len(configuration.values) for _, configuration in matched)
    ours = sum(configuration.seconds for _, configuration in matched) / 60
    article_minutes = minutes_of([row for row, _ in matched])
    notebook = f"{article_minutes:.0f} min for {len(matched)}"
    share = f"{ours / article_minutes:.0%}"
    if any(row.seconds is None for row, _ in matched):  # so its notebooks took longer than that
        notebook = f"at least {notebook}"
        share = f"at most {share}"
    return [f"{models} models", f"{ours:.0f}", notebook, share]


def minutes_of(rows: Sequence[Row]) -> float:
    """Minutes that the article's models took, as far as its notebooks show them."""
    return sum((row.seconds or 0) * EPOCHS for row in rows) / 60


def mean_text(by_seed: Mapping[int, float]) -> str:
    """A mean over seeds with its 95 % interval."""
    mean = f"{fmean(by_seed.values()):.4f}"
    limits = confidence_interval(list(by_seed.values()))
    if limits is None:
        return f"{mean} (one seed)"
    low, high = limits
    return f"{mean} ({low:.4f} – {high:.4f})"
