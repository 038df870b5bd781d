"""Trials through a launcher that takes batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from cifar_hpo.sweep.batches import run_batches
from cifar_hpo.trial import TrialSpec
from cifar_hpo.workers.jobs import Job


class Launcher:
    """Notes the batches that it is given."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self.batches.append((initial_job_idx, len(job_overrides)))
        return [JobReturn() for _ in job_overrides]


def job(number: int, attempt: int = 0) -> Job:
    config: Any = OmegaConf.create()
    return Job(TrialSpec(number, (f"x={number}",), attempt=attempt), config)


@pytest.mark.parametrize(
    ("jobs", "size", "batches"),
    [
        ([job(0), job(1), job(2)], None, [(0, 3)]),
        ([job(0), job(1), job(2)], 2, [(0, 2), (2, 1)]),
        ([job(0), None, job(1)], None, [(0, 1), (1, 1)]),
        ([job(3), job(5), job(6)], None, [(3, 1), (5, 2)]),
        ([job(0), job(1, attempt=1), job(2, attempt=1)], None, [(0, 1), (1, 2)]),
        ([], None, []),
    ],
)
def test_a_batch_holds_what_follows_in_number_and_has_the_same_attempt(
    jobs: list[Job | None], size: int | None, batches: list[tuple[int, int]]
) -> None:
    launcher = Launcher()
    results = list(run_batches(iter(jobs), launcher, size))  # type: ignore[arg-type]
    assert launcher.batches == batches
    assert [result.job for result in results] == [job for job in jobs if job]


def test_the_next_batch_is_asked_for_after_the_last_was_told_of() -> None:
    told: list[int] = []

    def jobs() -> Iterator[Job | None]:
        yield job(0)
        yield None
        assert told == [0]
        yield job(1)

    for result in run_batches(jobs(), Launcher(), None):  # type: ignore[arg-type]
        told.append(result.job.spec.number)
    assert told == [0, 1]
