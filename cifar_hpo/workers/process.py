"""A worker's process: a `Worker` starts and ends it from the parent, `serve` runs in it.

A worker takes one job after another, until the parent has no more or is gone.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

import cloudpickle
import psutil
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, run_job, setup_globals
from omegaconf import DictConfig

from cifar_hpo import trial
from cifar_hpo.console import set_up_output
from cifar_hpo.errors import ConfigError, UserError, named_line
from cifar_hpo.gpus import is_out_of_memory
from cifar_hpo.hydra_internals import return_value
from cifar_hpo.redaction import redacted
from cifar_hpo.task import Task, as_task
from cifar_hpo.trial import Progress
from cifar_hpo.workers import _multiprocessing as forking
from cifar_hpo.workers.engine import WorkerState
from cifar_hpo.workers.jobs import PAUSE, RESUME, HydraLauncher, Job, JobResult

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
"""The environment variables that give NumPy and TensorFlow their number of threads."""

MAX_LAST_LINE = 200
"""Characters of a log's last line that are shown."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is started with.

    threads: cores that it may use. log: the file that takes what it prints. temporary: the folder
    of its temporary files, which the parent removes: a worker that is killed leaves some, and
    TensorFlow does in any. packed_task: the task function with Hydra's own state, pickled. gpu:
    the id of its own, None for a worker without one. environment: of its slot.
    """

    slot: int
    threads: int
    log: Path
    temporary: str
    packed_task: bytes
    gpu: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class Worker(WorkerState):
    """A slot's process and what it is doing; the parent's side.

    is_spent: whether it is to have no further job: what TensorFlow took of a GPU's memory it keeps
    until it ends.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings.slot)
        self.gpu = settings.gpu
        self.log = settings.log
        self.is_spent = False
        own = {**thread_environment(settings.threads), **settings.environment}
        own["TMPDIR"] = settings.temporary
        context = forking.new_programs() if self.gpu else forking.fork_server()
        self.pipe, workers_end = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=serve,
            args=(workers_end, str(settings.log), os.environ | own, settings.packed_task),
            name=f"worker-{settings.slot}",
            daemon=True,
        )
        if self.gpu:
            forking.start_with(own, self.process)
        else:
            self._fork()
        self.system_process = psutil.Process(self.process.pid)
        workers_end.close()

    def _fork(self) -> None:
        """Raises UserError where none can be forked, because of what the program imports."""
        try:
            forking.start(self.process)
        except forking.ServerDied:
            cause = last_line(forking.server_log())
            problem = f"no worker can be started, their server ended with exit code 1: {cause}"
            raise UserError(problem) from None

    def start(self, job: Job) -> None:
        super().start(job)
        self.send(cloudpickle.dumps(job))

    def send(self, message: bytes | str) -> None:
        """Give it a job that is pickled already, or tell it to PAUSE or to RESUME."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed later
            self.pipe.send(message)

    def finish(self, returned: JobReturn) -> JobResult:
        assert self.job is not None
        self.is_spent = self.job.is_alone or is_out_of_memory(return_value(returned))
        return super().finish(returned)

    @property
    def is_alive(self) -> bool:
        process = self.system_process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    @property
    def gibibytes(self) -> float:
        """Its resident memory; 0 once it is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return float(self.system_process.memory_info().rss / 2**30)
        return 0.0

    def kill(self) -> None:
        """End it by its own id: multiprocessing takes workers for dead whose server is."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.system_process.kill()
        self.process.join(1)
        self.pipe.close()

    def cause_of_death(self) -> str:
        """How it ended, after it did."""
        exitcode = self.process.exitcode
        if exitcode is not None and exitcode < 0:
            return f"worker killed by {signal.Signals(-exitcode).name}"
        cause = f"worker ended with exit code {exitcode}"
        if not self.log.exists():  # before it came to its task
            last = last_line(forking.server_log())
            return f"{cause}: {last}" if last else cause
        return f"{cause}; its last words are in {self.log}"


def last_line(log: Path) -> str:
    """Of a log, without passwords, cut: where a traceback ends, the error."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        return redacted(written[-1])[:MAX_LAST_LINE] if written else ""
    return ""


def thread_environment(threads: int) -> dict[str, str]:
    """The environment that gives a process so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def refuse_unguarded(function: Callable[[DictConfig], Any]) -> None:
    """Raise UserError where the program's own file calls the task function when it is imported,
    which workers do: each would begin the sweep anew."""
    main = sys.modules["__main__"]
    file = Path(getattr(main, "__file__", None) or "")
    if not file.is_file():
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        match node:
            case ast.Expr(ast.Call(ast.Name(name))):
                called = getattr(main, name, None)
            case _:
                continue
        if getattr(called, "__wrapped__", None) is function:
            place = f"{file.name}, line {node.lineno}"
            problem = f"{name}() runs whenever the file is imported, as workers do"
            raise UserError(f"{place}: {problem}; put it under if __name__ == '__main__':")


def pack_task(launcher: HydraLauncher) -> bytes:
    """The task function with Hydra's own state, for a worker that has neither.

    Raises ConfigError for callbacks that can't be sent to a worker.
    """
    try:
        cloudpickle.dumps(launcher.hydra_context.callbacks)
    except Exception as error:
        hint = "let them open files and the like when they are called"
        problem = f"can't be sent to workers ({named_line(error, 100)}); {hint}"
        raise ConfigError("hydra.callbacks", problem) from error
    packed = io.BytesIO()
    _Pickler(packed).dump((launcher.task_function, launcher.hydra_context, Singleton.get_state()))
    return packed.getvalue()


def _code_of_file(file: str, make: Callable[..., CodeType], arguments: tuple[Any, ...]) -> CodeType:
    return make(*arguments).replace(co_filename=file)


def _reduced_code(code: CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _code_of_file, (code.co_filename, make, arguments)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which by itself forgets the file of what is defined in `__main__`, and so the
    lines of a traceback."""

    dispatch_table: ClassVar[Mapping[type, Callable[[Any], Any]]] = ChainMap(
        {CodeType: _reduced_code}, cloudpickle.Pickler.dispatch_table
    )


def serve(pipe: Connection, log: str, environment: Mapping[str, str], packed_task: bytes) -> None:
    """Take jobs from the pipe, and send each `Progress` on the way and what came of each.

    What is printed goes to the log.
    """
    # Ctrl-C and the end of a terminal reach the whole group of processes, of which the parent
    # decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what TMPDIR says from now on
    _redirect_output(log)
    set_up_output()
    setup_globals()
    task_function, hydra_context, singletons = cloudpickle.loads(packed_task)
    Singleton.set_state(singletons)
    task = as_task(task_function)
    orders = _Orders(pipe)
    with contextlib.suppress(EOFError):  # the parent has no more jobs
        while True:
            job: Job = cloudpickle.loads(orders.next())
            trial.set_reporter(_reporter(orders, job))
            with env_override(dict(job.environment)):
                returned = run_job(
                    hydra_context=hydra_context,
                    task_function=_run_of(task, job),
                    config=job.config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            pipe.send(pack_result(returned))


def _run_of(task: Task, job: Job) -> Callable[[DictConfig], Any]:
    """The task function, given the config as the parent has checked it."""

    def run(config: DictConfig) -> Any:
        return task(config) if job.checked is None else task.run(config, job.checked)

    return run


class _Orders:
    """What the parent sends: jobs, answers whether to stop, and on the way to PAUSE and RESUME."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.is_paused = False

    def next(self) -> Any:
        """The next job or answer; blocks until it is there, and no pause holds."""
        while True:
            message = self.pipe.recv()
            if not self._is_of_pause(message):
                self.wait()
                return message

    def wait(self) -> None:
        """Return at once, or at the end of a pause."""
        while self.is_paused or self.pipe.poll():
            self._is_of_pause(self.pipe.recv())

    def _is_of_pause(self, message: Any) -> bool:
        if message == PAUSE:
            self.is_paused = True
        elif message == RESUME:
            self.is_paused = False
        else:
            return False
        return True


def _reporter(orders: _Orders, job: Job) -> Callable[[Progress], bool]:
    """Sends a trial's progress to the parent; returns whether the trial should stop. While the
    sweep is paused the trial waits here, its checkpoint written."""

    def report(progress: Progress) -> bool:
        orders.pipe.send(progress)
        is_asked = job.is_pruned and progress.value is not None
        should_stop = bool(orders.next()) if is_asked else False
        orders.wait()
        return should_stop

    return report


def pack_result(returned: JobReturn) -> bytes:
    """The result as bytes; a value or an error that can't cross to the parent goes as its text."""
    value = return_value(returned)
    try:
        if returned.status is JobStatus.FAILED:
            cloudpickle.loads(cloudpickle.dumps(value))  # it may pack and yet not unpack
        packed = cloudpickle.dumps(returned)
    except Exception:  # noqa: BLE001  pickling runs the value's own code
        returned.return_value = RuntimeError(f"{type(value).__name__}: {value}")
        returned.status = JobStatus.FAILED
        packed = cloudpickle.dumps(returned)
    return bytes(packed)


def _redirect_output(log: str) -> None:
    """Standard output and standard error go to the end of a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _end_with_parent() -> None:
    forking.wait_for_parent_to_end()
    os._exit(1)
