"""Trials through any Hydra launcher: `run_batches` gives it as many jobs as there are now.

A launcher tells what came of a batch when all of it has ended. Meanwhile `_Watch` notes each result
that a trial leaves on disk, as it comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from cifar_hpo.errors import UserError, named_line
from cifar_hpo.left_results import LeftResults
from cifar_hpo.workers._submitit import cancel_left, jobs_apart
from cifar_hpo.workers.jobs import HydraLauncher, Job, JobResult, WorkerLost
from cifar_hpo.workers.pool import available_cores

log = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5
"""Seconds between two looks for results on disk."""

Take = Callable[[JobResult], None]
"""Notes what came of a job."""


def run_batches(
    jobs: Iterator[Job | None],
    launcher: HydraLauncher,
    max_size: int | None,
    *,
    take: Take,
    left: LeftResults,
    check: Callable[[], None] = lambda: None,
    while_launched: Callable[[], AbstractContextManager[object]] = nullcontext,
    is_alone: bool = False,
) -> Iterator[JobResult]:
    """Launch batch after batch, and yield what came of each job at the end of its batch.

    jobs: None in it says that what comes next depends on what runs now, here or elsewhere. check:
    called before each batch and while there is none; what it raises ends the sweep. max_size: of a
    batch; None for as many as the launcher runs at a time. take: is given a result before its batch
    ends, from another thread, while this one waits for the launcher. left: where trials leave their
    results. while_launched: entered while the launcher has control. is_alone: whether no other
    command can have jobs of this study.
    """
    if is_alone:
        cancel_left(launcher)
    waiting = _Waiting(jobs)
    size = max_size or jobs_at_a_time(launcher)
    while True:
        check()
        batch = waiting.take_batch(size)
        if not batch and waiting.is_exhausted:
            return
        if not batch:
            time.sleep(LOOK_INTERVAL)
            continue
        environment = env_override(dict(batch[0].environment))
        with environment, _Watch(batch, left, take), while_launched():
            returned = _launch(launcher, batch)
        for job, job_return in zip(batch, returned, strict=True):
            yield JobResult(job, job_return)


def _launch(launcher: HydraLauncher, batch: Sequence[Job]) -> Sequence[JobReturn]:
    """What came of each job; of all of them that they are lost, where the launcher gave up.

    Launchers do so when one of their processes is killed. What the others left on disk counts.
    """
    overrides = [job.spec.overrides for job in batch]
    try:
        with jobs_apart(launcher):
            return launcher.launch(overrides, initial_job_idx=batch[0].spec.number)
    except (HydraException, UserError):
        raise
    except Exception as error:  # noqa: BLE001  each launcher has errors of its own
        cause = named_line(error)
        log.warning("the launcher gave up a batch: %s", cause)
        lost = []
        for job in batch:
            returned = JobReturn(overrides=job.spec.overrides, status=JobStatus.FAILED)
            returned.return_value = WorkerLost(f"the launcher gave up: {cause}")
            lost.append(returned)
        return lost


def jobs_at_a_time(launcher: HydraLauncher) -> int:
    """How many jobs a launcher runs at a time, as far as its config tells: Hydra's own runs one,
    joblib's has `n_jobs`, submitit's for SLURM `array_parallelism`; for any other it is the number
    of cores.

    So a study learns of its trials as early as may be, and stops in time.
    """
    options = OmegaConf.select(launcher.config, "hydra.launcher", default={})
    cores = available_cores()
    if str(options.get("_target_", "")).endswith("BasicLauncher"):
        return 1
    of_array = options.get("array_parallelism")
    if isinstance(of_array, int):
        return max(1, of_array)
    n_jobs = options.get("n_jobs")
    if not isinstance(n_jobs, int) or n_jobs == 0:
        return cores
    return n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


class _Watch:
    """Looks for the results that a batch's jobs leave on disk, while a launcher runs them."""

    def __init__(self, batch: Sequence[Job], left: LeftResults, take: Take) -> None:
        self.waiting = {job.spec.number: job for job in batch}
        self.left = left
        self.take = take
        self.error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="results", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.error and not error:
            raise self.error

    def _look(self) -> None:
        while not self._ended.wait(LOOK_INTERVAL):
            try:
                self._take_left()
            except Exception as error:  # noqa: BLE001  raised again where the batch ends
                self.error = error
                return

    def _take_left(self) -> None:
        for number in self.left.numbers():
            job = self.waiting.get(number)
            left = job and self.left.read(number, job.spec.overrides)
            if job and left:
                del self.waiting[number]
                returned = JobReturn(overrides=job.spec.overrides, status=JobStatus.COMPLETED)
                returned.return_value = left.value
                self.take(JobResult(job, returned, seconds=left.seconds))


class _Waiting:
    """The jobs that wait; one that does not fit into a batch begins the next."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        self.jobs = jobs
        self.next_job: Job | None = None
        self.is_exhausted = False

    def take_batch(self, max_size: int) -> list[Job]:
        """As many as there are now and fit together, up to a size."""
        batch: list[Job] = []
        while len(batch) < max_size:
            job = self.next_job or self._pull()
            self.next_job = None
            if job is None:
                break
            if batch and not _continues(batch[-1], job):
                self.next_job = job
                break
            batch.append(job)
        return batch

    def _pull(self) -> Job | None:
        try:
            return next(self.jobs)
        except StopIteration:
            self.is_exhausted = True
            return None


def _continues(last: Job, job: Job) -> bool:
    """Whether a job may stand behind another in a batch.

    Launchers count a batch's numbers up from the first, and the environment is the only way in for
    what a trial knows of its study: its number and its attempt must follow from the first's.
    """
    is_next = job.spec.number == last.spec.number + 1
    return is_next and job.spec.attempt == last.spec.attempt
