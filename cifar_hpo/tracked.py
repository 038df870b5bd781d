"""A task function each attempt of which has a run in MLflow: `Tracked`, for any Hydra app.

This package's own objective logs more of a trial, and does so itself. Heavy imports stand inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cifar_hpo import reporting, trial
from cifar_hpo.gpus import own_gpu
from cifar_hpo.left_results import LeftResults
from cifar_hpo.metrics import metric_name, param_name
from cifar_hpo.redaction import redacted
from cifar_hpo.task import WrappedTask
from cifar_hpo.trial import Context, Progress, TrialResult

if TYPE_CHECKING:
    from cifar_hpo.tracking.attempts import AttemptRecord, AttemptRun

IMPORTS = ("cifar_hpo.tracking.attempts", "mlflow.store.tracking.sqlalchemy_store", "git")
"""What an attempt loads to be logged, and MLflow only when it first writes."""


class Tracked(WrappedTask):
    """Calls a task function and logs its attempt: its overrides as params, what it reports as
    curves, what it returns as metrics, and how it ended.

    Runs that the function itself starts with MLflow lie below the attempt's. is_on: whether it
    does so; else it only calls the function.
    """

    def __init__(self, function: Callable[[DictConfig], Any]) -> None:
        super().__init__(function)
        self.is_on = False

    def turn_on(self) -> None:
        """Log from now on, unless the task logs itself."""
        if not self.task.logs_itself:
            self.is_on = True

    @property
    def imports(self) -> Sequence[str]:
        own = super().imports
        return (*own, *IMPORTS) if self.is_on else own

    def around(self, config: DictConfig, run: Callable[[], Any]) -> Any:
        context = Context.from_environment()
        if not self.is_on or not context.parent_run_id:
            return run()
        from cifar_hpo.tracking.attempts import attempt_run
        from cifar_hpo.tracking.own_runs import below

        started = time.perf_counter()
        hydra = HydraConfig.get()
        number, overrides = hydra.job.num, tuple(hydra.overrides.task)
        record = _record(config, context, number, overrides)
        with attempt_run(record, Path(hydra.runtime.output_dir)) as attempt:
            log = _Log(attempt)
            reporting.begin(log)
            trial.report(Progress(0, 0, run_id=attempt.run_id))
            try:
                with below(attempt, context, number):
                    value = run()
            finally:
                reporting.begin()
            result = TrialResult.of_value(value, context.metrics)
            log.log_metrics(log.epochs, result.metrics)
            # Before the run ends as FINISHED: whoever dies now must not run this again.
            left = LeftResults.of_context(context)
            if left and attempt.wait():
                seconds = time.perf_counter() - started
                result = replace(result, seconds=seconds, run_id=attempt.run_id)
                left.write(number, overrides, result)
        seconds = time.perf_counter() - started
        return replace(result, seconds=seconds, run_id=attempt.run_id, unlogged=attempt.unlogged)


class _Log:
    """An attempt's run as the task reports to it. epochs: the latest of which it heard."""

    def __init__(self, run: AttemptRun) -> None:
        self.run = run
        self.epochs = 0

    @property
    def run_id(self) -> str:
        return self.run.run_id

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        self.epochs = epochs
        self.run.log_metrics(epochs, {metric_name(name): metrics[name] for name in metrics})


def _record(
    config: DictConfig, context: Context, number: int, overrides: tuple[str, ...]
) -> AttemptRecord:
    """What MLflow shows of an attempt, without passwords; params are the overrides, as they were
    written."""
    from cifar_hpo.tracking.attempts import AttemptRecord

    params = {}
    overrides = tuple(redacted(override) for override in overrides)
    for override in overrides:
        key, _, value = override.partition("=")
        params[param_name(key)] = value
    return AttemptRecord(
        tracking_uri=context.tracking_uri,
        experiment_name="",
        overrides=overrides,
        params=params,
        config_yaml=redacted(OmegaConf.to_yaml(config)),
        context=context,
        number=number,
        tags={"gpu": own_gpu()} if own_gpu() else {},
    )
