"""What a comparison comes to: `decide` makes a `Decision`, `sentences` puts it into words.

A decision is one of seven dataclasses, which hold the figures that its sentences name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.optimism import optimism
from cifar_hpo.analysis.separation import TOP_K
from cifar_hpo.analysis.statistics import MAX_REPLICAS, replicas_needed

ASSUMED_SEED_STD = 0.01
"""The standard deviation over seeds that is assumed where there is one replica: what the article's
base model shows, between half a point and 1.6."""

MAX_NAMES = 5
"""Configurations that a sentence names."""

SELECTED_ON_TEST = (
    "Selected by the test images, as the article did: the best one's accuracy is a little better "
    "than it would be on others."
)


@dataclass(frozen=True)
class NothingFinished:
    """No trial finished."""


@dataclass(frozen=True)
class NothingComplete:
    """Some trials finished, but of each configuration some seeds did not."""


@dataclass(frozen=True)
class SeveralMetrics:
    """A study of several metrics, in which differences are not tested; metric: the first."""

    metric: str


@dataclass(frozen=True)
class OnlyOne:
    """One configuration finished, with all of its seeds, so there is nothing to compare it with."""

    name: str
    metric: str
    value: float
    confidence_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Unknown:
    """The best is ahead, and too few seeds were trained to test whether that is luck.

    one_seed: which configurations have a single replica: all, the best, or the others.
    replicas: how many of each would show the gap if seeds spread by ASSUMED_SEED_STD; None for more
    than MAX_REPLICAS. has_replicas: whether a trial can have several seeds of its own.
    """

    best: str
    second: str
    gap: float
    one_seed: Literal["all", "best", "others"]
    replicas: int | None
    has_replicas: bool = True


@dataclass(frozen=True)
class Best:
    """The best is better than all with which it could be compared.

    compared: how many configurations were compared, the best among them. family: for how many the
    p-values allow, those with one seed and those to come among them. unknown: names of those with
    one seed.
    """

    best: str
    compared: int
    family: int
    unknown: Sequence[str]


@dataclass(frozen=True)
class Tied:
    """Some are as good as the best, as far as these replicas show.

    worse: names of those that are not. family, unknown: as of `Best`. gap: between the best and the
    next that was compared. seed_std: the standard deviation over seeds of these two. replicas: how
    many of each would show the gap; None for more than MAX_REPLICAS.
    """

    best: str
    tied: Sequence[str]
    worse: Sequence[str]
    family: int
    unknown: Sequence[str]
    gap: float
    seed_std: float
    replicas: int | None


FINAL_STAGE = "The best of this search were trained again, from seeds that selected nothing:"

Decision = NothingFinished | NothingComplete | SeveralMetrics | OnlyOne | Unknown | Best | Tied


def verdict(comparison: Comparison) -> list[str]:
    """What can be said of the best and of those near it, in sentences."""
    said = sentences(decide(comparison))
    said += _optimism_sentences(comparison) + _test_sentences(comparison)
    said += _incomplete_sentences(comparison)
    if comparison.is_validated_on_test and len(comparison.finished) > 1:
        said.append(SELECTED_ON_TEST)
    if comparison.final_stage:
        said.append(f"{FINAL_STAGE} study {comparison.final_stage}.")
    return said


def decide(comparison: Comparison) -> Decision:
    """Whether the best configuration is shown to be the best, among those of which all seeds
    finished: what the seeds would have come to that did not, nobody knows."""
    metric = comparison.metrics[0]
    if not comparison.finished:
        return NothingFinished()
    if len(comparison.metrics) > 1:
        return SeveralMetrics(metric)
    if not comparison.complete:
        return NothingComplete()
    best = comparison.complete[0]
    if len(comparison.complete) == 1:
        return OnlyOne(best.name, metric, _mean(best), best.confidence_interval)
    return _decide(comparison)


def _decide(comparison: Comparison) -> Unknown | Best | Tied:
    """The decision on several configurations that are complete, the best first."""
    top = comparison.complete[:TOP_K]
    family = comparison.compared
    if all(configuration.p_value is None for configuration in top[1:]):
        decision = _unknown(top, family)
        return dataclasses.replace(decision, has_replicas=comparison.has_replicas)
    if any(configuration.is_tied for configuration in top[1:]):
        return _tied(top, family, comparison.looks)
    unknown = _names_of_unknown(top)
    return Best(top[0].name, len(top) - len(unknown), family, unknown)


def _unknown(top: Sequence[Configuration], family: int) -> Unknown:
    best, second = top[:2]
    has_one_seed = [len(configuration.values) == 1 for configuration in top]
    one_seed: Literal["all", "best", "others"] = "others"
    if all(has_one_seed):
        one_seed = "all"
    elif has_one_seed[0]:
        one_seed = "best"
    gap = abs(_mean(best) - _mean(second))
    replicas = replicas_needed(gap, ASSUMED_SEED_STD, family)
    return Unknown(best.name, second.name, gap, one_seed, replicas)


def _tied(top: Sequence[Configuration], family: int, looks: Looks) -> Tied:
    best = top[0]
    second = next(configuration for configuration in top[1:] if configuration.is_tied)
    gap = abs(_mean(best) - _mean(second))
    variances = [one.variance.value for one in (best, second) if one.variance is not None]
    seed_std = math.sqrt(fmean(variances))
    present = max(len(best.values), len(second.values))
    known = [configuration for configuration in top[1:] if configuration.p_value is not None]
    return Tied(
        best=best.name,
        tied=[configuration.name for configuration in known if configuration.is_tied],
        worse=[configuration.name for configuration in known if not configuration.is_tied],
        family=family,
        unknown=_names_of_unknown(top),
        gap=gap,
        seed_std=seed_std,
        replicas=replicas_needed(gap, seed_std, family, looks, present),
    )


def _mean(configuration: Configuration) -> float:
    return fmean(configuration.values.values())


def _names_of_unknown(top: Sequence[Configuration]) -> list[str]:
    return [configuration.name for configuration in top[1:] if configuration.p_value is None]


def sentences(decision: Decision) -> list[str]:
    """A decision in one to three sentences."""
    match decision:
        case NothingFinished() | NothingComplete():
            return [_nothing(decision)]
        case SeveralMetrics():
            return [_several_metrics(decision)]
        case OnlyOne():
            return [_only_one(decision)]
        case Unknown():
            return _unknown_sentences(decision)
        case Best():
            return _best_sentences(decision)
        case Tied():
            return _tied_sentences(decision)


def _nothing(decision: NothingFinished | NothingComplete) -> str:
    if isinstance(decision, NothingFinished):
        return "No trial has finished, so there is nothing to compare."
    return "No configuration finished with all of its seeds, so none is called the best."


def _several_metrics(decision: SeveralMetrics) -> str:
    return (
        f"Several metrics: trials on the Pareto front come first, by {decision.metric}; which "
        "differences are luck is not tested."
    )


def _only_one(decision: OnlyOne) -> str:
    return (
        f"One configuration finished: {decision.name}, {decision.metric} {decision.value:.4f} "
        f"({_interval(decision.confidence_interval)})."
    )


def _unknown_sentences(decision: Unknown) -> list[str]:
    subjects = {"all": "each", "best": decision.best, "others": "each of the others"}
    ahead = (
        f"{decision.best} is ahead of {decision.second} by {decision.gap:.4f}, and it cannot be "
        f"known whether that is luck: {subjects[decision.one_seed]} was trained with one seed."
    )
    hint = (
        f"If seeds spread results by {ASSUMED_SEED_STD:g}, {_replicas(decision.replicas)}; "
        f"{_how_to_repeat(decision)}."
    )
    return [ahead, hint]


def _how_to_repeat(decision: Unknown) -> str:
    if decision.has_replicas:
        return "repeat the best with training.replicas=5"
    return "give the app a seed, and vary it too: seed=0,1,2,3,4"


def _best_sentences(decision: Best) -> list[str]:
    best = (
        f"{decision.best} is the best of these {decision.compared}, and that is not luck "
        f"({_test(decision.family)})."
    )
    return [best, *_nobody_knows(decision.unknown)]


def _tied_sentences(decision: Tied) -> list[str]:
    tied = (
        f"Tied with {decision.best}, as far as these replicas can tell: {_listed(decision.tied)} "
        f"({_test(decision.family)})."
    )
    worse = []
    if decision.worse:
        worse = [f"Worse, and that is not luck: {_listed(decision.worse)}."]
    hint = (
        f"To tell the best from the next ({decision.gap:.4f} apart, seeds spread by "
        f"{decision.seed_std:.4f}), {_replicas(decision.replicas)}."
    )
    return [tied, *worse, *_nobody_knows(decision.unknown), hint]


def _optimism_sentences(comparison: Comparison) -> list[str]:
    """How much better the best looks because it was chosen, where a test was made."""
    if not isinstance(decide(comparison), Best | Tied):
        return []
    direction = comparison.directions[0]
    groups = [configuration.values for configuration in comparison.complete]
    flattered = optimism(groups, direction)
    if flattered is None:
        return []
    best, second = comparison.complete[:2]
    other_seeds = _mean(best) - flattered if direction == "maximize" else _mean(best) + flattered
    said = (
        f"Being chosen as the best of {len(groups)} alone makes {best.name} look better by some "
        f"{flattered:.4f}, where it leads by {abs(_mean(best) - _mean(second)):.4f}: other seeds "
        f"would give about {other_seeds:.4f}."
    )
    return [said]


def _test_sentences(comparison: Comparison) -> list[str]:
    """Which test was made, where one was."""
    if not isinstance(decide(comparison), Best | Tied):
        return []
    seeds = "not paired, since no seed is shown to move all configurations alike"
    if comparison.is_paired:
        seeds = "paired, since each seed is shown to move all configurations alike"
    said = (
        "By t-tests with variances that all configurations share (moderated t); seeds are "
        f"{seeds}; the error of 5 % holds for all pairs together, however often seeds are added."
    )
    return [said]


def _incomplete_sentences(comparison: Comparison) -> list[str]:
    """Which configurations are not judged, and why."""
    left_out = [one for one in comparison.finished if not one.is_complete]
    said = []
    for configuration in left_out[:MAX_NAMES]:
        became = [f"{count} {state}" for state, count in sorted(configuration.missing.items())]
        said.append(
            f"No verdict on {configuration.name}: {configuration.seeds_text} finished "
            f"({', '.join(became)}); over these {comparison.metrics[0]} is "
            f"{_mean(configuration):.4f}."
        )
    if len(left_out) > MAX_NAMES:
        said.append(f"Nor on {len(left_out) - MAX_NAMES} others of which some seeds are missing.")
    return said


def _nobody_knows(unknown: Sequence[str]) -> list[str]:
    if not unknown:
        return []
    return [f"Nobody knows of {_listed(unknown)}, trained with one seed."]


def _listed(names: Sequence[str]) -> str:
    more = "; …" if len(names) > MAX_NAMES else ""
    return "; ".join(names[:MAX_NAMES]) + more


def _interval(limits: tuple[float, float] | None) -> str:
    if limits is None:
        return "with one replica, nobody knows how far the seed carries it"
    low, high = limits
    return f"{low:.4f} to {high:.4f} at 95 %"


def _test(family: int) -> str:
    return f"95 %, all pairs of {family}" if family > 2 else "95 %"


def _replicas(needed: int | None) -> str:
    if needed is None:
        return f"more than {MAX_REPLICAS} replicas of each would be needed to tell"
    return f"{needed} replicas of each would tell, four times in five"
