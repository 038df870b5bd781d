"""What an interrupted or dead command left in a study: `recover` closes it or takes it up again.

A trial that is left RUNNING is no outcome. One whose outcome was noted is closed with that; any
other has another attempt under its number, if it is still a configuration of the space.
"""

from __future__ import annotations

from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.study import _optuna
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.space import Space
from cifar_hpo.study.stored import StoredStudy
from cifar_hpo.trial import TrialSpec

ATTEMPT = "attempt"
"""The attribute of Optuna's trial that counts its attempts before this one."""


class Recovered(NamedTuple):
    """A trial that goes on: what is to be tried, and Optuna's trial, which is running."""

    spec: TrialSpec
    trial: optuna.Trial


def recover(stored: StoredStudy, space: Space, *, is_grid: bool) -> list[Recovered]:
    """Leave no trial RUNNING without an owner; returns those that go on.

    The study must be locked by this process, so that nobody else works on its trials. is_grid:
    whether waiting trials without parameters, which a sampler would fill in, are of no use.
    """
    recovered = []
    for trial in stored.unfinished_trials():
        outcome = trial.user_attrs.get(OUTCOME)
        if outcome:
            stored.close_trial(trial.number, outcome)
        elif _can_go_on(trial, space):
            recovered.append(_another_attempt(stored, space, trial))
        elif trial.state is TrialState.RUNNING or is_grid:
            stored.set_state(trial.number, TrialState.FAIL)
    return recovered


def _can_go_on(trial: FrozenTrial, space: Space) -> bool:
    """Whether an unfinished trial is a configuration of this space; one that was enqueued and not
    yet asked for has no parameters."""
    if _optuna.is_enqueued(trial) and not trial.params:
        return False
    return space.holds(trial.params)


def _another_attempt(stored: StoredStudy, space: Space, trial: FrozenTrial) -> Recovered:
    """Let a trial run again under its number."""
    stored.set_state(trial.number, TrialState.RUNNING)
    open_trial = stored.open_trial(trial.number)
    attempt = trial.user_attrs.get(ATTEMPT, 0) + 1
    open_trial.set_user_attr(ATTEMPT, attempt)
    overrides = space.overrides(trial.params)
    return Recovered(TrialSpec(trial.number, overrides, trial.params, attempt), open_trial)
