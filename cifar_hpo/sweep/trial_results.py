"""What a job's end means for its trial: `to_trial_result` of what a worker or launcher gave back,
`from_left` of what the trial left on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobStatus

from cifar_hpo.errors import TrialError, one_line
from cifar_hpo.hydra_internals import return_value
from cifar_hpo.left_results import Left
from cifar_hpo.redaction import redacted
from cifar_hpo.trial import FAILED, TrialResult
from cifar_hpo.workers.jobs import JobResult, LimitPassed, WorkerLost


def to_trial_result(job_result: JobResult, metrics: Sequence[str]) -> TrialResult:
    """What a job's end means for its trial.

    metrics: the study's; a task that returns no `TrialResult` returns their values.
    """
    value = return_value(job_result.returned)
    if job_result.returned.status is JobStatus.COMPLETED:
        result = _of_value(value, metrics, job_result.seconds)
    else:
        result = _of_error(value)
        result = replace(result, seconds=job_result.seconds)
    run_id = result.run_id or job_result.run_id
    seconds = result.seconds
    if job_result.seconds:  # of which a pause of the sweep is no part, as the trial can't know
        seconds = min(seconds, job_result.seconds)
    return replace(result, run_id=run_id, worker=job_result.worker, seconds=seconds)


def from_left(left: Left, metrics: Sequence[str]) -> TrialResult:
    """What a trial came to, by what it left on disk."""
    result = _of_value(left.value, metrics, left.seconds)
    return replace(result, seconds=result.seconds or left.seconds)


def _of_value(value: Any, metrics: Sequence[str], seconds: float) -> TrialResult:
    """By what a task returned."""
    try:
        result = TrialResult.of_value(value, metrics)
    except TrialError as error:
        result = TrialResult.of_error(error)
    return result if result is value else replace(result, seconds=seconds)


def _of_error(error: Exception) -> TrialResult:
    """By what a task raised, or how its worker was lost."""
    if isinstance(error, WorkerLost):
        is_transient = not isinstance(error, LimitPassed)
        return TrialResult(FAILED, error=redacted(one_line(error)), transient=is_transient)
    return TrialResult.of_error(error)
