"""A task function that leaves its results on disk, whoever runs it: `LeavingResult`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cifar_hpo.errors import has_no_space
from cifar_hpo.left_results import LeftResults
from cifar_hpo.task import HOOKS, as_task
from cifar_hpo.trial import Context, TrialResult


class LeavingResult:
    """Calls a task function and leaves what came of it, a value or an error, where the trial's
    `Context` says. It has the function's hooks.

    An end by a signal leaves nothing: that trial goes on another time.
    """

    def __init__(self, function: Callable[[DictConfig], Any]) -> None:
        self.function = function
        self.task = as_task(function)
        for name in HOOKS:
            if name != "run":
                setattr(self, name, getattr(self.task, name))

    def __call__(self, config: DictConfig) -> Any:
        return _left(lambda: self.function(config))

    def run(self, config: DictConfig, checked: Any) -> Any:
        return _left(lambda: self.task.run(config, checked))


def _left(run: Callable[[], Any]) -> Any:
    left = LeftResults.of_context(Context.from_environment())
    if left is None:
        return run()
    hydra = HydraConfig.get()
    number, overrides = hydra.job.num, tuple(hydra.overrides.task)
    left.remove(number)
    started = time.monotonic()
    try:
        value = run()
    except Exception as error:
        if isinstance(error, OSError) and has_no_space(error):
            raise  # no outcome: the trial goes on when there is room
        left.write(number, overrides, TrialResult.of_error(error), seconds=_since(started))
        raise
    left.write(number, overrides, value, seconds=_since(started))
    return value


def _since(started: float) -> float:
    return time.monotonic() - started
