"""How long a sweep will take: `sweep_seconds_left`, from the trials and epochs that were timed."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from cifar_hpo.study.space import Value
from cifar_hpo.trial import TrialSpec
from cifar_hpo.workers.pace import Pace


class TimedTrial(NamedTuple):
    """Seconds of a whole trial, and its cost."""

    seconds: float
    cost: float


class Budget(Protocol):
    """What an estimate asks of a study."""

    def planned(self) -> int | None:
        """How many trials there will be in all; None where nobody can say."""

    def cost(self, params: Mapping[str, Value]) -> float:
        """How much work a configuration is beside others."""

    def waiting_costs(self) -> list[float]:
        """The cost of each planned trial that has not begun, in the order in which they will."""

    def seconds_to_timeout(self) -> float | None:
        """Seconds in which trials may still start; None without a timeout."""


def sweep_seconds_left(
    study: Budget,
    running: Sequence[tuple[Pace, TrialSpec]],
    slots: int,
    ended: Sequence[TimedTrial],
) -> float | None:
    """Seconds until the last trial ends; None before anything was timed, or where nobody can say.

    A trial takes as long as those timed so far, in proportion to its cost where costs are known.
    running: the trials under way. slots: how many trials run at a time. ended: those that ended so
    far, each in one go.
    """
    timed = [*ended, *_timed_by_epochs(study, running)]
    total_cost = sum(trial.cost for trial in timed)
    to_timeout = study.seconds_to_timeout()
    is_endless = study.planned() is None
    if not total_cost or (is_endless and to_timeout is None):
        return None

    seconds_per_cost = sum(trial.seconds for trial in timed) / total_cost
    free_in = _seconds_until_free(study, running, slots, seconds_per_cost)
    if is_endless and to_timeout is not None:  # each slot begins trials until then
        half_a_trial = seconds_per_cost * total_cost / len(timed) / 2
        return max(*free_in, to_timeout + half_a_trial)
    heapq.heapify(free_in)
    for cost in study.waiting_costs():  # each to the slot that is free first
        if to_timeout is not None and free_in[0] > to_timeout:
            break
        heapq.heapreplace(free_in, free_in[0] + cost * seconds_per_cost)
    return max(free_in)


def _timed_by_epochs(study: Budget, running: Sequence[tuple[Pace, TrialSpec]]) -> list[TimedTrial]:
    """What running trials will take in all, by the epochs that they have done."""
    timed = []
    for pace, spec in running:
        seconds = pace.seconds_per_epoch
        if seconds is not None and pace.progress.epochs:
            timed.append(TimedTrial(seconds * pace.progress.epochs, study.cost(spec.params)))
    return timed


def _seconds_until_free(
    study: Budget,
    running: Sequence[tuple[Pace, TrialSpec]],
    slots: int,
    seconds_per_cost: float,
) -> list[float]:
    """When each slot is free, in seconds from now."""
    free_in = []
    for pace, spec in running:
        left = pace.seconds_left
        if left is None:
            expected = study.cost(spec.params) * seconds_per_cost
            left = max(0.0, expected - (time.monotonic() - pace.started))
        free_in.append(left)
    return free_in + [0.0] * (slots - len(free_in))
