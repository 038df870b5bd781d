"""A short process beside the sweep's own: `profile_apart` trains some steps in one, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from cifar_hpo.console import set_up_output
from cifar_hpo.errors import TrialError, named_line
from cifar_hpo.task import Profile, as_task
from cifar_hpo.workers import _multiprocessing as forking


def profile_apart(
    task_function: Callable[..., Any], checked: Any, environment: Mapping[str, str]
) -> Profile | None:
    """What the task says that a configuration takes, asked in a process with a worker's
    environment; None where the task can't say.

    checked: what the task made of its config. Raises TrialError where the steps fail, with the
    cause.
    """
    ours, theirs = forking.new_programs().Pipe()
    packed = cloudpickle.dumps((task_function, checked))
    process = forking.new_programs().Process(target=_answer, args=(theirs, packed), daemon=True)
    forking.start_with(environment, process)
    theirs.close()
    try:
        answer = cloudpickle.loads(ours.recv_bytes())
    except EOFError:  # it ended without an answer
        process.join()
        raise TrialError(f"its process ended with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, str):
        raise TrialError(answer)
    assert answer is None or isinstance(answer, Profile)
    return answer


def _answer(pipe: Connection, packed: bytes) -> None:
    """In the process: send the profile, None, or why there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up_output()
    with contextlib.redirect_stdout(None):
        try:
            task_function, checked = cloudpickle.loads(packed)
            answer: Profile | str | None = as_task(task_function).profile(checked)
        except Exception as error:  # noqa: BLE001  of whatever the task calls
            answer = named_line(error, 200)
    pipe.send_bytes(cloudpickle.dumps(answer))


def _end_with_parent() -> None:
    forking.wait_for_parent_to_end()
    os._exit(1)
