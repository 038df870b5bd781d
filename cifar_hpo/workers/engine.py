"""Where the jobs of a sweep go: an `Engine` is all that feeding them asks of local processes or of
a cluster.

A `WorkerState` is what a slot's worker does, as the side that feeds it knows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from hydra.core.utils import JobReturn, JobStatus

from cifar_hpo.workers.jobs import HydraLauncher, Job, JobResult, PruningQuery
from cifar_hpo.workers.pace import Pace


class WorkerState:
    """A slot's worker and what it is doing.

    job: the one it has, None while it is idle. jobs_done: since it was started. pace: of its job.
    """

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.jobs_done = 0
        self.job: Job | None = None
        self.pace = Pace(time.monotonic())

    def start(self, job: Job) -> None:
        """Give it a job."""
        self.pace = Pace(time.monotonic())
        self.job = job

    def finish(self, returned: JobReturn) -> JobResult:
        """What came of its job; it is idle from now on."""
        assert self.job is not None
        job = self.job
        self.job = None
        self.jobs_done += 1
        seconds = time.monotonic() - self.pace.started
        return JobResult(job, returned, self.pace.progress.run_id, seconds, self.slot)

    def fail(self, error: Exception) -> JobResult:
        """The same for a job that did not come to an end of its own."""
        returned = JobReturn(status=JobStatus.FAILED)
        returned.return_value = error
        return self.finish(returned)


class Engine(Protocol):
    """The slots for jobs, as a context manager: at its end no worker is left.

    n_workers: jobs at a time. threads: of each worker.
    """

    n_workers: int
    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def text(self) -> str:
        """What else the user should know of them; empty where that is nothing."""

    @property
    def workers(self) -> Sequence[WorkerState]:
        """Those that are there; another thread may read them."""

    @property
    def busy(self) -> Sequence[WorkerState]:
        """The workers that have a job."""

    def idle_worker(self) -> WorkerState | None:
        """A worker without a job; None where all are busy, or not there yet."""

    def start(self, worker: Any, job: Job) -> None:
        """Give an idle worker a job, now or when it can be alone where it is to be."""

    def pause(self) -> bool:
        """Let jobs wait at their next report; returns whether they can, else they go on."""

    def resume(self, seconds: float) -> None:
        """Let them go on after a pause of so many seconds, which count for none of them."""

    def shares_gpu(self, slot: int | None) -> bool:
        """Whether a slot's GPU is also another's."""

    def drop(self, number: int) -> None:
        """End the job of a trial, if it has one, of which nobody wants to know any more."""

    def wait(self) -> Iterator[JobResult | PruningQuery]:
        """Block until something happens, but not for long; yield what did."""

    def close(self) -> None:
        """End every worker, whatever it is doing."""

    def kill(self) -> None:
        """End every worker at once, from any thread, and wait for none."""


class EngineLauncher(HydraLauncher, Protocol):
    """A launcher of ours, whose jobs need not come in batches."""

    def engine(self, jobs: int | None) -> Engine:
        """Where they go. jobs: how many there are at most, where that is known."""
