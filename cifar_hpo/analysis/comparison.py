"""What a study found, read from its storage: `Comparison` holds its `Configuration`s, the best first,
and who is tied with the best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import optuna

from cifar_hpo.analysis.statistics import (
    CONFIDENCE,
    against_best,
    confidence_interval,
    replicas_needed,
)
from cifar_hpo.config.fields import flat
from cifar_hpo.errors import StudyError
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, has_columns, identity, ranked
from cifar_hpo.study.study import MEANING, RUN
from cifar_hpo.trial import FINISHED

SEED = "training.seed"
TOP_K = 10
"""Configurations at the top that are compared with one another; each further one would make all
comparisons less sure."""

ASSUMED_SEED_STD = 0.01
"""The spread over seeds that is supposed where there is one replica: what the article's base model
shows, between half a point and 1.6."""


@dataclass(frozen=True)
class Configuration:
    """Trials that differ in their seed at most, as one.

    told: the trial whose model stands for it. values, tests: the study's metric and test accuracy
    by seed; empty where none finished. name: what varied, or where that is much in this study the
    number of its trial. p_value: how likely so large a gap to the best would be by luck; None where
    it can't be told or was not asked.
    """

    told: FinishedTrial
    params: Mapping[str, Any]
    values: Mapping[int, float]
    tests: Mapping[int, float]
    seconds: float
    name: str
    p_value: float | None = None

    @property
    def value(self) -> float | None:
        return fmean(self.values.values()) if self.values else None

    @functools.cached_property
    def confidence_interval(self) -> tuple[float, float] | None:
        return confidence_interval(list(self.values.values()))

    @property
    def is_tied(self) -> bool:
        """Whether nothing shows that it is worse than the best."""
        return self.p_value is not None and self.p_value > 1 - CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """A study as the report sees it. study: Optuna's own, for its charts; uri, run_id: MLflow's
    store and the study's run there."""

    name: str
    metrics: Sequence[str]
    directions: Sequence[str]
    keys: Sequence[str]
    told: Sequence[FinishedTrial]
    configurations: Sequence[Configuration]
    study: optuna.Study
    meaning: Mapping[str, Any] = field(default_factory=dict)
    uri: str | None = None
    run_id: str | None = None

    @property
    def finished(self) -> list[Configuration]:
        return [one for one in self.configurations if one.values]

    @property
    def failed(self) -> list[FinishedTrial]:
        return [one for one in self.told if one.error and one.state != "PRUNED"]

    def verdict(self) -> list[str]:
        """What can be said of the best and of those near it, in sentences."""
        on_test = flat(self.meaning.get("config", {})).get("data.validation") == "test"
        warning = [
            (
                "Selected by the test images, as the article did: the best one's accuracy is a "
                "little better than it would be on others."
            )
        ]
        return self._standing() + (warning if on_test and len(self.finished) > 1 else [])

    def _standing(self) -> list[str]:
        found = self.finished
        if not found:
            return ["No trial has finished, so there is nothing to compare."]
        best = found[0]
        if len(self.metrics) > 1:
            return [
                (
                    f"Several metrics: trials on the Pareto front come first, by {self.metrics[0]};"
                    " which differences are luck is not tested."
                )
            ]
        if len(found) == 1:
            known = (
                _range(best.confidence_interval)
                or "with one replica, nobody knows how far the seed carries it"
            )
            return [
                (
                    f"One configuration finished: {best.name}, {self.metrics[0]} {best.value:.4f} "
                    f"({known})."
                )
            ]
        gap = abs(best.value - found[1].value)  # type: ignore[operator]
        top = found[:TOP_K]
        pairs = len(top) * (len(top) - 1) // 2
        test = f"95 %, Holm over {pairs} pairs" if pairs > 1 else "95 %"
        unknown = [one for one in top[1:] if one.p_value is None]
        if len(unknown) == len(top) - 1:
            alone = [one for one in top if len(one.values) == 1]
            whose = (
                "each"
                if len(alone) == len(top)
                else best.name
                if best in alone
                else "each of the others"
            )
            needed = replicas_needed(gap, ASSUMED_SEED_STD, pairs)
            return [
                (
                    f"{best.name} is ahead of {found[1].name} by {gap:.4f}, and it cannot be known "
                    f"whether that is luck: {whose} was trained with one seed."
                ),
                (
                    f"If seeds spread results by {ASSUMED_SEED_STD:g}, {_replicas(needed)}; repeat the"
                    " best with training.replicas=5."
                ),
            ]
        tied = [one for one in top[1:] if one.is_tied]
        open_ends = (
            [f"Nobody knows of {_names(unknown)}, trained with one seed."] if unknown else []
        )
        if not tied:
            return [
                (
                    f"{best.name} is the best of these {len(top) - len(unknown)}, and that is not "
                    f"luck ({test})."
                ),
                *open_ends,
            ]
        next_best = next(one for one in top[1:] if one.p_value is not None)
        gap = abs(best.value - next_best.value)  # type: ignore[operator]
        spread = fmean(stdev(one.values.values()) for one in (best, next_best))
        needed = replicas_needed(gap, spread, pairs)
        hint = (
            f"To tell the best from the next ({gap:.4f} apart, seeds spread by {spread:.4f}), "
            f"{_replicas(needed)}."
        )
        return [
            f"Tied with {best.name}, as far as these replicas can tell: {_names(tied)} ({test}).",
            *open_ends,
            hint,
        ]


def find(name: str | None, storage: Any) -> Comparison:
    """What a study holds, by default the one that was worked on last. Raises StudyError when there
    is none."""
    known = optuna.get_all_study_names(storage)
    if not known or (name and name not in known):
        raise StudyError(
            f"there is no study {name or 'here'}; there are: {', '.join(sorted(known)) or 'none'}"
        )
    study = optuna.load_study(study_name=name or _latest(storage), storage=storage)
    meaning = study.user_attrs.get(MEANING, {})
    metrics = meaning.get("metric", "value")
    directions = [direction.name.lower() for direction in study.directions]
    told = finished_trials(study.get_trials(deepcopy=False))
    ranking = ranked(told, directions)
    metrics = metrics if isinstance(metrics, list) else [metrics]
    keys = [
        key for key in dict.fromkeys(key for one in ranking for key in one.params) if key != SEED
    ]
    seed = int(flat(meaning.get("config", {})).get(SEED, 0))
    configurations = _configurations(ranking, keys, metrics[0], directions, seed)
    uri, run_id = study.user_attrs.get(RUN, (None, None))
    return Comparison(
        study.study_name,
        metrics,
        directions,
        keys,
        told,
        configurations,
        study,
        meaning,
        uri,
        run_id,
    )


def _latest(storage: Any) -> str:
    """The study whose last trial began last."""

    def began(name: str) -> float:
        study_id = storage.get_study_id_from_name(name)
        if not (trials := storage.get_n_trials(study_id)):
            return 0
        last = storage.get_trial(
            storage.get_trial_id_from_study_id_trial_number(study_id, trials - 1)
        )
        return float(last.datetime_start.timestamp()) if last.datetime_start else 0

    return max(optuna.get_all_study_names(storage), key=began)


def _configurations(
    ranking: Sequence[FinishedTrial],
    keys: Sequence[str],
    metric: str,
    directions: Sequence[str],
    seed: int,
) -> list[Configuration]:
    together: dict[str, list[FinishedTrial]] = {}
    for one in ranking:
        together.setdefault(
            identity({key: value for key, value in one.params.items() if key != SEED}), []
        ).append(one)
    found = [
        _configuration(group, metric, seed, has_names=has_columns(keys))
        for group in together.values()
    ]
    if len(directions) > 1:
        return found
    sign = -1 if directions[0] == "maximize" else 1
    found.sort(key=lambda one: (one.value is None, sign * (one.value or 0)))
    top = [one for one in found if one.values][:TOP_K]
    chances = against_best([one.values for one in top])
    return [
        dataclasses.replace(one, p_value=chance) for one, chance in zip(top, chances, strict=True)
    ] + found[len(top) :]


def _configuration(
    group: Sequence[FinishedTrial], metric: str, seed: int, *, has_names: bool
) -> Configuration:
    finished = [one for one in group if one.state == FINISHED and one.value is not None]
    values: dict[int, float] = {}
    tests: dict[int, float] = {}
    for one in finished:
        first = int(one.params.get(SEED, seed))
        values |= _by_seed(one, metric, first, one.value)
        tests |= _by_seed(one, "test_accuracy", first, one.metrics.get("test_accuracy"))
    params = {key: value for key, value in group[0].params.items() if key != SEED}
    settings = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in params.items()) or "base"
    name = settings if has_names else f"trial {group[0].number}"
    return Configuration(group[0], params, values, tests, sum(one.seconds for one in group), name)


def _by_seed(one: FinishedTrial, metric: str, first: int, mean: float | None) -> dict[int, float]:
    """A metric of each replica, whose seeds count up from the first; the mean where there is one
    replica."""
    each: dict[int, float] = {}
    while (value := one.metrics.get(f"replica_{len(each)}/{metric}")) is not None:
        each[first + len(each)] = value
    return each or ({} if mean is None else {first: mean})


def _names(found: Sequence[Configuration]) -> str:
    return "; ".join(one.name for one in found[:5]) + ("; …" if len(found) > 5 else "")


def _range(limits: tuple[float, float] | None) -> str:
    return f"{limits[0]:.4f} to {limits[1]:.4f} at 95 %" if limits else ""


def _replicas(needed: int | None) -> str:
    return (
        f"{needed} replicas of each would tell, four times in five"
        if needed
        else "more than 200 replicas of each would be needed to tell"
    )
