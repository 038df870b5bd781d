"""Warm local processes: a `Pool` has a slot for each, `stream` feeds them jobs.

A server process imports what trials need while the parent composes; workers are forked from it. The
parent supervises: a worker that dies, hangs or grows too large costs its own trial only, and a
worker whose parent dies ends itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, Self

import cloudpickle
import psutil
from hydra.core.utils import JobReturn, configure_log, env_override

from cifar_hpo import paths
from cifar_hpo.console import Heartbeat
from cifar_hpo.task import as_task
from cifar_hpo.trial import Progress, TrialSpec
from cifar_hpo.workers import _multiprocessing as forking
from cifar_hpo.workers.engine import Engine, EngineLauncher
from cifar_hpo.workers.jobs import (
    PAUSE,
    RESUME,
    HydraLauncher,
    Job,
    JobResult,
    LimitPassed,
    PruningQuery,
    WorkerLost,
    compose,
)
from cifar_hpo.workers.process import Worker, WorkerSettings, pack_task, thread_environment
from cifar_hpo.workers.slots import Slots

log = logging.getLogger(__name__)

SUPERVISION_INTERVAL = 0.5
"""Seconds between two looks at time and memory limits; a death is noticed at once."""


class WorkersLauncher(HydraLauncher, Protocol):
    """Our own launcher, with its options, as in `config.sweep.Launcher`."""

    options: dict[str, Any]


class Pool:
    """The slots of this machine. Use as a context manager: at its end no worker is left.

    slots: one for each core that this process may use, or for each GPU where trials use GPUs, but
    no more than jobs where that is known; n_workers of them, each with `threads` cores. The
    launcher's options may say otherwise. What a worker prints goes to a file in the sweep's folder.

    A job that is to be alone on its GPU waits until the GPU's other workers have ended their jobs;
    these processes are ended, too, because they keep its memory. Meanwhile it gets no other job.

    Raises ConfigError for GPUs that are not here.
    """

    def __init__(self, launcher: WorkersLauncher, jobs: int | None = None) -> None:
        self.launcher = launcher
        self.options = launcher.options
        self.task = as_task(launcher.task_function)
        self.slots = Slots.from_options(
            self.options, self.task.computes_with, cores=available_cores(), jobs=jobs
        )
        self.n_workers = self.slots.count
        self.threads = self.slots.threads
        self.packed_task = pack_task(launcher)
        self.workers: list[Worker] = []
        self.temporary = ""  # the folder of the workers' temporary files
        self.is_paused = False
        self._waiting: dict[int, Job] = {}  # by their slot, the jobs that are to be alone
        self._environment = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start to import what the task says that its trials need."""
        self._environment.enter_context(env_override(self.slots.parents_environment))
        if not self.slots.gpus:
            with env_override(thread_environment(self.threads)):
                forking.start_server(self.task.imports)
        self.temporary = tempfile.mkdtemp(prefix=paths.TEMPORARY)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        forking.kill_server()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._environment.close()

    def close(self) -> None:
        """End every worker, whatever it is doing."""
        while self.workers:
            self.workers.pop().kill()

    def kill(self) -> None:
        """End every worker at once, from any thread, and wait for none."""
        for worker in list(self.workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.system_process.kill()

    @property
    def busy(self) -> list[Worker]:
        """The workers that have a job."""
        return [worker for worker in self.workers if worker.job]

    def idle_worker(self) -> Worker | None:
        """A worker without a job, started if there is a slot for it; None where all are busy."""
        for worker in list(self.workers):
            if worker.job or self._is_closed(worker.slot):
                continue
            if worker.is_alive:
                return worker
            self._retire(worker)
        slot = self._free_slot()
        return None if slot is None else self._new_worker(slot)

    def environment(self, slot: int) -> dict[str, str]:
        """What a slot's worker has in its environment, from its start on."""
        return thread_environment(self.threads) | self.slots.environment(slot)

    @property
    def text(self) -> str:
        """Which GPUs trials have; empty where they have none."""
        return self.slots.text

    def shares_gpu(self, slot: int | None) -> bool:
        """Whether a slot's GPU is also another's."""
        return self.slots.shares_gpu(slot)

    def pause(self) -> bool:
        """Let each job wait at the end of its next epoch, which it reports."""
        self.is_paused = True
        for worker in self.busy:
            worker.send(PAUSE)
        return True

    def resume(self, seconds: float) -> None:
        """Let all jobs go on."""
        self.is_paused = False
        for worker in self.busy:
            worker.pace.skip(seconds)
        for worker in self.workers:
            worker.send(RESUME)

    def start(self, worker: Worker, job: Job) -> None:
        """Give an idle worker a job, or have its slot wait until the job can be alone."""
        if job.is_alone and worker.gpu is not None:
            self._waiting[worker.slot] = job
            self._start_waiting()
        else:
            worker.start(job)

    def drop(self, number: int) -> None:
        """End the worker that has the job of a trial."""
        for slot, job in list(self._waiting.items()):
            if job.spec.number == number:
                del self._waiting[slot]
        for worker in self.busy:
            if worker.job and worker.job.spec.number == number:
                self._retire(worker)

    def _start_waiting(self) -> None:
        """Start the jobs whose GPU has nothing else to do by now, each in a worker of its own."""
        for slot, job in list(self._waiting.items()):
            neighbours = self._on_gpu_of(slot)
            if any(worker.job for worker in neighbours):
                continue
            for worker in neighbours:
                self._retire(worker)
            del self._waiting[slot]
            self._new_worker(slot).start(job)

    def _on_gpu_of(self, slot: int) -> list[Worker]:
        """The workers that have the GPU of a slot."""
        gpu = self.slots.gpu(slot)
        return [worker for worker in self.workers if self.slots.gpu(worker.slot) == gpu]

    def _is_closed(self, slot: int) -> bool:
        """Whether another job is alone on the GPU of a slot, or waits for that."""
        gpu = self.slots.gpu(slot)
        if gpu is None:
            return False
        if any(self.slots.gpu(waiting) == gpu for waiting in self._waiting):
            return True
        return any(worker.job and worker.job.is_alone for worker in self._on_gpu_of(slot))

    def _new_worker(self, slot: int) -> Worker:
        worker = Worker(self._settings(slot))
        self.workers.append(worker)
        return worker

    def _free_slot(self) -> int | None:
        taken = {worker.slot for worker in self.workers}
        for slot in range(self.n_workers):
            if slot not in taken and not self._is_closed(slot):
                return slot
        return None

    def _settings(self, slot: int) -> WorkerSettings:
        folder = Path(self.launcher.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        gpu = self.slots.gpu(slot)
        return WorkerSettings(
            slot=slot,
            threads=self.threads,
            log=folder / paths.WORKER_LOG.format(slot=slot),
            temporary=self.temporary,
            packed_task=self.packed_task,
            gpu=gpu.id if gpu else None,
            environment=self.slots.environment(slot),
        )

    def _retire(self, worker: Worker) -> None:
        worker.kill()
        self.workers.remove(worker)

    def wait(self) -> Iterator[JobResult | PruningQuery]:
        """Block until something happens, at most SUPERVISION_INTERVAL; yield what did."""
        workers = {worker.pipe: worker for worker in self.busy}
        for pipe in connection.wait(list(workers), SUPERVISION_INTERVAL):
            worker = workers[pipe]  # type: ignore[index]
            yield from self._receive(worker)
            self._retire_if_worn(worker)
        for worker in self.busy if not self.is_paused else []:
            limit = passed_limit(worker, self.options)
            if limit:
                self._retire(worker)
                yield worker.fail(LimitPassed(limit))
        self._start_waiting()

    def _receive(self, worker: Worker) -> Iterator[JobResult | PruningQuery]:
        """What a worker has sent, to the last."""
        try:
            while worker.job and worker.pipe.poll():
                message = worker.pipe.recv()
                if not isinstance(message, Progress):
                    yield worker.finish(cloudpickle.loads(message))
                    continue
                worker.pace.note(message)
                if worker.job.is_pruned and message.value is not None:
                    yield PruningQuery(worker.job, message, worker.pipe.send)
        except (EOFError, ConnectionResetError):  # nobody but the worker holds the other end
            self._retire(worker)
            yield worker.fail(WorkerLost(worker.cause_of_death()))

    def _retire_if_worn(self, worker: Worker) -> None:
        """Each new shape of network leaves some memory behind; a new worker has none of it."""
        limit = self.options.get("trials_per_worker")
        is_idle = worker in self.workers and not worker.job
        is_worn = worker.is_spent or (limit and worker.jobs_done >= limit)
        if is_idle and is_worn:
            self._retire(worker)


def passed_limit(worker: Worker, options: Mapping[str, Any]) -> str:
    """The limit that a worker's job has passed, as a sentence; empty where it passed none."""
    timeout = options.get("trial_timeout")
    if timeout and time.monotonic() - worker.pace.started > timeout:
        return f"timed out after {timeout:g} s (hydra.launcher.trial_timeout)"
    memory = options.get("memory_limit")
    if memory:
        used = worker.gibibytes
        if used > memory:
            return f"used {used:.1f} GiB, more than {memory:g} (hydra.launcher.memory_limit)"
    return ""


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stream(
    jobs: Iterator[Job | None], pool: Engine, check: Callable[[], None] = lambda: None
) -> Iterator[JobResult | PruningQuery]:
    """Feed jobs to idle workers, and yield each result as it comes and each question on the way.

    A job is pulled only when a slot is free. `jobs` yields None when there is nothing to start
    until a running one has ended, here or elsewhere. check: called at every turn; what it raises
    ends the stream.
    """
    is_exhausted = False
    while True:
        while not is_exhausted:
            check()
            worker = pool.idle_worker()
            if worker is None:  # all are busy, or on their way
                break
            try:
                job = next(jobs)
            except StopIteration:
                is_exhausted = True
                break
            if job is None:
                break
            pool.start(worker, job)
        if is_exhausted and not pool.busy:
            return
        check()
        yield from pool.wait()


def launch(
    launcher: EngineLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Hydra's contract: run a batch and return it in order. A sweeper that knows `stream` has no
    need of it."""
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    specs = []
    for place, overrides in enumerate(job_overrides):
        specs.append(TrialSpec(initial_job_idx + place, tuple(overrides)))
    returned: dict[int, JobReturn] = {}

    def print_status() -> None:
        log.info("%d of %d jobs done", len(returned), len(specs))

    with launcher.engine(len(specs)) as pool, Heartbeat(print_status):
        jobs = (Job(spec, compose(launcher, spec.number, spec.overrides)) for spec in specs)
        for event in stream(jobs, pool):
            if isinstance(event, JobResult):
                returned[event.job.spec.number] = event.returned
    return [returned[number] for number in sorted(returned)]
