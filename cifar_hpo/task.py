"""What a trial runs: a `Task` is any Hydra task function with all that a sweep may ask of it.

`as_task` makes one of a plain function, whose hooks then do nothing; a `WrappedTask` adds something
to each run of another. An `OwnMetric` is one that not every configuration has, a `Profile` what a
trial takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig


class OwnMetric(NamedTuple):
    """A metric that some configurations alone have.

    direction: in which it is better, minimize or maximize. by_epoch: whether a pruner gets a value
    of it after each epoch.
    """

    direction: str
    by_epoch: bool


class Profile(NamedTuple):
    """What a trial of one configuration takes, by some steps of its training.

    steps: that were timed. seconds: of the whole trial. memory: bytes of its worker's resident
    memory. checkpoint, model: bytes of either on disk.
    """

    steps: int
    seconds: float
    memory: int
    checkpoint: int
    model: int


class Task(Protocol):
    """A task function with its hooks; `as_task` fills in those that a function does not have.

    imports: modules that trials need, imported once for all workers while the parent composes.
    metrics: what a trial comes to, with several replicas also `_std` behind the name of one.
    epoch_metrics: those of which a pruner gets a value after each epoch. Both are empty where
    nobody can say. defaults_before: keys that studies of earlier versions do not have, and what
    those did, so that they go on under this one. logs_itself: whether it logs each trial to MLflow;
    what does not is logged for it. unmeant_keys: those that change no result, such as how trials
    are logged, so that a study may go on with another value. computes_with: libraries that use a
    GPU where they find one, of those in gpus.LIBRARIES; empty where those say it that the program
    has loaded.
    """

    imports: Sequence[str]
    metrics: Sequence[str]
    epoch_metrics: Sequence[str]
    defaults_before: Mapping[str, Any]
    logs_itself: bool
    unmeant_keys: Sequence[str]
    computes_with: Sequence[str]

    def __call__(self, config: DictConfig) -> Any:
        """Run one trial, as Hydra does; returns its value, its metrics or a `TrialResult`."""

    def validate(self, config: DictConfig) -> Any:
        """The checked form of a composed config, which all other hooks are given.

        Called in the parent before a worker starts. Raises ConfigError for a wrong value.
        """

    def prepare(self, checked: Any) -> str:
        """Do once in the parent what all trials share.

        Returns what identifies it, which is part of the study's meaning; empty for nothing. Raises
        DataError or ConfigError for what the user can mend.
        """

    def whole_keys(self, config: DictConfig) -> Sequence[str]:
        """The keys of a config that take whole numbers alone; an interval of one has no others."""

    def warnings(self, checked: Any) -> Sequence[str]:
        """What the user should know of a configuration before it is tried; said once in a sweep."""

    def cost(self, checked: Any) -> float | None:
        """How much work a configuration is beside others, None where nobody can say; a grid tries
        the longest first."""

    def measure(self, checked: Any) -> Mapping[str, float]:
        """What is known of a configuration before it is trained, for constraints."""

    def lacks(self, checked: Any, metric: str) -> str:
        """Why a trial of this configuration will not have a metric; empty where it will."""

    def default_metric(self, checked: Any) -> str:
        """What trials are compared by where nobody says; may look at the data for it.

        Raises what `prepare` raises.
        """

    def own_metrics(self, checked: Any) -> Mapping[str, OwnMetric] | None:
        """What a trial of this configuration comes to beside `metrics`, by name; None where nobody
        can say. Asked where a study compares by none of `metrics`; may look at the data.

        Raises what `prepare` raises.
        """

    def profile(self, checked: Any) -> Profile | None:
        """Train some steps of a configuration, for what a trial of it takes; None where nobody can
        say.

        Called in a process of its own, and leaves nothing. Raises what a trial may raise.
        """

    def run(self, config: DictConfig, checked: Any) -> Any:
        """Run one trial whose config was validated before."""


class _Function:
    """A plain task function; each hook that it has is used, the others do nothing."""

    imports: Sequence[str] = ()
    metrics: Sequence[str] = ()
    epoch_metrics: Sequence[str] = ()
    defaults_before: Mapping[str, Any] = {}
    logs_itself: bool = False
    unmeant_keys: Sequence[str] = ()
    computes_with: Sequence[str] = ()

    def __init__(self, function: Callable[[DictConfig], Any]) -> None:
        self.function = function
        for name in HOOKS:
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def __call__(self, config: DictConfig) -> Any:
        return self.function(config)

    def validate(self, config: DictConfig) -> Any:
        return config

    def prepare(self, checked: Any) -> str:  # noqa: ARG002
        return ""

    def whole_keys(self, config: DictConfig) -> Sequence[str]:  # noqa: ARG002
        return ()

    def warnings(self, checked: Any) -> Sequence[str]:  # noqa: ARG002
        return ()

    def cost(self, checked: Any) -> float | None:  # noqa: ARG002
        return None

    def measure(self, checked: Any) -> Mapping[str, float]:  # noqa: ARG002
        return {}

    def lacks(self, checked: Any, metric: str) -> str:  # noqa: ARG002
        return ""

    def default_metric(self, checked: Any) -> str:  # noqa: ARG002
        return "value"

    def own_metrics(self, checked: Any) -> Mapping[str, OwnMetric] | None:  # noqa: ARG002
        return {}

    def profile(self, checked: Any) -> Profile | None:  # noqa: ARG002
        return None

    def run(self, config: DictConfig, checked: Any) -> Any:  # noqa: ARG002
        return self.function(config)


HOOKS = (
    "imports",
    "metrics",
    "epoch_metrics",
    "whole_keys",
    "defaults_before",
    "logs_itself",
    "unmeant_keys",
    "computes_with",
    "validate",
    "prepare",
    "warnings",
    "cost",
    "measure",
    "lacks",
    "default_metric",
    "own_metrics",
    "profile",
    "run",
)


def as_task(function: Callable[[DictConfig], Any]) -> Task:
    """The function with every hook of a Task; its own where it has them."""
    return _Function(function)


class WrappedTask:
    """A task function around another one, whose hooks it has; `around` is what it adds."""

    def __init__(self, function: Callable[[DictConfig], Any]) -> None:
        self.function = function
        self.task = as_task(function)
        for name in HOOKS:
            if name not in ("run", "imports"):
                setattr(self, name, getattr(self.task, name))

    @property
    def imports(self) -> Sequence[str]:
        """The function's as they are now: one that is wrapped may come to need more."""
        return as_task(self.function).imports

    def __call__(self, config: DictConfig) -> Any:
        return self.around(config, lambda: self.function(config))

    def run(self, config: DictConfig, checked: Any) -> Any:
        return self.around(config, lambda: self.task.run(config, checked))

    def around(self, config: DictConfig, run: Callable[[], Any]) -> Any:
        """Run one trial, which `run` does, and return what it returns."""
        raise NotImplementedError


def unwrapped(function: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """The task function inside of all that was added to it."""
    while isinstance(function, WrappedTask):
        function = function.function
    return function
