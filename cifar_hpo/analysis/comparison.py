"""A study's trials compared: a `Comparison` holds its `Configuration`s, the best first.

A configuration is all trials that differ in their seed at most. `compare_study` reads them from
Optuna's storage; `analysis.verdict` says what follows.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.analysis.statistics import (
    CONFIDENCE,
    against_best,
    confidence_interval,
    mean_gap,
    shared_seeds,
)
from cifar_hpo.config.fields import as_list, flat
from cifar_hpo.metrics import values_by_replica
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, ranked
from cifar_hpo.study.space import Value, identity
from cifar_hpo.study.storage import load_study
from cifar_hpo.study.study import MEANING, RUN
from cifar_hpo.study.tables import has_parameter_columns
from cifar_hpo.trial import FINISHED, PRUNED

SEEDS = ("training.seed", "seed")
"""The keys of seeds: this package's own, and the one that other apps have."""

REPLICAS = "training.replicas"
TEST_ACCURACY = "test_accuracy"
TOP_K = 10
"""Configurations at the top that are compared with one another; each further one would make all
comparisons less sure."""


@dataclass(frozen=True)
class Configuration:
    """Trials that differ in their seed at most, as one.

    trial: the best of them, whose model stands for the configuration. params: what varied, without
    the seed. values, test_accuracies: the study's metric and the accuracy on the test images by
    seed; empty where no trial finished. seconds: of all its trials. name: what varied, or the
    number of its trial where that is too much for a name. p_value: of the gap to the best,
    corrected; 1 where over the seeds that both have it is not behind; None where it is not known,
    or was not asked for. missing: how many planned seeds have no value, by what became of them.
    """

    trial: FinishedTrial
    params: Mapping[str, Value]
    values: Mapping[int, float]
    test_accuracies: Mapping[int, float]
    seconds: float
    name: str
    p_value: float | None = None
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def planned_seeds(self) -> int:
        return len(self.values) + sum(self.missing.values())

    @property
    def is_complete(self) -> bool:
        """Whether all of its seeds finished, so that its mean tells of all."""
        return bool(self.values) and not self.missing

    @property
    def seeds_text(self) -> str:
        """How many of its seeds finished: `2 of 5 seeds`."""
        return f"{len(self.values)} of {self.planned_seeds} seeds"

    @property
    def label(self) -> str:
        """Its name, and how many of its seeds finished where some did not."""
        return self.name if self.is_complete else f"{self.name} ({self.seeds_text})"

    @property
    def value(self) -> float | None:
        """The mean over the seeds that finished; None where none did."""
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
    """A study's configurations, the best first, and the trials that they come from.

    Those of which some seeds did not finish come behind those that are complete: the mean of the
    seeds that are left would flatter them.

    metrics: the study's, with a direction each. keys: what varied, without the seed. trials: those
    that counted, in the order in which they ended. study: Optuna's own, for its charts.
    tracking_uri, run_id: MLflow's store and the study's run there.
    """

    name: str
    metrics: Sequence[str]
    directions: Sequence[str]
    keys: Sequence[str]
    trials: Sequence[FinishedTrial]
    configurations: Sequence[Configuration]
    study: optuna.Study
    meaning: Mapping[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    run_id: str | None = None

    @property
    def finished(self) -> list[Configuration]:
        """The configurations that have a value."""
        return [configuration for configuration in self.configurations if configuration.values]

    @property
    def complete(self) -> list[Configuration]:
        """The configurations of which all seeds finished."""
        return [configuration for configuration in self.configurations if configuration.is_complete]

    def shared_seeds(self, configuration: Configuration) -> list[int]:
        """The seeds over which one is compared with the best, where one of them has others too."""
        if not self.complete or configuration.p_value is None:
            return []
        best = self.complete[0].values
        shared = shared_seeds(best, configuration.values)
        return shared if best.keys() != configuration.values.keys() else []

    @property
    def failed_trials(self) -> list[FinishedTrial]:
        return [trial for trial in self.trials if trial.error and trial.state != PRUNED]

    @property
    def has_replicas(self) -> bool:
        """Whether a trial can have several seeds of its own, as in this package's app."""
        return "training" in self.meaning.get("config", ["training"])

    @property
    def is_validated_on_test(self) -> bool:
        """Whether trials were selected by the test images, as the article did."""
        return flat(self.meaning.get("config", {})).get("data.validation") == "test"


def compare_study(name: str | None, storage: BaseStorage) -> Comparison:
    """The comparison of a study, by default of the one that was worked on last.

    Raises StudyError when there is none.
    """
    study = load_study(storage, name)
    meaning = study.user_attrs.get(MEANING, {})
    metrics = as_list(meaning.get("metric", "value"))
    directions = [direction.name.lower() for direction in study.directions]
    trials = finished_trials(study.get_trials(deepcopy=False), study.user_attrs)
    ranking = ranked(trials, directions)
    keys = _varied_keys(ranking)
    config = flat(meaning.get("config", {}))
    base_seed = _as_seed(_seed_in(config, 0))
    unfinished = _unfinished_seeds(study, meaning)
    configurations = []
    for group in _grouped(ranking):
        configuration = _configuration(
            group, metrics[0], base_seed, has_name=has_parameter_columns(keys)
        )
        seeds = unfinished.get(identity(configuration.params), {})
        for trial in group:
            if trial.value is None:
                became = trial.state.lower() if trial.state != FINISHED else "without a value"
                seeds |= dict.fromkeys(_seeds(trial.params, config), became)
        missing = Counter(seeds[seed] for seed in seeds.keys() - configuration.values.keys())
        configurations.append(dataclasses.replace(configuration, missing=missing))
    if len(directions) == 1:
        configurations = _compared(configurations, directions[0])
    tracking_uri, run_id = study.user_attrs.get(RUN, (None, None))
    return Comparison(
        name=study.study_name,
        metrics=metrics,
        directions=directions,
        keys=keys,
        trials=trials,
        configurations=configurations,
        study=study,
        meaning=meaning,
        tracking_uri=tracking_uri,
        run_id=run_id,
    )


def _without_seed(params: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in params.items() if not _is_seed(key)}


def _is_seed(key: str) -> bool:
    return key.lstrip("+") in SEEDS


def _seed_in(values: Mapping[str, Any], otherwise: Any) -> Any:
    """The seed among values by the path of their key."""
    for key, value in values.items():
        if _is_seed(key):
            return value
    return otherwise


def _varied_keys(trials: Sequence[FinishedTrial]) -> list[str]:
    """The keys of all trials in the order in which they come, without the seed."""
    keys: dict[str, None] = {}
    for trial in trials:
        keys |= dict.fromkeys(_without_seed(trial.params))
    return list(keys)


def _grouped(ranking: Sequence[FinishedTrial]) -> list[list[FinishedTrial]]:
    """The trials of each configuration, in the order of the ranking."""
    groups: dict[str, list[FinishedTrial]] = {}
    for trial in ranking:
        groups.setdefault(identity(_without_seed(trial.params)), []).append(trial)
    return list(groups.values())


def _configuration(
    group: Sequence[FinishedTrial], metric: str, base_seed: int, *, has_name: bool
) -> Configuration:
    """The trials of a configuration, the best first, as one."""
    values: dict[int, float] = {}
    test_accuracies: dict[int, float] = {}
    for trial in group:
        if trial.state != FINISHED or trial.value is None:
            continue
        first_seed = _as_seed(_seed_in(trial.params, base_seed))
        values |= _by_seed(trial, metric, first_seed, trial.value)
        test_accuracy = trial.metrics.get(TEST_ACCURACY)
        test_accuracies |= _by_seed(trial, TEST_ACCURACY, first_seed, test_accuracy)
    best = group[0]
    params = _without_seed(best.params)
    return Configuration(
        trial=best,
        params=params,
        values=values,
        test_accuracies=test_accuracies,
        seconds=sum(trial.seconds for trial in group),
        name=_name(params) if has_name else f"trial {best.number}",
    )


def _name(params: Mapping[str, Value]) -> str:
    parts = [f"{key.split('.')[-1]}={value}" for key, value in params.items()]
    return ", ".join(parts) or "base"


def _by_seed(
    trial: FinishedTrial, metric: str, first_seed: int, mean: float | None
) -> dict[int, float]:
    """A metric of each replica, whose seeds count up from the first; the mean where there is one
    replica."""
    by_replica = values_by_replica(trial.metrics, metric)
    if by_replica:
        return {first_seed + replica: value for replica, value in by_replica.items()}
    return {} if mean is None else {first_seed: mean}


def _compared(configurations: Sequence[Configuration], direction: str) -> list[Configuration]:
    """The best first, with the p-values of the TOP_K complete ones."""
    sign = -1 if direction == "maximize" else 1

    def cost(configuration: Configuration) -> tuple[bool, bool, float]:
        value = configuration.value
        return value is None, not configuration.is_complete, sign * (value or 0)

    ordered = sorted(configurations, key=cost)
    top = [configuration for configuration in ordered if configuration.is_complete][:TOP_K]
    p_values = against_best([configuration.values for configuration in top])
    for place, p_value in enumerate(p_values):
        configuration = ordered[place]
        is_behind = sign * mean_gap(top[0].values, configuration.values) < 0
        corrected = p_value if p_value is None or is_behind else 1.0
        ordered[place] = dataclasses.replace(configuration, p_value=corrected)
    return ordered


def _unfinished_seeds(study: optuna.Study, meaning: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """The seeds that are still to come, by configuration, and whether they run.

    While a grid is under way these are also those that it has not begun.
    """
    config = flat(meaning.get("config", {}))
    trials = study.get_trials(deepcopy=False)
    states = (TrialState.RUNNING, TrialState.WAITING)
    unfinished = [trial for trial in trials if trial.state in states and trial.params]
    if not unfinished:
        return {}
    to_come: dict[str, dict[int, str]] = {}
    is_grid = meaning.get("sampler", {}).get("name") == "grid"
    for trial in trials if is_grid else []:
        seeds = dict.fromkeys(_seed_choices(trial), "not begun")
        to_come.setdefault(identity(_without_seed(trial.params)), {}).update(seeds)
    for trial in unfinished:
        became = "running" if trial.state is TrialState.RUNNING else "waiting"
        seeds = dict.fromkeys(_seeds(trial.params, config), became)
        to_come.setdefault(identity(_without_seed(trial.params)), {}).update(seeds)
    return to_come


def _seed_choices(trial: FrozenTrial) -> list[int]:
    """All seeds of a study in which they vary."""
    distribution = _seed_in(trial.distributions, None)
    if not isinstance(distribution, CategoricalDistribution):
        return []
    return [_as_seed(choice) for choice in distribution.choices]


def _seeds(params: Mapping[str, Value], config: Mapping[str, Any]) -> Iterable[int]:
    """The seeds of a trial, one for each replica; config: what does not vary, by its path."""
    first = _as_seed(_seed_in(params, _seed_in(config, 0)))
    replicas = str(params.get(REPLICAS, config.get(REPLICAS, 1)))
    return range(first, first + (int(replicas) if replicas.isdecimal() else 1))


def _as_seed(value: Any) -> int:
    """A seed as a number; one that is an interpolation is told apart by its text."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return zlib.crc32(str(value).encode())
