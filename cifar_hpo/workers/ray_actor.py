"""A slot on a node of a Ray cluster: a `SlotActor` runs trials in a process beside its own.

That process is the one of a local slot, forked from a server that has imported what trials need. So
threads, devices, output and limits are as with local workers, and its death is not the actor's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from cifar_hpo import gpus, paths
from cifar_hpo.trial import Progress
from cifar_hpo.workers import _multiprocessing as forking
from cifar_hpo.workers.jobs import LimitPassed, WorkerLost
from cifar_hpo.workers.pace import Pace
from cifar_hpo.workers.pool import SUPERVISION_INTERVAL, passed_limit
from cifar_hpo.workers.process import Worker, WorkerSettings, thread_environment

Message = Progress | WorkerLost | bytes
"""What an actor tells of its trial: how it goes, that its process was lost, or what came of it, as
`pack_result` packs it."""


@dataclass(frozen=True)
class ActorSettings:
    """What an actor is started with.

    folder: the parent's, which is this one's, too, where there is such a folder; None leaves it
    where Ray starts it. temporary: the folder in which it makes one for temporary files; None for
    the node's own. hides_gpus: whether trials see none, since the slot owns none. options: of the
    launcher. imports: modules that trials need.
    """

    slot: int
    threads: int
    folder: str | None
    temporary: str | None
    hides_gpus: bool
    options: Mapping[str, Any]
    imports: Sequence[str]
    packed_task: bytes


class SlotActor:
    """One method is called at a time, and returns when there is something to tell; `close` may be
    called beside it."""

    def __init__(self, settings: ActorSettings) -> None:
        self.settings = settings
        self.worker: Worker | None = None
        self.lost: WorkerLost | None = None
        if settings.folder and Path(settings.folder).is_dir():
            os.chdir(settings.folder)
        if settings.hides_gpus:
            os.environ[gpus.VISIBLE] = ""
        else:  # Ray has said which
            visible = os.environ.get(gpus.VISIBLE, "")
            os.environ.update({gpus.OWN: f"GPU {visible}", **gpus.AS_NEEDED})
        forking.forget_main_file()
        self.temporary = tempfile.mkdtemp(prefix=paths.TEMPORARY, dir=settings.temporary)
        with env_override(thread_environment(settings.threads)):
            forking.start_server(settings.imports)

    def ready(self) -> None:
        """Returns when the actor is there."""

    def run(self, packed_job: bytes, sweep_folder: str, given: Mapping[str, str]) -> list[Message]:
        """Begin a job. given: variables of the parent's environment."""
        os.environ.update(given)
        if self.worker is None or not self.worker.is_alive:
            self._retire()
            self.worker = Worker(self._worker_settings(Path(sweep_folder)))
        self.worker.pace = Pace(time.monotonic())
        self.worker.send(packed_job)
        return self.next()

    def answer(self, should_prune: bool) -> list[Message]:
        """Let the trial go on or stop."""
        if self.worker:
            with contextlib.suppress(OSError):  # its end is noticed below
                self.worker.pipe.send(should_prune)
        return self.next()

    def next(self) -> list[Message]:
        """What the trial tells, as soon as it tells something; its end comes last."""
        worker = self.worker
        if worker is None:  # it died behind its last message
            return [self.lost or WorkerLost("worker lost")]
        while True:
            try:
                if worker.pipe.poll(SUPERVISION_INTERVAL):
                    return self._received(worker)
            except OSError:
                return [self._lost(worker)]
            limit = passed_limit(worker, self.settings.options)
            if limit:
                self._retire()
                return [LimitPassed(limit)]

    def close(self) -> None:
        """End the trial's process, and leave no file behind."""
        self._retire()
        forking.kill_server()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _received(self, worker: Worker) -> list[Message]:
        """What the process has sent, to the last."""
        messages: list[Message] = []
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                messages.append(message)
                if isinstance(message, bytes):
                    worker.jobs_done += 1
                    self._retire_if_worn(worker)
                    break
        except (EOFError, OSError):
            messages.append(self._lost(worker))
        return messages

    def _lost(self, worker: Worker) -> WorkerLost:
        self._retire()
        self.lost = WorkerLost(worker.cause_of_death())
        return self.lost

    def _retire_if_worn(self, worker: Worker) -> None:
        limit = self.settings.options.get("trials_per_worker")
        if limit and worker.jobs_done >= limit:
            self._retire()

    def _retire(self) -> None:
        worker, self.worker = self.worker, None
        if worker:
            worker.kill()

    def _worker_settings(self, sweep_folder: Path) -> WorkerSettings:
        sweep_folder.mkdir(parents=True, exist_ok=True)
        log_file = sweep_folder / paths.WORKER_LOG.format(slot=self.settings.slot)
        return WorkerSettings(
            self.settings.slot,
            self.settings.threads,
            log_file,
            self.temporary,
            self.settings.packed_task,
        )
