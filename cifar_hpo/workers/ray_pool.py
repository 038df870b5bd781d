"""Slots on a Ray cluster: a `RayPool` has an actor for each, which Ray places.

An actor tells what there is to tell as the value of a call, of which each has one under way. An
actor that is lost costs its own trial only, and is replaced where there is room. Ray ends those of
a process that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import cloudpickle

from cifar_hpo import paths
from cifar_hpo.errors import ConfigError
from cifar_hpo.task import as_task
from cifar_hpo.trial import Progress
from cifar_hpo.workers import _ray
from cifar_hpo.workers.engine import WorkerState
from cifar_hpo.workers.jobs import Job, JobResult, PruningQuery, WorkerLost
from cifar_hpo.workers.pool import SUPERVISION_INTERVAL, WorkersLauncher, available_cores
from cifar_hpo.workers.process import pack_task
from cifar_hpo.workers.ray_actor import ActorSettings, SlotActor

log = logging.getLogger(__name__)

OWN_VARIABLES = "CIFAR_HPO_"
"""Begins the names of variables of the environment that reach trials on any node; the others there
are Ray's and the node's own, and those of hydra.launcher.runtime_env."""

MAX_FAILED_STARTS = 3
"""Actors of a slot, one after the other, that end before they are there."""

CLOSE_SECONDS = 3.0
"""In which actors end their trials and remove temporary files, before Ray ends them."""


ANSWER_SECONDS = 1.0
"""In which an idle actor answers that is still there."""

ROOM_SECONDS = 10.0
"""In which Ray places a first actor, where there is room for one."""


class RayWorker(WorkerState):
    """A slot's actor and what it is doing.

    is_ready: whether Ray has placed it. pending: the call that is under way, None while there is
    nothing to wait for.
    """

    def __init__(self, slot: int, actor: Any, launcher: WorkersLauncher) -> None:
        super().__init__(slot)
        self.actor = actor
        self.launcher = launcher
        self.is_ready = False
        self.pending: Any = actor.ready.remote()

    def start(self, job: Job) -> None:
        super().start(job)
        given = {name: os.environ[name] for name in os.environ if name.startswith(OWN_VARIABLES)}
        folder = str(self.launcher.config.hydra.sweep.dir)
        self.pending = self.actor.run.remote(cloudpickle.dumps(job), folder, given)

    def answer(self, should_prune: bool) -> None:
        """Let the trial go on or stop."""
        self.pending = self.actor.answer.remote(should_prune)

    def listen(self) -> None:
        """Ask for what the trial tells next."""
        self.pending = self.actor.next.remote()


class RayPool:
    """The slots of a cluster. Use as a context manager: at its end no actor is left.

    n_workers: as many as the cluster's nodes hold, but no more than jobs where that is known,
    unless the launcher's options say otherwise. threads: the whole CPUs of a slot. What a trial
    prints goes to a file in the sweep's folder, on its node.
    """

    def __init__(self, launcher: WorkersLauncher, jobs: int | None = None) -> None:
        _ray.require()
        self.launcher = launcher
        self.options = launcher.options
        self.jobs = jobs
        self.needs = needs_of(self.options)
        self.n_workers = 0
        self.threads = max(1, int(self.options["num_cpus"]))
        self.packed_task = pack_task(launcher)
        self.workers: list[RayWorker] = []
        self.failed_starts: dict[int, int] = {}
        self._without_actor: float | None = None  # since when
        self.temporary = ""  # the folder of a Ray of our own

    def __enter__(self) -> Self:
        """Connect to the cluster, and start actors, which import what trials need.

        Raises ConfigError where there is no cluster, or none with room for a single slot.
        """
        self.temporary = tempfile.mkdtemp(prefix=paths.TEMPORARY, dir=_short_folder())
        try:
            runtime_env = self.options["runtime_env"] or {}
            _ray.connect(self.options["address"], runtime_env, self.temporary, available_cores())
            room = room_for(self.needs, _ray.node_resources())
            self.n_workers = self.options["n_workers"] or min(room, self.jobs or room)
            if self.n_workers > room:
                waiting = f"{self.n_workers} wanted, there is room for {room} now; the others wait"
                log.warning("hydra.launcher.n_workers: %s", waiting)
            self._fill_slots()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self.close()
        ray.shutdown()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def close(self) -> None:
        """End every actor, whatever it is doing."""
        import ray

        closing = [worker.actor.close.remote() for worker in self.workers if worker.is_ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        while self.workers:
            self._retire(self.workers[-1])

    def kill(self) -> None:
        """This process is about to end, and Ray ends all that belongs to it."""

    @property
    def text(self) -> str:
        """Nothing that is not in Ray's own dashboard."""
        return ""

    def start(self, worker: RayWorker, job: Job) -> None:
        """Give an idle actor a job."""
        worker.start(job)

    def drop(self, number: int) -> None:
        """End the actor that has the job of a trial."""
        for worker in self.busy:
            if worker.job and worker.job.spec.number == number:
                self._retire(worker)

    def pause(self) -> bool:
        """An actor that waits would keep what it has of its node, so jobs go on to their end."""
        return False

    def resume(self, seconds: float) -> None: ...

    def shares_gpu(self, slot: int | None) -> bool:  # noqa: ARG002
        """Nobody can tell: Ray places actors, and moves none for another's sake."""
        return False

    @property
    def busy(self) -> list[RayWorker]:
        """The workers that have a job."""
        return [worker for worker in self.workers if worker.job]

    def idle_worker(self) -> RayWorker | None:
        """An actor that is there and has no job; None where none is. Free slots get one."""
        self._fill_slots()
        for worker in list(self.workers):
            if worker.is_ready and not worker.job and self._is_there(worker):
                return worker
        return None

    def _is_there(self, worker: RayWorker) -> bool:
        """Whether an idle actor lives still, whose node may have gone: a trial that it was given
        would have lost an attempt."""
        import ray

        try:
            ray.get(worker.actor.ready.remote(), timeout=ANSWER_SECONDS)
        except ray.exceptions.GetTimeoutError:  # known to be dead later, or there again
            return False
        except ray.exceptions.RayError:
            self._retire(worker)
            return False
        return True

    def wait(self) -> Iterator[JobResult | PruningQuery]:
        """Block until something happens, at most SUPERVISION_INTERVAL; yield what did."""
        import ray

        self._tell_of_no_room()
        pending = {worker.pending: worker for worker in self.workers if worker.pending is not None}
        calls = list(pending)
        if not calls:  # other hosts are at work on the study
            time.sleep(SUPERVISION_INTERVAL)
            return
        done, _ = ray.wait(calls, timeout=SUPERVISION_INTERVAL)
        if done:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in done:
            yield from self._receive(pending[call])

    def _tell_of_no_room(self) -> None:
        """Say once that all wait for room, such as where the only fitting node was lost."""
        now = time.monotonic()
        if self._without_actor is None or any(worker.is_ready for worker in self.workers):
            self._without_actor = now
        elif now - self._without_actor > ROOM_SECONDS:
            self._without_actor = math.inf
            wanted, nodes = _resources_text(self.needs), _ray.node_resources()
            have = "; ".join(_resources_text(node) for node in nodes) or "nothing"
            log.warning("no node has room for a trial, which takes %s; nodes have %s", wanted, have)

    def _receive(self, worker: RayWorker) -> Iterator[JobResult | PruningQuery]:
        """What a call that is done has brought."""
        import ray

        call, worker.pending = worker.pending, None
        try:
            messages = ray.get(call)
        except ray.exceptions.RayError as error:
            self._retire(worker)
            if worker.job:
                yield worker.fail(WorkerLost(_ray.cause_of_death(error)))
            else:
                self._note_failed_start(worker, error)
            return
        if not worker.is_ready:
            worker.is_ready = True
            self.failed_starts.pop(worker.slot, None)
            return
        yield from self._take(worker, messages)

    def _take(self, worker: RayWorker, messages: list[Any]) -> Iterator[JobResult | PruningQuery]:
        for message in messages:
            assert worker.job is not None
            if isinstance(message, WorkerLost):
                yield worker.fail(message)
                return
            if not isinstance(message, Progress):
                yield worker.finish(cloudpickle.loads(message))
                return
            worker.pace.note(message)
            if worker.job.is_pruned and message.value is not None:
                yield PruningQuery(worker.job, message, worker.answer)
                return  # it tells nothing more before it is answered
        worker.listen()

    def _fill_slots(self) -> None:
        """Start an actor for each slot that has none; Ray places it as soon as there is room."""
        import ray

        taken = {worker.slot for worker in self.workers}
        free = [slot for slot in range(self.n_workers) if slot not in taken]
        if not free:
            return
        options = self.options
        actor_class = ray.remote(SlotActor).options(
            num_cpus=options["num_cpus"],
            num_gpus=options["num_gpus"],
            resources=dict(options["resources"] or {}),
            max_restarts=0,
            max_concurrency=2,  # `close` beside the call that is under way
        )
        for slot in free:
            actor = actor_class.remote(self._settings(slot))
            self.workers.append(RayWorker(slot, actor, self.launcher))

    def _settings(self, slot: int) -> ActorSettings:
        has_own_folder = "working_dir" in (self.options["runtime_env"] or {})
        return ActorSettings(
            slot=slot,
            threads=self.threads,
            folder=None if has_own_folder else str(Path.cwd()),
            temporary=None if self.options["address"] else self.temporary,
            hides_gpus=not self.options["num_gpus"],
            options={name: self.options[name] for name in LIMITS},
            imports=as_task(self.launcher.task_function).imports,
            packed_task=self.packed_task,
        )

    def _retire(self, worker: RayWorker) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(worker.actor, no_restart=True)
        self.workers.remove(worker)

    def _note_failed_start(self, worker: RayWorker, error: Exception) -> None:
        """Raise ConfigError where starting another actor in its place would fail likewise."""
        import ray

        count = self.failed_starts.get(worker.slot, 0) + 1
        self.failed_starts[worker.slot] = count
        is_final = isinstance(error, ray.exceptions.RuntimeEnvSetupError) or getattr(
            error, "actor_init_failed", False
        )
        if is_final or count >= MAX_FAILED_STARTS:
            problem = f"no worker starts on the cluster: {_ray.problem_of(error)}"
            raise ConfigError("hydra/launcher", problem)


LIMITS = ("trials_per_worker", "trial_timeout", "memory_limit")
"""The options that an actor sees to."""


def needs_of(options: Mapping[str, Any]) -> dict[str, float]:
    """What a slot takes of a node, by the names that Ray has for it, none of them 0.

    Raises ConfigError for an amount that Ray knows none of.
    """
    needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
    for name, amount in (options["resources"] or {}).items():
        if name in needs:
            problem = f"it is not among Ray's custom resources; write {key_of(name)}={amount}"
            raise ConfigError(f"hydra.launcher.resources.{name}", problem)
        needs[name] = amount
    for name, amount in needs.items():
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not is_number or amount < 0:
            raise ConfigError(key_of(name), f"{amount!r} is no amount of a resource")
        if amount > 1 and amount != int(amount):
            raise ConfigError(key_of(name), f"{amount} is neither whole nor a share of one")
    return {name: amount for name, amount in needs.items() if amount}


def key_of(resource: str) -> str:
    """The config key by which a slot asks for a resource."""
    keys = {"CPU": "num_cpus", "GPU": "num_gpus"}
    return f"hydra.launcher.{keys.get(resource, f'resources.{resource}')}"


def room_for(needs: Mapping[str, float], nodes: list[dict[str, float]]) -> int:
    """How many slots the nodes hold when nothing else runs there.

    Raises ConfigError where none of them holds a single one.
    """
    room = 0
    for node in nodes:
        room += min(int(node.get(name, 0) / amount + 1e-9) for name, amount in needs.items())
    if room:
        return room
    have = "; ".join(_resources_text(node) for node in nodes)
    for name, amount in needs.items():
        if all(node.get(name, 0) < amount for node in nodes):
            problem = f"{amount:g} wanted for a trial, and no node has as much; nodes have {have}"
            raise ConfigError(key_of(name), problem)
    wanted = _resources_text(needs)
    raise ConfigError("hydra/launcher", f"no node has {wanted} together; nodes have {have}")


def _resources_text(resources: Mapping[str, float]) -> str:
    named = [f"{name} {amount:g}" for name, amount in sorted(resources.items())]
    return ", ".join(named) or "nothing"


def _short_folder() -> str | None:
    """Where the paths of Ray's sockets are not too long; None where TMPDIR says."""
    from cifar_hpo.workers._multiprocessing import SHORT_TEMP_FOLDERS

    if len(os.fsencode(tempfile.gettempdir())) <= MAX_TEMP_FOLDER:
        return None
    usable = [folder for folder in SHORT_TEMP_FOLDERS if os.access(folder, os.W_OK | os.X_OK)]
    return usable[0] if usable else None


MAX_TEMP_FOLDER = 20
"""Bytes of the longest folder for temporary files in which Ray's sockets fit, whose own names take
85 of the 107 that a path may have."""
