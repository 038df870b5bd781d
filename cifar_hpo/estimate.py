"""How long a sweep will take: `sweep_seconds_left`, from the trials and epochs that were timed."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence

from cifar_hpo.study import Study
from cifar_hpo.trial import FINISHED, PRUNED, TrialSpec
from cifar_hpo.workers import Worker


def sweep_seconds_left(study: Study, busy: Sequence[tuple[Worker, TrialSpec]], slots: int, known_before: int) -> float | None:
    """Seconds until the last planned trial ends; None before anything was timed or without an end.

    A trial takes as long as those timed so far, in proportion to its cost where costs are known.
    busy: the workers that have a trial, and its spec. slots: how many trials run at a time.
    known_before: counted trials of earlier commands, whose times say nothing of this one.
    """
    planned = study.planned()
    timed = [  # (seconds of a whole trial, its cost)
        (finished.seconds, study.cost(finished.params)) for finished in study.told()[known_before:] if finished.state in (FINISHED, PRUNED)
    ]
    now = time.monotonic()
    for worker, spec in busy:
        left = worker.seconds_left
        if left is not None:
            timed.append((now - worker.started + left, study.cost(spec.params)))
    if planned is None or not timed:
        return None

    seconds_per_cost = sum(seconds for seconds, _ in timed) / sum(cost for _, cost in timed)
    running = []
    for worker, spec in busy:
        left = worker.seconds_left
        if left is None:
            left = max(0.0, study.cost(spec.params) * seconds_per_cost - (now - worker.started))
        running.append(left)
    free_in = running + [0.0] * (slots - len(running))  # when each slot is free, seconds from now
    heapq.heapify(free_in)
    for cost in study.waiting_costs():  # each to the slot that is free first
        heapq.heapreplace(free_in, free_in[0] + cost * seconds_per_cost)
    return max(free_in)
