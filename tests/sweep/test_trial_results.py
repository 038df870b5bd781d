"""What a job's end means for its trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from cifar_hpo.errors import TrialError
from cifar_hpo.sweep.trial_results import to_trial_result
from cifar_hpo.trial import FINISHED, Pruned, TrialResult, TrialSpec
from cifar_hpo.workers.jobs import Job, JobResult, LimitPassed, WorkerLost


def job_result(value: object, status: JobStatus = JobStatus.FAILED) -> JobResult:
    """What a job returned or raised."""
    config: Any = OmegaConf.create()
    returned = JobReturn(status=status)
    returned.return_value = value
    return JobResult(Job(TrialSpec(0, ()), config), returned, "run", 2.0, 1)


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        (0.5, {"y": 0.5}),
        ([1, 2.5], {"y": 1.0, "z": 2.5}),
        ({"y": 1, "more": np.float32(0.5)}, {"y": 1.0, "more": 0.5}),
        ("0.5", {}),
        (None, {}),
    ],
)
def test_a_number_or_several_are_the_metrics(value: object, metrics: dict[str, float]) -> None:
    names = ["y", "z"] if isinstance(value, list) else ["y"]
    result = to_trial_result(job_result(value, JobStatus.COMPLETED), names)
    assert (result.state, result.metrics) == (FINISHED, metrics)
    assert (result.seconds, result.run_id, result.worker) == (2.0, "run", 1)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"y": float("inf")},
        {"z": 1},
        {"y": "x"},
        [1, 2],
        TrialResult(FINISHED, {"y": float("nan")}),
    ],
)
def test_what_has_no_value_to_compare_is_failed(value: object) -> None:
    result = to_trial_result(job_result(value, JobStatus.COMPLETED), ["y"])
    assert result.state == "FAILED"
    assert result.error
    assert not result.metrics


@pytest.mark.parametrize(
    ("error", "state", "text", "is_transient"),
    [
        (OSError("no\nluck"), "FAILED", "OSError: no luck", False),
        (TrialError("diverged: loss nan"), "FAILED", "diverged: loss nan", False),
        (WorkerLost("worker killed by SIGKILL"), "FAILED", "worker killed by SIGKILL", True),
        (LimitPassed("timed out"), "FAILED", "timed out", False),
        (Pruned("after epoch 1"), "PRUNED", "after epoch 1", False),
        (
            RuntimeError("postgresql://me:SECRET@host/db is down"),
            "FAILED",
            "RuntimeError: postgresql://me:***@host/db is down",
            False,
        ),
    ],
)
def test_an_error_is_one_line_without_secrets_and_says_whether_a_retry_may_help(
    error: Exception, state: str, text: str, is_transient: bool
) -> None:
    result = to_trial_result(job_result(error), ["y"])
    assert (result.state, result.error, result.transient) == (state, text, is_transient)
