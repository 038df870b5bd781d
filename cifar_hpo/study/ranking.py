"""Which trials counted, and which is best: `FinishedTrial` is a counted trial, `CountedTrials` are
a study's; `ranked` and `pareto_front` order them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cifar_hpo.redaction import redacted
from cifar_hpo.study.space import Value, identity

if TYPE_CHECKING:  # a sweep is checked before Optuna is loaded
    from optuna.trial import FrozenTrial

OUTCOME = "outcome"
"""The attribute of Optuna's trial under which its outcome is noted."""

LATE_RUN = "late_run_{number}"
"""The attribute of Optuna's study that says in which MLflow run a trial was logged after it was
counted; a finished trial of Optuna's can't be changed."""


MAX_NUMBERS = 20
"""Trials that are listed where one is not there."""


NOTED = frozenset({"state", "values", "metrics", "error"})
"""What each outcome has that is ours; other programs may note something of that name."""


@dataclass(frozen=True)
class FinishedTrial:
    """A counted trial, as rankings show it; values in the order of the study's metrics, None where
    it did not finish.

    seconds: of the attempt that counted, which ended at `ended`, in seconds since 1970, in the slot
    `worker`.
    """

    number: int
    params: Mapping[str, Value]
    state: str
    values: Sequence[float] | None
    metrics: Mapping[str, float]
    error: str
    seconds: float
    run_id: str
    worker: int | None = None
    ended: float = 0.0

    @property
    def value(self) -> float | None:
        return self.values[0] if self.values else None


def finished_trials(
    trials: Iterable[FrozenTrial], study_attributes: Mapping[str, Any]
) -> list[FinishedTrial]:
    """The outcomes among Optuna's trials; of one configuration tried again after a failure, the
    last.

    study_attributes: of Optuna's study, among them the runs that were logged late.
    """
    finished: dict[str, FinishedTrial] = {}
    for trial in trials:
        outcome = trial.user_attrs.get(OUTCOME)
        if isinstance(outcome, dict) and outcome.keys() >= NOTED:
            key = identity(trial.params)
            finished.pop(key, None)
            outcome = {**outcome, "error": redacted(outcome["error"])}  # noted by earlier versions
            late_run = study_attributes.get(LATE_RUN.format(number=trial.number))
            if late_run:
                outcome = outcome | {"run_id": late_run}
            finished[key] = FinishedTrial(number=trial.number, params=trial.params, **outcome)
    return list(finished.values())


class CountedTrials:
    """A study's counted trials in the order in which they ended, one for each configuration, and
    the best of them.

    To count a trial takes as long behind ten thousand others as behind none. best: the first of
    `ranked`; None where no trial has a value. since_best: trials that ended after the first metric
    was better than ever before.
    """

    def __init__(self, directions: Sequence[str], trials: Iterable[FinishedTrial] = ()) -> None:
        self._directions = directions
        self._signs = _signs(directions)
        self._trials: dict[str, FinishedTrial] = {}
        self.best: FinishedTrial | None = None
        self._forget_best()
        for trial in trials:
            self.count(trial)

    def __iter__(self) -> Iterator[FinishedTrial]:
        return iter(list(self._trials.values()))  # a copy: another thread shows what goes on

    def __len__(self) -> int:
        return len(self._trials)

    def count(self, trial: FinishedTrial) -> None:
        """Of one configuration tried again after a failure, the last trial counts."""
        configuration = identity(trial.params)
        earlier = self._trials.pop(configuration, None)
        self._trials[configuration] = trial
        if earlier is None:
            self._compare(trial)
            return
        self._forget_best()
        for counted in self:
            self._compare(counted)

    def set_run(self, number: int, run_id: str) -> bool:
        """Give a trial its MLflow run; returns whether it is counted and had another one."""
        for configuration, trial in self._trials.items():
            if trial.number == number and trial.run_id != run_id:
                logged = replace(trial, run_id=run_id)
                self._trials[configuration] = logged
                if self.best is trial:
                    self.best = logged
                return True
        return False

    def ranked(self) -> list[FinishedTrial]:
        """All of them, the best first."""
        return ranked(list(self), self._directions)

    def _forget_best(self) -> None:
        self.best = None
        self.since_best = -1
        self._least = math.inf
        self._best_place: tuple[list[float], int] = ([math.inf], 0)

    def _compare(self, trial: FinishedTrial) -> None:
        """Hold one more trial against the best one."""
        self.since_best += 1
        if not trial.values:
            return
        loss = _loss(trial.values, self._signs)
        if loss[0] < self._least:
            self._least = loss[0]
            self.since_best = 0
        # The lexicographically least is in the Pareto front, and its first.
        place = (loss, trial.number)
        if place < self._best_place:
            self.best, self._best_place = trial, place


def no_trial(study: str, number: int, trials: Sequence[FinishedTrial]) -> str:
    """What is said where a study has no counted trial of a number: those that it has."""
    numbers = sorted(trial.number for trial in trials)
    if not numbers:
        return f"study {study} has no trial {number}: none has ended yet"
    shown = ", ".join(map(str, numbers[:MAX_NUMBERS]))
    more = f" … {numbers[-1]}" if len(numbers) > MAX_NUMBERS else ""
    return f"study {study} has no trial {number}; there are: {shown}{more}"


def pareto_front(trials: Iterable[FinishedTrial], directions: Sequence[str]) -> set[int]:
    """Numbers of the finished trials of which no other is as good in every metric and better in
    one: the Pareto front."""
    import numpy as np  # only here: a sweep is checked without it

    by_loss: dict[tuple[float, ...], list[int]] = {}
    for number, loss in _losses(trials, directions).items():
        by_loss.setdefault(tuple(loss), []).append(number)
    front: set[int] = set()
    rivals = np.array(sorted(by_loss))  # (n, metrics)
    while len(rivals):
        best = rivals[0]  # in lexicographic order nothing behind it is better everywhere
        front.update(by_loss[tuple(best.tolist())])
        rivals = rivals[(rivals < best).any(axis=1)]
    return front


def ranked(trials: Sequence[FinishedTrial], directions: Sequence[str]) -> list[FinishedTrial]:
    """Finished trials, the best first, then the others. For several metrics the Pareto front comes
    first."""
    losses = _losses(trials, directions)
    front = pareto_front(trials, directions) if len(directions) > 1 else set(losses)

    def place(trial: FinishedTrial) -> tuple[bool, bool, list[float], int]:
        number = trial.number
        return number not in losses, number not in front, losses.get(number, []), number

    return sorted(trials, key=place)


def _losses(trials: Iterable[FinishedTrial], directions: Sequence[str]) -> dict[int, list[float]]:
    """The values of finished trials by number, signed so that less is better."""
    signs = _signs(directions)
    return {trial.number: _loss(trial.values, signs) for trial in trials if trial.values}


def _signs(directions: Sequence[str]) -> list[int]:
    return [-1 if direction == "maximize" else 1 for direction in directions]


def _loss(values: Sequence[float], signs: Sequence[int]) -> list[float]:
    return [sign * value for sign, value in zip(signs, values, strict=True)]
