"""A study's trials that wait on a rung: `Pauses` says who is to wait, who goes on, and what becomes
of those that never do.

Such a trial is WAITING for Optuna, with the outcome that it has if it does not go on. Where trials
pause nobody else works on the study: `Study.open` refuses a shared one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.recovery import PAUSED_OUTCOME, Recovered, another_attempt
from cifar_hpo.study.rungs import Rungs
from cifar_hpo.study.space import Space, identities
from cifar_hpo.study.stored import WARM_START, StoredStudy
from cifar_hpo.trial import Progress

RUNG = "rung"
"""The attribute of Optuna's trial with the epoch after which it was last told to pause, and the one
with the epoch of the last rung from which it has gone on."""

LEFT_RUNG = "left_rung"


class Pauses:
    """The paused trials of a study.

    space: of those that may go on. rungs: the pruner's, where trials pause; None where they never
    do, so that all of this comes to nothing.
    """

    def __init__(self, stored: StoredStudy, space: Space, rungs: Rungs | None) -> None:
        self._stored = stored
        self._space = space
        self._rungs = rungs

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def _numbers(self) -> list[int]:
        return self._rungs.paused if self._rungs else []

    def configurations(self) -> set[str]:
        """The identities of what pauses."""
        return identities(self._stored.trial(number).params for number in self._numbers)

    def reach(self, trial: optuna.Trial, progress: Progress) -> bool:
        """A running trial has come so far; returns whether it is to pause, on a rung before its
        end."""
        if self._rungs is None or progress.value is None or progress.epoch >= progress.epochs:
            return False
        is_to_pause = self._rungs.reach(trial.number, progress.epoch, progress.value)
        if is_to_pause:
            trial.set_user_attr(RUNG, progress.epoch)
        return is_to_pause

    def add(self, trial: optuna.Trial, outcome: Mapping[str, Any]) -> None:
        """Let a trial that was told to pause wait on its rung. outcome: what it has come to if it
        stays there."""
        assert self._rungs is not None
        trial.set_user_attr(PAUSED_OUTCOME, dict(outcome))
        self._stored.set_state(trial.number, TrialState.WAITING)
        self._rungs.pause(trial.number, trial.user_attrs[RUNG])

    def promote(self, running: Collection[int], *, are_all_begun: bool) -> Recovered | None:
        """The trial that leaves its rung and is RUNNING from now on; None where none is.

        running: trials by number. are_all_begun: whether there will be no new one.
        """
        if self._rungs is None:
            return None
        promoted = self._rungs.promoted(running, are_all_begun=are_all_begun)
        if promoted is None:
            return None
        number, epoch = promoted
        self._stored.open_trial(number).set_user_attr(LEFT_RUNG, epoch)
        self._rungs.go_on(number, epoch)
        return another_attempt(self._stored, self._space, self._stored.trial(number))

    def recover(self, outcome_of_pause: Callable[[FrozenTrial], Mapping[str, Any]]) -> set[int]:
        """Put an earlier command's trials back on their rungs; returns which of them pause.

        outcome_of_pause: what a trial has come to that was told to pause, and of which its command
        did not live to note that it did.
        """
        if self._rungs is None:
            return set()
        for trial in self._stored.trials():
            if WARM_START in trial.user_attrs:
                continue  # another study's
            for epoch, value in sorted(trial.intermediate_values.items()):
                self._rungs.reach(trial.number, epoch, value)
            left = trial.user_attrs.get(LEFT_RUNG, 0)
            if left:
                self._rungs.go_on(trial.number, left)
            if trial.state.is_finished() or not self._space.holds(trial.params):
                continue
            rung = trial.user_attrs.get(RUNG, 0)
            if trial.user_attrs.get(PAUSED_OUTCOME):
                # Where no rung is noted, as earlier versions did, it is that of the last value.
                self._rungs.pause(trial.number, rung or max(trial.intermediate_values))
            elif rung > left:
                self.add(self._stored.open_trial(trial.number), outcome_of_pause(trial))
        return set(self._rungs.paused)

    def end(self) -> Iterator[FinishedTrial]:
        """End them one by one, since nothing else is left to try; gives what each came to."""
        for number in self._numbers:
            trial = self._stored.trial(number)
            outcome = trial.user_attrs[PAUSED_OUTCOME]
            self._stored.note_outcome(self._stored.open_trial(number), outcome)
            self._stored.close_trial(number, outcome)
            assert self._rungs is not None
            self._rungs.end(number)
            yield FinishedTrial(number=number, params=trial.params, **outcome)
