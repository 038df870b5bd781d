"""Trials through any Hydra launcher: `run_batches` gives it as many jobs as there are now."""

from __future__ import annotations

from collections.abc import Iterator

from hydra.core.utils import env_override

from cifar_hpo.workers.jobs import HydraLauncher, Job, JobResult


def run_batches(
    jobs: Iterator[Job | None], launcher: HydraLauncher, max_size: int | None
) -> Iterator[JobResult]:
    """Launch batch after batch, and yield what came of each of its jobs.

    jobs: None in it says that what comes next depends on what runs now. max_size: of a batch; None
    for no limit.
    """
    waiting = _Waiting(jobs)
    while True:
        batch = waiting.take_batch(max_size)
        if not batch:
            return
        overrides = [job.spec.overrides for job in batch]
        with env_override(dict(batch[0].environment)):
            returned = launcher.launch(overrides, initial_job_idx=batch[0].spec.number)
        for job, job_return in zip(batch, returned, strict=True):
            yield JobResult(job, job_return)


class _Waiting:
    """The jobs that wait; one that does not fit into a batch begins the next."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        self.jobs = jobs
        self.next_job: Job | None = None

    def take_batch(self, max_size: int | None) -> list[Job]:
        """As many as there are now and fit together, up to a size."""
        batch: list[Job] = []
        while max_size is None or len(batch) < max_size:
            job = self.next_job or next(self.jobs, None)
            self.next_job = None
            if job is None:
                break
            if batch and not _continues(batch[-1], job):
                self.next_job = job
                break
            batch.append(job)
        return batch


def _continues(last: Job, job: Job) -> bool:
    """Whether a job may stand behind another in a batch.

    Launchers count a batch's numbers up from the first, and the environment is the only way in for
    what a trial knows of its study: its number and its attempt must follow from the first's.
    """
    is_next = job.spec.number == last.spec.number + 1
    return is_next and job.spec.attempt == last.spec.attempt
