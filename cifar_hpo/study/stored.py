"""A study as Optuna stores it: `StoredStudy` creates and changes its trials; `check_definition`
holds what it means against what is wanted now."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.config.fields import as_list, flat
from cifar_hpo.errors import StudyError
from cifar_hpo.metrics import OF_A_REPLICA, is_spread
from cifar_hpo.study import _optuna, migration, samplers
from cifar_hpo.study.dimensions import Value, dimension_identity
from cifar_hpo.study.distributions import Distributions
from cifar_hpo.study.pruners import pruner
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.space import Space
from cifar_hpo.trial import FINISHED, PRUNED, TrialResult

log = logging.getLogger(__name__)

MEANING = "meaning"
"""The attribute of Optuna's study that says what it means."""


OPENED = "opened"
"""The attribute of Optuna's study that says whether a command has worked on it that shares it."""

FIRST_CHOICES = "first_choices"
"""The attribute of Optuna's study that says with how many choices, two or more, those parameters
began that have gained some: of seeds, with how many it was first looked at."""

FINAL_STAGE = "final_stage"
"""The attribute of a search's Optuna study with the name of its final stage's."""

WARM_START = "warm_start"
"""The attribute of Optuna's trial that says from which study and trial it was taken."""

CHOICES = "choices"
"""In a meaning, by group and choice, what choices of groups set beyond the group's own section, and
that section where it calls code of the user's."""

ATTRIBUTES = (OUTCOME, WARM_START, "attempt", "skipped", "paused", "lost", "rung", "left_rung")
"""What trials have as attributes beside their metrics."""

NOTE_LINE = "*cifar_hpo writes what is below this line anew; what is above it stays.*"

MAX_METRICS = 20
"""Metrics of a trial that are attributes of their own; each takes a row of the database."""

MAX_DRAWN_TRIALS = 2_000
"""Trials whose metrics are: eight of them double the time in which Optuna reads a trial, by some
0.4 ms each time that a study is opened, which ten thousand trials would feel."""

MAX_SHOWN_DIFFERENCES = 5


class StoredStudy(NamedTuple):
    """Optuna's study, where it is stored, the distributions of its parameters, and what its values
    are called."""

    study: optuna.Study
    storage: BaseStorage
    distributions: Distributions
    metrics: Sequence[str] = ()

    @classmethod
    def create_or_load(
        cls,
        storage: BaseStorage,
        name: str,
        space: Space,
        options: Mapping[str, Any],
        meaning: Mapping[str, Any],
        *,
        before_copying: Callable[[], None] = lambda: None,
    ) -> Self:
        """The study of that name with our sampler and pruner; where the space has new choices, its
        trials are given these. It must be locked by this process.

        before_copying: called before that; what it raises ends it. Raises StudyError where the
        study means something else.
        """
        migration.restore(storage, name)
        refuse_another_program(storage, name, options)
        study = _create_or_load(storage, name, options)
        check_definition(study, meaning)
        metrics = as_list(options["metric"])
        _optuna.set_metric_names(study, metrics)
        distributions = Distributions(space, name, study.get_trials(deepcopy=False))
        if distributions.extended:
            before_copying()
            _note_first_choices(study, distributions.extended)
            migration.extend_choices(storage, name, distributions.extended)
            study = _create_or_load(storage, name, options)
        return cls(study, storage, distributions, metrics)

    @property
    def name(self) -> str:
        return self.study.study_name

    def draw_differently(self) -> None:
        """Let the sampler draw other random numbers than those of the commands before, with which
        it shares a seed."""
        if self.study.user_attrs.get(OPENED):
            self.study.sampler.reseed_rng()
        else:
            self.study.set_user_attr(OPENED, value=True)

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def unfinished_trials(self) -> list[FrozenTrial]:
        """Those that a process left running, and those that wait."""
        states = (TrialState.RUNNING, TrialState.WAITING)
        return self.study.get_trials(deepcopy=False, states=states)

    def create_trial(self, params: Mapping[str, Value]) -> optuna.Trial:
        """A running trial of this configuration, past the sampler."""
        distributions = self.distributions.select(params)
        return _optuna.create_running_trial(self.study, self.storage, params, distributions)

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it stands."""
        return self.storage.get_trial(_optuna.trial_id(self.storage, self.name, number))

    def open_trial(self, number: int) -> optuna.Trial:
        """A trial that is there already."""
        return _optuna.open_trial(self.study, self.storage, number)

    def set_state(
        self, number: int, state: TrialState, values: Sequence[float] | None = None
    ) -> None:
        """Change an unfinished trial's state, in one transaction with its values."""
        _optuna.set_state(self.storage, self.name, number, state, values)

    def note_outcome(self, trial: optuna.Trial, outcome: Mapping[str, Any]) -> None:
        """Note how an unfinished trial ended; of a study's first trials the metrics also one by
        one, so that a dashboard can draw them."""
        attributes: dict[str, Any] = {OUTCOME: dict(outcome)}
        if trial.number < MAX_DRAWN_TRIALS:
            attributes |= plain_metrics(outcome["metrics"], self.metrics)
        _optuna.set_user_attributes(self.storage, trial, attributes)

    def close_trial(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Let Optuna know how a trial ended. outcome: as it is noted with the trial."""
        if outcome["values"] is not None:
            self.set_state(number, TrialState.COMPLETE, outcome["values"])
        elif outcome["state"] == PRUNED:
            self.set_state(number, TrialState.PRUNED)
        else:
            self.set_state(number, TrialState.FAIL)

    def warm_start(self, earlier: str, space: Space) -> None:
        """Let the sampler know the finished trials of an earlier study that lie in this space; they
        count for nothing else.

        A study that has begun keeps what it has. Raises StudyError where there is no earlier study.
        """
        if self.trials():
            return
        try:
            study = optuna.load_study(study_name=earlier, storage=self.storage)
        except KeyError:
            raise StudyError(f"hydra.sweeper.warm_start: there is no study {earlier}") from None
        finished = study.get_trials(states=(TrialState.COMPLETE,))
        usable = 0
        for trial in finished:
            if space.holds(trial.params) and len(trial.values) == len(self.study.directions):
                trial.user_attrs = {WARM_START: f"{earlier} {trial.number}"}
                trial.distributions = self.distributions.select(trial.params)
                self.study.add_trial(trial)
                usable += 1
        log.warning("%d of %d trials of study %s known beforehand", usable, len(finished), earlier)


def outcome_of(result: TrialResult, metrics: Sequence[str]) -> dict[str, Any]:
    """A result as it is noted with its trial; values in the order of the study's metrics."""
    values = None
    if result.state == FINISHED and result.metrics.keys() >= set(metrics):
        values = [result.metrics[name] for name in metrics]
    return {
        "state": result.state,
        "values": values,
        "metrics": dict(result.metrics),
        "error": result.error,
        "seconds": round(result.seconds, 3),
        "run_id": result.run_id,
        "worker": result.worker,
        "ended": round(time.time(), 3),
    }


def plain_metrics(metrics: Mapping[str, float], values: Sequence[str]) -> dict[str, float]:
    """The first metrics of a trial but for its values, for single replicas and for their spread."""
    plain: dict[str, float] = {}
    for name, value in metrics.items():
        is_of_replicas = is_spread(name) or OF_A_REPLICA.fullmatch(name)
        if not is_of_replicas and name not in (*values, *ATTRIBUTES) and len(plain) < MAX_METRICS:
            plain[name] = value
    return plain


def write_note(storage: BaseStorage, study: str, text: str) -> None:
    """Let optuna-dashboard show a text as a study's note, below what a user has written there."""
    users = _optuna.note(storage, study).partition(NOTE_LINE)[0].rstrip()
    head = f"{users}\n\n" if users else ""
    _optuna.set_note(storage, study, f"{head}{NOTE_LINE}\n\n{text}")


def choose_name(storage: BaseStorage, name: str, earlier: str | None, *, is_fresh: bool) -> str:
    """The name to open: the one given; the next that is free where a fresh study is wanted; an
    earlier version's where only that is there."""
    taken = optuna.get_all_study_names(storage)
    if is_fresh:
        return next_free_name(name, taken)
    if earlier is not None and earlier in taken and name not in taken:
        return earlier
    return name


def next_free_name(name: str, taken: Sequence[str]) -> str:
    """The name itself, else with the first number from 2 behind it that is not taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _note_first_choices(study: optuna.Study, extended: Mapping[str, BaseDistribution]) -> None:
    """Note how many choices those parameters have had so far that gain some now."""
    counts: dict[str, int] = dict(study.user_attrs.get(FIRST_CHOICES, {}))
    for trial in study.get_trials(deepcopy=False):
        for key in trial.distributions.keys() & extended.keys():
            before = trial.distributions[key]
            if isinstance(before, CategoricalDistribution) and len(before.choices) > 1:
                counts.setdefault(key, len(before.choices))
    study.set_user_attr(FIRST_CHOICES, counts)


def meaning_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A study's meaning by its attributes; empty where it has none, or another program has noted
    something of that name."""
    meaning = attributes.get(MEANING)
    return meaning if isinstance(meaning, dict) else {}


def check_definition(study: optuna.Study, meaning: Mapping[str, Any]) -> None:
    """Continue only what means the same; a new study is given its meaning, and an old one what new
    choices mean.

    Raises StudyError where a study means something else.
    """
    stored = study.user_attrs.get(MEANING)
    wanted = json.loads(json.dumps(meaning))
    if stored is None:
        study.set_user_attr(MEANING, wanted)
        return
    refuse_differences(study.study_name, stored, wanted)
    known = _all_choices(wanted.get(CHOICES, {}), stored.get(CHOICES, {}))
    if known != stored.get(CHOICES, {}):
        study.set_user_attr(MEANING, {**stored, CHOICES: known})


def refuse_differences(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise StudyError where two meanings differ, but for choices that one of them lacks."""
    known, given = stored.get(CHOICES, {}), wanted.get(CHOICES, {})
    before = flat(_as_of_now({**stored, CHOICES: _common_choices(known, given)}))
    now = flat(_as_of_now({**wanted, CHOICES: _common_choices(given, known)}))
    differences = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            differences.append(f"{key} {before.get(key)} → {now.get(key)}")
    if differences:
        shown = ", ".join(differences[:MAX_SHOWN_DIFFERENCES])
        hint = "choose another hydra.sweeper.study_name, or hydra.sweeper.fresh=true"
        raise StudyError(f"study {name} means something else ({shown}); {hint}")


Choices = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What choices of groups set, by group, choice and key."""


def _common_choices(choices: Choices, others: Choices) -> dict[str, dict[str, Any]]:
    """Those that are among the others, too."""
    common: dict[str, dict[str, Any]] = {}
    for group, by_choice in choices.items():
        for choice, values in by_choice.items():
            if choice in others.get(group, {}):
                common.setdefault(group, {})[choice] = values
    return common


def _all_choices(choices: Choices, others: Choices) -> dict[str, dict[str, Any]]:
    """Those of both; of what both have, the second."""
    groups = [*choices, *(group for group in others if group not in choices)]
    return {group: {**choices.get(group, {}), **others.get(group, {})} for group in groups}


def refuse_another_program(storage: BaseStorage, name: str, options: Mapping[str, Any]) -> None:
    """Raise StudyError for a study that another program has made, before anything is written."""
    if name not in optuna.get_all_study_names(storage):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    if isinstance(study.user_attrs.get(MEANING), dict):
        return
    is_alike = study.directions == _directions(options) and MEANING not in study.user_attrs
    if _optuna.count_trials(storage, name) or not is_alike:
        problem = f"study {name} is another program's, which does not say what its trials mean"
        raise StudyError(f"{problem}; choose another name by hydra.sweeper.study_name")


def _directions(options: Mapping[str, Any]) -> list[StudyDirection]:
    return [StudyDirection[direction.upper()] for direction in as_list(options["direction"])]


def _create_or_load(storage: BaseStorage, name: str, options: Mapping[str, Any]) -> optuna.Study:
    is_there = name in optuna.get_all_study_names(storage)
    n_trials = _optuna.count_trials(storage, name) if is_there else 0
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=samplers.sampler(options["sampler"], n_trials),
        pruner=pruner(options["pruner"]),
        directions=_directions(options),
        load_if_exists=True,
    )


def _as_of_now(meaning: Mapping[str, Any]) -> dict[str, Any]:
    """A meaning as this version notes it: version 0.1 had data as often as it was looked at, and a
    space as it was written."""
    now = dict(meaning)
    if "data" in now:
        now["data"] = sorted(set(now["data"]))
    if "space" in now:
        now["space"] = {key: dimension_identity(text) for key, text in now["space"].items()}
    return now
