"""A study's trials compared: a `Comparison` holds its `Configuration`s, the best first.

A configuration is all trials that differ in their seed at most. `compare_study` reads them from
Optuna's storage; `analysis.verdict` says what follows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage

from cifar_hpo.analysis.statistics import CONFIDENCE, against_best, confidence_interval
from cifar_hpo.config.fields import as_list, flat
from cifar_hpo.metrics import values_by_replica
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, ranked
from cifar_hpo.study.space import Value, identity
from cifar_hpo.study.storage import load_study
from cifar_hpo.study.study import MEANING, RUN
from cifar_hpo.study.tables import has_parameter_columns
from cifar_hpo.trial import FINISHED, PRUNED

SEED = "training.seed"
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
    corrected; None where it is not known, or was not asked for.
    """

    trial: FinishedTrial
    params: Mapping[str, Value]
    values: Mapping[int, float]
    test_accuracies: Mapping[int, float]
    seconds: float
    name: str
    p_value: float | None = None

    @property
    def value(self) -> float | None:
        """The mean over seeds; None where no trial finished."""
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
    def failed_trials(self) -> list[FinishedTrial]:
        return [trial for trial in self.trials if trial.error and trial.state != PRUNED]

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
    trials = finished_trials(study.get_trials(deepcopy=False))
    ranking = ranked(trials, directions)
    keys = _varied_keys(ranking)
    base_seed = _as_seed(flat(meaning.get("config", {})).get(SEED, 0))
    configurations = []
    for group in _grouped(ranking):
        configuration = _configuration(
            group, metrics[0], base_seed, has_name=has_parameter_columns(keys)
        )
        configurations.append(configuration)
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


def _as_seed(value: Any) -> int:
    """A seed as a study has it; 0 for an interpolation, which is kept as it was written."""
    return value if isinstance(value, int) else 0


def _without_seed(params: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in params.items() if key != SEED}


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
        first_seed = _as_seed(trial.params.get(SEED, base_seed))
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
    """The best first, with the p-values of the TOP_K finished ones."""
    sign = -1 if direction == "maximize" else 1

    def cost(configuration: Configuration) -> tuple[bool, float]:
        return configuration.value is None, sign * (configuration.value or 0)

    ordered = sorted(configurations, key=cost)
    top = [configuration for configuration in ordered if configuration.values][:TOP_K]
    p_values = against_best([configuration.values for configuration in top])
    for place, p_value in enumerate(p_values):
        ordered[place] = dataclasses.replace(ordered[place], p_value=p_value)
    return ordered
