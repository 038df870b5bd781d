"""What the task of any Hydra app may call while it runs: `report` says how it goes, `folder` is
where it may keep what it needs to go on.

Users have both as `cifar_hpo.report` and `cifar_hpo.folder`. A `MetricsLog` takes the metrics of
epochs, such as the attempt's MLflow run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cifar_hpo import trial
from cifar_hpo.trial import Context, Progress, as_number


class MetricsLog(Protocol):
    """Where the metrics of an attempt go. run_id: of its MLflow run; empty until there is one."""

    @property
    def run_id(self) -> str: ...

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Metrics after so many epochs."""


_log: MetricsLog | None = None
_restored: int | None = None
"""Epochs that an earlier attempt did, once this one has reported."""


def begin(log: MetricsLog | None = None) -> None:
    """Another attempt begins in this process. log: takes its metrics."""
    global _log, _restored  # one process runs one trial at a time
    _log, _restored = log, None


def report(epoch: int, epochs: int, value: float, **metrics: float) -> None:
    """Say how far this trial is; call it after each epoch, or whatever a step of the task is.

    epoch: those done so far, from 1 on. epochs: of the whole trial. value: of the study's metric
    now. metrics: further ones by name. In a study its screen shows them, a pruner may end the trial
    by the value, and they become curves in MLflow where the study is tracked. Outside of a study
    nothing happens.

    Raises Pruned where the study ends the trial; let it pass. Raises ValueError for an epoch that
    is not among epochs, TypeError for what is no number.
    """
    if not 1 <= epoch <= epochs:
        raise ValueError(f"epoch {epoch} of {epochs}: epochs that are done count from 1")
    context = Context.from_environment()
    values = {name: _number(name, given) for name, given in metrics.items()}
    values[context.metric] = _number("value", value)
    if not context.study:
        return
    if _log is not None:
        _log.log_metrics(epoch, values)
    run_id = _log.run_id if _log is not None else ""
    progress = Progress(epoch, epochs, values[context.metric], run_id, _restored_before(epoch))
    trial.report(progress)


def folder() -> Path:
    """This trial's own folder, which is there, for its checkpoints and whatever else it keeps.

    A trial that is tried again, because its worker was killed or its sweep interrupted, has the
    same one; nothing in it is removed. It is Hydra's output folder, also outside of a study, and
    without Hydra the current one.
    """
    own = Path()
    if HydraConfig.initialized():
        runtime = HydraConfig.get().runtime
        if not OmegaConf.is_missing(runtime, "output_dir"):  # as while a config is composed alone
            own = Path(runtime.output_dir)
    own.mkdir(parents=True, exist_ok=True)
    return own.absolute()


def _number(name: str, value: object) -> float:
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name}: {value!r:.40} is no number")
    return number


def _restored_before(epoch: int) -> int:
    """How many epochs an earlier attempt did, by the first that this one reports."""
    global _restored  # noqa: PLW0603  one process runs one trial at a time
    if _restored is None:
        is_retry = Context.from_environment().attempt > 0
        _restored = epoch - 1 if is_retry else 0
    return _restored
