"""How long a sweep will take: `sweep_seconds_left`, from the trials and epochs that were timed."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence

from cifar_hpo.study.study import Study
from cifar_hpo.trial import TrialSpec
from cifar_hpo.workers.pool import Worker

Timed = tuple[float, float]
"""Seconds of a whole trial, and its cost."""


def sweep_seconds_left(
    study: Study,
    busy: Sequence[tuple[Worker, TrialSpec]],
    slots: int,
    ended: Sequence[Timed],
) -> float | None:
    """Seconds until the last trial ends; None before anything was timed, or where nobody can say.

    A trial takes as long as those timed so far, in proportion to its cost where costs are known.
    busy: the workers that have a trial, and its spec. slots: how many trials run at a time. ended:
    those that ended so far, each in one go.
    """
    timed = list(ended)
    for worker, spec in busy:
        if worker.seconds_per_epoch is not None and worker.progress.epochs:
            seconds = worker.seconds_per_epoch * worker.progress.epochs
            timed.append((seconds, study.cost(spec.params)))
    cost_timed = sum(cost for _, cost in timed)
    to_timeout = study.seconds_to_timeout()
    if not cost_timed or (study.planned() is None and to_timeout is None):
        return None

    seconds_per_cost = sum(seconds for seconds, _ in timed) / cost_timed
    running = []
    for worker, spec in busy:
        left = worker.seconds_left
        if left is None:
            expected = study.cost(spec.params) * seconds_per_cost
            left = max(0.0, expected - (time.monotonic() - worker.started))
        running.append(left)
    free_in = running + [0.0] * (slots - len(running))  # when each slot is free, seconds from now
    if study.planned() is None and to_timeout is not None:  # each slot begins trials until then
        half_a_trial = seconds_per_cost * cost_timed / len(timed) / 2
        return max(*free_in, to_timeout + half_a_trial)
    heapq.heapify(free_in)
    for cost in study.waiting_costs():  # each to the slot that is free first
        if to_timeout is not None and free_in[0] > to_timeout:
            break
        heapq.heapreplace(free_in, free_in[0] + cost * seconds_per_cost)
    return max(free_in)
