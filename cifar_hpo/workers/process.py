"""A worker's life: `serve` runs one job after another, until the parent has no more or is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing import connection, parent_process
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, run_job, setup_globals

from cifar_hpo import trial
from cifar_hpo.trial import Progress


def value_of(returned: JobReturn) -> Any:
    """What a job returned or raised; Hydra's own property prints and raises the latter."""
    return returned._return_value  # noqa: SLF001


def serve(pipe: connection.Connection, log: str, environment: dict[str, str], task: bytes) -> None:
    """Take jobs from the pipe and send what comes of each, and each `Progress` on the way; what is
    printed goes to the log."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    setup_globals()
    task_function, hydra_context, singletons = cloudpickle.loads(task)
    Singleton.set_state(singletons)
    judged = False

    def tell(progress: Progress) -> bool:
        pipe.send(progress)
        return bool(judged and progress.value is not None and pipe.recv())

    trial.set_reporter(tell)
    with contextlib.suppress(EOFError):
        while True:
            job = cloudpickle.loads(pipe.recv())
            judged = job.judged
            with env_override(dict(job.environment)):
                outcome = run_job(
                    hydra_context=hydra_context,
                    task_function=task_function,
                    config=job.config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            pipe.send(_packed(outcome))


def _packed(outcome: JobReturn) -> bytes:
    """The outcome as bytes; a value or an error that can't cross to the parent goes as its text."""
    try:
        packed = cloudpickle.dumps(outcome)
        if outcome.status is JobStatus.FAILED:
            cloudpickle.loads(packed)  # an exception may pack and yet not unpack
    except Exception:  # noqa: BLE001  pickling runs the value's own code
        value = value_of(outcome)
        outcome.return_value = RuntimeError(f"{type(value).__name__}: {value}")
        outcome.status = JobStatus.FAILED
        packed = cloudpickle.dumps(outcome)
    return bytes(packed)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
