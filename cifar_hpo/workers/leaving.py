"""A task function that leaves its results on disk, whoever runs it: `LeavingResult`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cifar_hpo import reporting, trial
from cifar_hpo.errors import TrialError, has_no_space
from cifar_hpo.left_results import LeftResults
from cifar_hpo.paths import TRACEBACK
from cifar_hpo.task import WrappedTask
from cifar_hpo.tracebacks import traceback_text
from cifar_hpo.trial import Context, Pruned, TrialResult


class LeavingResult(WrappedTask):
    """Calls a task function and leaves what came of it, a result or an error, where the trial's
    `Context` says. It has the function's hooks.

    The traceback of an error lies in the trial's folder. An end by a signal leaves nothing: that
    trial goes on another time.
    """

    def around(self, config: DictConfig, run: Callable[[], Any]) -> Any:  # noqa: ARG002
        context = Context.from_environment()
        left = LeftResults.of_context(context)
        if left is None:
            return run()
        hydra = HydraConfig.get()
        number, overrides = hydra.job.num, tuple(hydra.overrides.task)
        traceback_file = Path(hydra.runtime.output_dir, TRACEBACK)
        left.remove(number)
        traceback_file.unlink(missing_ok=True)
        reporting.begin()
        started = time.monotonic()
        try:
            with pruned_by_storage(context, number):
                value = run()
            result = TrialResult.of_value(value, context.metrics)
        except Exception as error:
            if isinstance(error, OSError) and has_no_space(error):
                raise  # no outcome: the trial goes on when there is room
            if not isinstance(error, Pruned | TrialError):  # which say all on their one line
                with contextlib.suppress(OSError):
                    traceback_file.write_text(traceback_text(error), encoding="utf-8")
            seconds = time.monotonic() - started
            left.write(number, overrides, TrialResult.of_error(error), seconds=seconds)
            raise
        left.write(number, overrides, result, seconds=time.monotonic() - started)
        return value


@contextlib.contextmanager
def pruned_by_storage(context: Context, number: int) -> Iterator[None]:
    """Let a trial under a launcher that is not ours ask the pruner, through the study's storage.

    Our own workers report to the parent, which asks it.
    """
    if not context.pruner or trial.has_reporter():
        yield
        return
    from cifar_hpo.study.pruners import pruner_for

    trial.set_reporter(pruner_for(context.storage, context.study, number, context.pruner))
    try:
        yield
    finally:
        trial.set_reporter(None)
