"""Warm local processes: a `Pool` has a slot for each, `stream` feeds them jobs and yields what
comes of each.

A server process imports what trials need, once, while the parent composes; workers are forked from
it, so that each is there at once and shares that memory. A worker takes one job after another. The
parent supervises: a worker that dies, hangs or grows too large costs its own trial only, and a
worker whose parent dies ends itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, get_context
from pathlib import Path
from typing import Any, Self

import cloudpickle
import psutil
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, setup_globals
from omegaconf import DictConfig, open_dict

from cifar_hpo.console import Heartbeat, stderr_redirected
from cifar_hpo.trial import Progress, TrialSpec
from cifar_hpo.workers.process import serve

log = logging.getLogger(__name__)

SUPERVISION = 0.5
"""Seconds between two looks at time and memory limits; a death is noticed at once."""


class WorkerLost(Exception):
    """The worker ended before its trial did; the message says by what."""


class LimitPassed(WorkerLost):
    """The worker was ended because its trial passed a limit; a retry would pass it again."""


@dataclass(frozen=True)
class Job:
    """A spec with its composed config and the environment variables it runs under."""

    spec: TrialSpec
    config: DictConfig
    environment: Mapping[str, str] = field(default_factory=dict)
    judged: bool = False
    """Whether the trial waits after each `Progress` with a value for an answer whether to stop."""


@dataclass(frozen=True)
class PruningQuery:
    """A judged job's progress, which waits for its `answer`."""

    job: Job
    progress: Progress
    pipe: connection.Connection

    def answer(self, stop: bool) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(stop)


@dataclass(frozen=True)
class JobResult:
    """How a job ended: Hydra's view of it, its MLflow run as far as known, its wall time in
    seconds, and the slot it had."""

    job: Job
    returned: JobReturn
    run_id: str = ""
    seconds: float = 0.0
    worker: int | None = None


class Worker:
    """A slot's process and what it is doing."""

    def __init__(self, slot: int, threads: int, log: Path, task: bytes) -> None:
        self.slot, self.done = slot, 0
        self.job: Job | None = None
        self.started = 0.0
        self.progress = Progress(0, 0)
        self.values: list[float] = []
        self._base: tuple[float, int] = (0.0, 0)
        self._latest: tuple[float, int] | None = None
        context = get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        environment = os.environ | _share(threads)
        self.process = context.Process(
            target=serve,
            args=(theirs, str(log), environment, task),
            name=f"worker-{slot}",
            daemon=True,
        )
        self.process.start()
        self.seen = psutil.Process(self.process.pid)
        theirs.close()

    def start(self, job: Job) -> None:
        self.started, self.progress = time.monotonic(), Progress(0, 0)
        self.values, self._latest, self._base = [], None, (self.started, 0)
        self.job = job
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its sentinel tells
            self.pipe.send(cloudpickle.dumps(job))

    def note(self, progress: Progress) -> None:
        """Take in how the trial goes, and when it said so."""
        now = time.monotonic()
        if progress.epoch == 0:
            self._base = (now, 0)  # what came before the training is no part of an epoch
        elif progress.epoch > self.progress.epoch:
            if self._latest is None:
                self._base = (self._base[0], progress.restored)
            elif self._base[1] == progress.restored:
                self._base = self._latest  # a first epoch takes longer, so the next ones count
            self._latest = (now, progress.epoch)
        if progress.value is not None:
            self.values.append(progress.value)
        self.progress = progress

    @property
    def seconds_per_epoch(self) -> float | None:
        """By the epochs that were done here; None before the first."""
        latest, base = self._latest, self._base
        if latest is None or latest[1] <= base[1]:
            return None
        return (latest[0] - base[0]) / (latest[1] - base[1])

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the trial will go on; None before its first epoch here is done."""
        epoch, latest, progress = self.seconds_per_epoch, self._latest, self.progress
        if epoch is None or latest is None or not progress.epochs:
            return None
        to_do = epoch * (progress.epochs - latest[1])
        return max(0.0, to_do - (time.monotonic() - latest[0]))

    def finish(self, returned: JobReturn | Exception) -> JobResult:
        assert self.job is not None
        job, self.job, self.done = self.job, None, self.done + 1
        if isinstance(returned, Exception):
            error, returned = returned, JobReturn(status=JobStatus.FAILED)
            returned.return_value = error
        return JobResult(
            job, returned, self.progress.run_id, time.monotonic() - self.started, self.slot
        )

    @property
    def is_alive(self) -> bool:
        return self.seen.is_running() and self.seen.status() != psutil.STATUS_ZOMBIE

    def kill(self) -> None:
        """End it; by its own id, because multiprocessing takes workers for dead whose server is."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen.kill()
        self.process.join(1)
        self.pipe.close()


class Pool:
    """The slots of this machine. Use as a context manager: at its end no worker is left.

    options of the launcher, as in `options.Launcher`: one worker for each core that this process
    may use, but no more than jobs where that is known, and an even share of the cores for each,
    unless they say otherwise. What a worker prints goes to a file in the sweep's folder.
    """

    def __init__(self, launcher: Any, jobs: int | None = None) -> None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self.launcher, self.options = launcher, launcher.options
        self.n_workers = self.options.get("n_workers") or min(cores, jobs or cores)
        self.threads = self.options.get("threads_per_worker") or max(1, cores // self.n_workers)
        self.task = cloudpickle.dumps(
            (launcher.task_function, launcher.hydra_context, Singleton.get_state())
        )
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        """Start to import what the task says that its trials need."""
        forkserver.set_forkserver_preload(list(getattr(self.launcher.task_function, "imports", ())))
        with env_override(_share(self.threads)), stderr_redirected(os.devnull):
            forkserver.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        with contextlib.suppress(
            ProcessLookupError, TypeError
        ):  # it would otherwise finish its imports first
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]  # noqa: SLF001

    def close(self) -> None:
        """End every worker, whatever it is doing."""
        while self.workers:
            self.workers.pop().kill()

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job]

    def free(self) -> Worker | None:
        """A worker without a job, started if there is a slot for it."""
        for worker in [worker for worker in self.workers if not worker.job]:
            if worker.is_alive:
                return worker
            self._retire(worker)
        slot = next(
            (
                slot
                for slot in range(self.n_workers)
                if slot not in {worker.slot for worker in self.workers}
            ),
            None,
        )
        if slot is None:
            return None
        logs = Path(self.launcher.config.hydra.sweep.dir)
        logs.mkdir(parents=True, exist_ok=True)
        self.workers.append(Worker(slot, self.threads, logs / f"worker_{slot}.log", self.task))
        return self.workers[-1]

    def _retire(self, worker: Worker) -> None:
        worker.kill()
        self.workers.remove(worker)

    def wait(self) -> Iterator[JobResult | PruningQuery]:
        """Block until something happens; yield the jobs that ended."""
        sources = {worker.pipe: worker for worker in self.busy}
        for pipe in connection.wait(list(sources), SUPERVISION):
            yield from self._heard(sources[pipe])  # type: ignore[index]
        for worker in self.busy:
            if reason := self._limit_passed(worker):
                self._retire(worker)
                yield worker.finish(LimitPassed(reason))

    def _heard(self, worker: Worker) -> Iterator[JobResult | PruningQuery]:
        try:
            while worker.job and worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Progress):
                    worker.note(message)
                    if worker.job.judged and message.value is not None:
                        yield PruningQuery(worker.job, message, worker.pipe)
                else:
                    yield worker.finish(cloudpickle.loads(message))
        except (EOFError, ConnectionResetError):  # nobody but the worker holds the other end
            self._retire(worker)
            yield worker.finish(WorkerLost(_cause(worker.process.exitcode)))
        limit = self.options.get("trials_per_worker")
        if not worker.job and worker in self.workers and limit and worker.done >= limit:
            self._retire(worker)

    def _limit_passed(self, worker: Worker) -> str:
        timeout, memory = self.options.get("trial_timeout"), self.options.get("memory_limit")
        if timeout and time.monotonic() - worker.started > timeout:
            return f"timed out after {timeout:g} s (hydra.launcher.trial_timeout)"
        if memory:
            with contextlib.suppress(psutil.NoSuchProcess):
                used = worker.seen.memory_info().rss / 2**30
                if used > memory:
                    return (
                        f"used {used:.1f} GiB, more than {memory:g} (hydra.launcher.memory_limit)"
                    )
        return ""


def stream(jobs: Iterator[Job | None], pool: Pool) -> Iterator[JobResult | PruningQuery]:
    """Feed jobs to free slots and yield the outcome of each as it ends, and reports of judged ones
    on the way; a job is pulled only when a slot is free.

    `jobs` yields None when there is nothing to start until a running one has ended.
    """
    exhausted = False
    while True:
        while not exhausted and (worker := pool.free()):
            try:
                job = next(jobs)
            except StopIteration:
                exhausted = True
                break
            if job is None:
                break
            worker.start(job)
        if not pool.busy:
            return
        yield from pool.wait()


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Hydra's contract: run a batch and return it in order. A sweeper that knows `stream` has no
    need of it."""
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    specs = [
        TrialSpec(initial_job_idx + place, tuple(overrides))
        for place, overrides in enumerate(job_overrides)
    ]
    with Pool(launcher, len(specs)) as pool:
        jobs = (Job(spec, compose(launcher, spec.number, spec.overrides)) for spec in specs)
        ended: dict[int, JobReturn] = {}
        with Heartbeat(lambda: log.info("%d of %d jobs done", len(ended), len(specs))):
            for event in stream(jobs, pool):
                if isinstance(event, JobResult):
                    ended[event.job.spec.number] = event.returned
    return [ended[number] for number in sorted(ended)]


def compose(launcher: Any, number: int, overrides: Sequence[str]) -> DictConfig:
    """The config of a job, as every Hydra launcher makes it."""
    setup_globals()
    config = launcher.hydra_context.config_loader.load_sweep_config(
        launcher.config, list(overrides)
    )
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    assert isinstance(config, DictConfig)
    return config


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"worker killed by {signal.Signals(-exitcode).name}"
    return f"worker ended with exit code {exitcode}"


def _share(threads: int) -> dict[str, str]:
    """The environment variables that give NumPy and TensorFlow so many threads."""
    names = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    )
    return dict.fromkeys(names, str(threads))
