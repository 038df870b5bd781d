"""The nouns of a sweep: `TrialSpec` goes into a worker, `TrialResult` comes out, `Progress` is said
on the way.

Small frozen dataclasses; beside Hydra's own config and `JobReturn` they are all that crosses a
process boundary.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

CONTEXT = "CIFAR_HPO_TRIAL"
"""The environment variable in which a trial's `Context` travels; an environment reaches the jobs of
every launcher."""

FINISHED, FAILED, KILLED, PRUNED = "FINISHED", "FAILED", "KILLED", "PRUNED"


@dataclass(frozen=True)
class TrialSpec:
    """One configuration to try.

    overrides: exactly what the user would type for this configuration, in the order of the command
    line. params: the keys that vary and their values, a subset of the overrides in typed form.
    attempt: 0 for the first try; each further one counts up. retries: how many of them a killed
    worker was the reason for.
    """

    number: int
    overrides: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    retries: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What came of one attempt.

    metrics: final values by name; empty unless the trial finished. With several replicas the means,
    and as `replica_0/…` each one's. error: one line with the cause when the trial did not finish.
    transient: whether the cause lay outside the trial (a killed worker), so that a retry may help.
    seconds: wall time of the attempt. worker: the slot that it ran in; None under a launcher that
    has none.
    """

    state: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    transient: bool = False
    seconds: float = 0.0
    run_id: str = ""
    worker: int | None = None


@dataclass(frozen=True)
class Progress:
    """A running trial's word from inside: epochs done of all, the value so far, and its MLflow run.

    restored: how many of the epochs an earlier attempt did.
    """

    epoch: int
    epochs: int
    value: float | None = None
    run_id: str = ""
    restored: int = 0


@dataclass(frozen=True)
class Context:
    """What a trial knows of the study around it; empty for a single run."""

    study: str = ""
    parent_run_id: str = ""
    experiment_id: str = ""
    metric: str = "val_accuracy"
    varied: tuple[str, ...] = ()
    attempt: int = 0
    pruner: Mapping[str, Any] | None = None
    storage: str = ""

    def to_environment(self) -> dict[str, str]:
        return {CONTEXT: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Context:
        values = json.loads(os.environ.get(CONTEXT, "{}"))
        return cls(**{**values, "varied": tuple(values.get("varied", ()))})


class Task(Protocol):
    """What a task function may offer beside being called; any Hydra task function does without.

    imports: the modules that trials need, imported once for all workers while the parent composes.
    later: keys that studies of earlier versions do not have, and what those did, so that they go on
    under this one. metrics: what a trial comes to; with several replicas also `_std` behind the
    name of one.
    """

    imports: Sequence[str]
    later: Mapping[str, Any]
    metrics: Sequence[str]

    def check(self, config: Any) -> Any:
        """Refuse a wrong config with a `UserError`; called in the parent, before a worker starts.
        What it returns, or where that is None the config, is what `cost` and `remarks` are
        given."""

    def prepare(self, config: Any) -> str:
        """Do once in the parent what all trials share; returns what identifies it, part of the
        study's meaning."""

    def remarks(self, checked: Any) -> Sequence[str]:
        """What the user should know of a configuration before it is tried; said once in a sweep."""

    def cost(self, checked: Any) -> float:
        """How much work a configuration is beside others; a grid tries the longest first."""

    def measure(self, config: Any) -> Mapping[str, float]:
        """What is known of a configuration before it is trained, for constraints."""


class Pruned(Exception):
    """Raised inside a trial that was told to stop; the message says after which epoch and by
    what."""


_listener: Callable[[Progress], bool] | None = None


def report(progress: Progress) -> None:
    """Tell whoever supervises this process how its trial goes.

    Raises Pruned when the answer is to stop; a trial lets it pass.
    """
    if _listener and _listener(progress):
        pruner = Context.from_environment().pruner or {}
        raise Pruned(
            f"after epoch {progress.epoch} of {progress.epochs} by {pruner.get('name')}, at "
            f"{progress.value:.4f}"
        )


def has_reporter() -> bool:
    """Whether somebody listens in this process."""
    return _listener is not None


def set_reporter(listener: Callable[[Progress], bool] | None) -> None:
    """Send this process's `Progress` to `listener` from now on; it returns whether the trial should
    stop."""
    global _listener  # noqa: PLW0603  one process runs one trial at a time
    _listener = listener
