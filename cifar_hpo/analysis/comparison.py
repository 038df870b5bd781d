"""A study's trials compared: a `Comparison` holds its `Configuration`s, the best first.

A configuration is all trials that differ in their seed at most. `compare_study` reads them from
Optuna's storage; `analysis.verdict` says what follows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import TOP_K, Standing, separate
from cifar_hpo.analysis.statistics import CONFIDENCE, confidence_interval
from cifar_hpo.analysis.variances import Variance, mean_interval, moderated
from cifar_hpo.config.fields import as_list, flat
from cifar_hpo.study.attributes import run_of
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, ranked
from cifar_hpo.study.replication import noted_plan
from cifar_hpo.study.seeds import (
    REPLICAS,
    as_seed,
    is_seed,
    replicas_of,
    seed_in,
    seeds_of,
    values_by_seed,
    without_seed,
)
from cifar_hpo.study.space import Value, identity
from cifar_hpo.study.storage import load_study
from cifar_hpo.study.stored import FINAL_STAGE, FIRST_CHOICES, meaning_of
from cifar_hpo.study.tables import has_parameter_columns
from cifar_hpo.trial import FINISHED, PRUNED

TEST_ACCURACY = "test_accuracy"


@dataclass(frozen=True)
class Configuration:
    """Trials that differ in their seed at most, as one.

    trial: the best of them, whose model stands for the configuration. params: what varied, without
    the seed. values, test_accuracies: the study's metric and the accuracy on the test images by
    seed; empty where no trial finished. seconds: of all its trials. name: what varied, or the
    number of its trial where that is too much for a name. standing: beside the best; None where it
    was not compared. variance: over seeds, which all configurations of the study tell together;
    None for that of its own values. run_ids: MLflow's, of its trials that finished. new_images:
    limits of its test accuracy over seeds and images, at 95 %, where they were asked for. missing:
    how many planned seeds have no value, by what became of them.
    """

    trial: FinishedTrial
    params: Mapping[str, Value]
    values: Mapping[int, float]
    test_accuracies: Mapping[int, float]
    seconds: float
    name: str
    standing: Standing | None = None
    variance: Variance | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    run_ids: Sequence[str] = ()
    new_images: tuple[float, float] | None = None

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
        """Of the mean over all seeds, at 95 %; None with one replica."""
        if self.variance is None:
            return confidence_interval(list(self.values.values()))
        return mean_interval(self.values, self.variance, CONFIDENCE)

    @property
    def p_value(self) -> float | None:
        """Of the gap to the best; None where it is not known, or was not compared."""
        return self.standing.p_value if self.standing else None

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
    tracking_uri, run_id: MLflow's store and the study's run there. looks: the plan of the replicas.
    to_come: how many configurations are still to come, which may be as good as any. is_paired:
    whether the seeds are shown to move all configurations alike. final_stage: the study of the
    search's final stage; empty where there is none.
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
    looks: Looks = field(default_factory=Looks)
    to_come: int = 0
    is_paired: bool = False
    final_stage: str = ""

    @property
    def finished(self) -> list[Configuration]:
        """The configurations that have a value."""
        return [configuration for configuration in self.configurations if configuration.values]

    @property
    def complete(self) -> list[Configuration]:
        """The configurations of which all seeds finished."""
        return [configuration for configuration in self.configurations if configuration.is_complete]

    @property
    def compared(self) -> int:
        """How many configurations the tests allow for: the first TOP_K, those to come among
        them."""
        return min(TOP_K, len(self.complete) + self.to_come)

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
    meaning = meaning_of(study.user_attrs)
    metrics = as_list(meaning.get("metric", "value"))
    directions = [direction.name.lower() for direction in study.directions]
    trials = finished_trials(study.get_trials(deepcopy=False), study.user_attrs)
    ranking = ranked(trials, directions)
    keys = _varied_keys(ranking)
    config = flat(meaning.get("config", {}))
    base_seed = as_seed(seed_in(config, 0))
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
                seeds |= dict.fromkeys(seeds_of(trial.params, config), became)
        missing = Counter(seeds[seed] for seed in seeds.keys() - configuration.values.keys())
        configurations.append(dataclasses.replace(configuration, missing=missing))
    looks = _looks(study, meaning, configurations)
    to_come = _to_come(study, meaning, configurations)
    is_paired = False
    if len(directions) == 1:
        configurations, is_paired = _compared(configurations, directions[0], looks, to_come)
    tracking_uri, run_id = run_of(study.user_attrs)
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
        looks=looks,
        to_come=to_come,
        is_paired=is_paired,
        final_stage=study.user_attrs.get(FINAL_STAGE, ""),
    )


def _varied_keys(trials: Sequence[FinishedTrial]) -> list[str]:
    """The keys of all trials in the order in which they come, without the seed."""
    keys: dict[str, None] = {}
    for trial in trials:
        keys |= dict.fromkeys(without_seed(trial.params))
    return list(keys)


def _grouped(ranking: Sequence[FinishedTrial]) -> list[list[FinishedTrial]]:
    """The trials of each configuration, in the order of the ranking."""
    groups: dict[str, list[FinishedTrial]] = {}
    for trial in ranking:
        groups.setdefault(identity(without_seed(trial.params)), []).append(trial)
    return list(groups.values())


def _configuration(
    group: Sequence[FinishedTrial], metric: str, base_seed: int, *, has_name: bool
) -> Configuration:
    """The trials of a configuration, the best first, as one."""
    values: dict[int, float] = {}
    test_accuracies: dict[int, float] = {}
    run_ids: list[str] = []
    for trial in group:
        if trial.state != FINISHED or trial.value is None:
            continue
        first_seed = as_seed(seed_in(trial.params, base_seed))
        values |= values_by_seed(trial.metrics, metric, first_seed, trial.value)
        test_accuracy = trial.metrics.get(TEST_ACCURACY)
        test_accuracies |= values_by_seed(trial.metrics, TEST_ACCURACY, first_seed, test_accuracy)
        run_ids.append(trial.run_id)
    best = group[0]
    params = without_seed(best.params)
    return Configuration(
        trial=best,
        params=params,
        values=values,
        test_accuracies=test_accuracies,
        seconds=sum(trial.seconds for trial in group),
        name=_name(params) if has_name else f"trial {best.number}",
        run_ids=run_ids,
    )


def _name(params: Mapping[str, Value]) -> str:
    parts = [f"{key.split('.')[-1]}={value}" for key, value in params.items()]
    return ", ".join(parts) or "base"


def _compared(
    configurations: Sequence[Configuration], direction: str, looks: Looks, to_come: int
) -> tuple[list[Configuration], bool]:
    """The best first, the TOP_K complete ones beside it, and whether seeds move all alike."""
    sign = -1 if direction == "maximize" else 1

    def cost(configuration: Configuration) -> tuple[bool, bool, float]:
        value = configuration.value
        return value is None, not configuration.is_complete, sign * (value or 0)

    ordered = sorted(configurations, key=cost)
    complete = [configuration for configuration in ordered if configuration.is_complete]
    if not complete:
        return ordered, False
    groups = [configuration.values for configuration in complete]
    separation = separate(groups, direction, looks, to_come=to_come, compared=TOP_K)
    variances = moderated(groups)
    for place, configuration in enumerate(complete):
        standing = separation.standings[place] if place < TOP_K else None
        ordered[place] = dataclasses.replace(
            configuration, standing=standing, variance=variances[place]
        )
    return ordered, separation.is_paired


def _looks(
    study: optuna.Study, meaning: Mapping[str, Any], configurations: Sequence[Configuration]
) -> Looks:
    """The plan of the replicas: how many each configuration was to have before the first look.

    A study that adds seeds where they decide notes its plan. A grid is trained whole before its
    configurations are judged, so it has as many as it had seeds when it began; where a grid did not
    have its seeds among its keys, as many as all have. A sampler that draws seeds has no such plan.
    """
    noted = noted_plan(study.user_attrs)
    if noted:
        return Looks(noted.least, noted.most)
    counts = {len(configuration.values) for configuration in configurations if configuration.values}
    keys: set[str] = set()
    for trial in study.get_trials(deepcopy=False):
        keys |= trial.distributions.keys()
    varies = any(is_seed(key) or key == REPLICAS for key in keys)
    if varies and meaning.get("sampler", {}).get("name", "grid") == "grid":
        began_with = _first_seeds(study) * replicas_of({}, flat(meaning.get("config", {})))
        if began_with >= 2:
            return Looks(began_with, began_with)
    if len(counts) == 1 and max(counts) >= 2:
        return Looks(max(counts), max(counts))
    return Looks()


def _first_seeds(study: optuna.Study) -> int:
    """With how many seeds a study began that varies them; 0 where it is not known."""
    grown = study.user_attrs.get(FIRST_CHOICES, {})
    for key, count in grown.items():
        if is_seed(key):
            return int(count)
    for trial in study.get_trials(deepcopy=False):
        choices = _choices(seed_in(trial.distributions, None))
        if choices:
            return len(choices)
    return 0


def _to_come(
    study: optuna.Study, meaning: Mapping[str, Any], configurations: Sequence[Configuration]
) -> int:
    """How many configurations may still become complete, as far as they count in a comparison.

    Their number is that of a grid's cells, constraints not looked at; a sampler's is TOP_K.
    """
    states = (TrialState.RUNNING, TrialState.WAITING)
    trials = study.get_trials(deepcopy=False)
    if not any(trial.state in states for trial in trials):
        return 0
    if meaning.get("sampler", {}).get("name") != "grid":
        return TOP_K
    cells = 1
    distributions = {key: kind for trial in trials for key, kind in trial.distributions.items()}
    for key, distribution in distributions.items():
        if not is_seed(key):
            cells *= max(1, len(_choices(distribution)))
    complete = sum(configuration.is_complete for configuration in configurations)
    return max(0, cells - complete)


def _unfinished_seeds(study: optuna.Study, meaning: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """The seeds that are still to come, by configuration, and whether they run.

    While a grid is under way these are also those that it has not begun. Where seeds are added as
    they decide, a configuration lacks none but its first.
    """
    config = flat(meaning.get("config", {}))
    trials = study.get_trials(deepcopy=False)
    states = (TrialState.RUNNING, TrialState.WAITING)
    unfinished = [trial for trial in trials if trial.state in states and trial.params]
    if not unfinished:
        return {}
    plan = noted_plan(study.user_attrs)
    first = math.ceil(plan.least / replicas_of({}, config)) if plan else None
    to_come: dict[str, dict[int, str]] = {}
    is_grid = meaning.get("sampler", {}).get("name") == "grid"
    for trial in trials if is_grid else []:
        seeds = dict.fromkeys(_seed_choices(trial)[:first], "not begun")
        to_come.setdefault(identity(without_seed(trial.params)), {}).update(seeds)
    for trial in unfinished:
        became = "running" if trial.state is TrialState.RUNNING else "waiting"
        is_further = plan and as_seed(seed_in(trial.params, 0)) not in _seed_choices(trial)[:first]
        if not is_further:
            seeds = dict.fromkeys(seeds_of(trial.params, config), became)
            to_come.setdefault(identity(without_seed(trial.params)), {}).update(seeds)
    return to_come


def _seed_choices(trial: FrozenTrial) -> list[int]:
    """All seeds of a study in which they vary."""
    return sorted(map(as_seed, _choices(seed_in(trial.distributions, None))))


def _choices(distribution: BaseDistribution | None) -> Sequence[Any]:
    """The values that a grid has of a parameter, choices or a range; none of an interval."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return ()
