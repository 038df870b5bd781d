"""What an interrupted or dead command left in a study: `recover` closes it or takes it up again.

A trial that is left RUNNING is no outcome. One whose outcome was noted, or that left its result on
disk, is closed with that; any other has another attempt under its number, if it is still a
configuration of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.study import _optuna
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.space import Space, Value
from cifar_hpo.study.stored import StoredStudy
from cifar_hpo.trial import TrialSpec

ATTEMPT = "attempt"
"""The attribute of Optuna's trial that counts its attempts before this one."""


PAUSED_OUTCOME = "paused"
"""The attribute of Optuna's trial with the outcome that it will have unless it goes on; None or
missing for one that does not pause."""

LOST = "lost"
"""The attribute of Optuna's trial that counts the processes that died with it."""

MAX_LOST = 10
"""Processes that may die with a trial before that is its outcome: it may well be what kills them,
and would go from host to host for ever."""


class Recovered(NamedTuple):
    """A trial that goes on: what is to be tried, and Optuna's trial, which is running."""

    spec: TrialSpec
    trial: optuna.Trial


KnownOutcome = Callable[[TrialSpec, int], Mapping[str, Any] | None]
"""Gives the outcome of a trial that left it on disk, or that has lost so many processes, as it is
noted with the trial; None where it is to go on."""


def recover(
    stored: StoredStudy,
    trials: Iterable[FrozenTrial],
    space: Space,
    *,
    is_grid: bool,
    known_outcome: KnownOutcome,
    is_wanted: Callable[[Mapping[str, Value]], bool],
) -> list[Recovered]:
    """Leave none of these unfinished trials RUNNING without a holder; returns those that go on.

    trials: nobody may work on them, and nobody else may take them meanwhile. is_grid: whether
    waiting trials without parameters, which a sampler would fill in, are of no use. is_wanted:
    whether a configuration may go on now; another one waits.
    """
    recovered = []
    for trial in trials:
        can_go_on = _can_go_on(trial, space)
        outcome = trial.user_attrs.get(OUTCOME)
        if not outcome and can_go_on:
            outcome = known_outcome(_spec(space, trial), _lost(trial))
            if outcome:
                stored.note_outcome(stored.open_trial(trial.number), outcome)
        if outcome:
            stored.close_trial(trial.number, outcome)
        elif can_go_on and is_wanted(trial.params):
            recovered.append(another_attempt(stored, space, trial))
        elif can_go_on:
            stored.set_state(trial.number, TrialState.WAITING)
        elif trial.state is TrialState.RUNNING or is_grid:
            stored.set_state(trial.number, TrialState.FAIL)
    return recovered


def _can_go_on(trial: FrozenTrial, space: Space) -> bool:
    """Whether an unfinished trial is a configuration of this space; one that was enqueued and not
    yet asked for has no parameters."""
    if _optuna.is_enqueued(trial) and not trial.params:
        return False
    return space.holds(trial.params)


def another_attempt(stored: StoredStudy, space: Space, trial: FrozenTrial) -> Recovered:
    """Let a trial run again under its number."""
    stored.set_state(trial.number, TrialState.RUNNING)
    open_trial = stored.open_trial(trial.number)
    spec = _spec(space, trial)
    open_trial.set_user_attr(ATTEMPT, spec.attempt)
    if trial.user_attrs.get(PAUSED_OUTCOME):
        open_trial.set_user_attr(PAUSED_OUTCOME, None)
    if trial.state is TrialState.RUNNING:
        open_trial.set_user_attr(LOST, _lost(trial))
    return Recovered(spec, open_trial)


def _lost(trial: FrozenTrial) -> int:
    """How many processes have died with a trial, the last one among them."""
    before: int = trial.user_attrs.get(LOST, 0)
    return before + (trial.state is TrialState.RUNNING)


def _spec(space: Space, trial: FrozenTrial) -> TrialSpec:
    """Another attempt at a trial."""
    attempt = trial.user_attrs.get(ATTEMPT, 0) + 1
    return TrialSpec(trial.number, space.overrides(trial.params), trial.params, attempt)
