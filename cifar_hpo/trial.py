"""The nouns of a sweep: `TrialSpec` goes into a worker, `TrialResult` comes out.

`Progress` is reported on the way. Small frozen dataclasses; beside the composed and the checked
config and Hydra's `JobReturn` they are all that crosses a process boundary.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cifar_hpo.errors import TrialError, UnusableResult, named_line, one_line
from cifar_hpo.redaction import redacted

CONTEXT = "CIFAR_HPO_TRIAL"
"""The environment variable in which a trial's `Context` travels; an environment reaches the jobs of
every launcher."""

FINISHED, FAILED, KILLED, PRUNED = "FINISHED", "FAILED", "KILLED", "PRUNED"
FAILURES = (FAILED, KILLED)

PAUSED = "PAUSED"
"""What comes of an attempt whose trial waits for the others, and is no outcome."""


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
    has none. unlogged: what of it has not arrived at MLflow, as one line.
    """

    state: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    transient: bool = False
    seconds: float = 0.0
    run_id: str = ""
    worker: int | None = None
    unlogged: str = ""

    @property
    def run_status(self) -> str:
        """The status of its MLflow run: a pruned one is FINISHED there, one that pauses is not."""
        return {PRUNED: FINISHED, PAUSED: KILLED}.get(self.state, self.state)

    @classmethod
    def of_value(cls, value: Any, metrics: Sequence[str]) -> TrialResult:
        """What a task function returned means for its trial.

        metrics: the study's, which compares trials by them. A mapping is all metrics of the trial
        by name. A number is the study's one metric, a list or tuple of numbers its several, in
        their order. Anything else is no value: such a trial is finished, and not compared.

        Raises UnusableResult for a mapping or numbers without the study's metrics, TrialError for
        one that is not finite.
        """
        if isinstance(value, TrialResult):
            named = value.metrics
        elif isinstance(value, Mapping):
            named = _numbers_by_name(value, metrics)
        else:
            named = _numbers_in_order(value, metrics)
        refuse_not_finite(named, metrics)
        return value if isinstance(value, TrialResult) else cls(FINISHED, named)

    @classmethod
    def of_error(cls, error: BaseException) -> TrialResult:
        """What an exception that a trial raised means for it, with no password in the text."""
        if isinstance(error, Paused):
            return cls(PAUSED, error=one_line(error))
        if isinstance(error, Pruned):
            return cls(PRUNED, error=one_line(error))
        if isinstance(error, TrialError):
            return cls(FAILED, error=redacted(one_line(error)))
        return cls(FAILED, error=named_line(error))


def refuse_not_finite(values: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise TrialError where one of the values of these names is no finite number."""
    for name in names:
        if name in values and not math.isfinite(values[name]):
            raise TrialError(f"{name} is {values[name]}")


def _numbers_by_name(returned: Mapping[Any, Any], metrics: Sequence[str]) -> dict[str, float]:
    named = {}
    for name, value in returned.items():
        number = as_number(value)
        if number is None:
            raise UnusableResult(f"returned {name}={value!r:.40}, which is no number")
        named[str(name)] = number
    missing = [name for name in metrics if name not in named]
    if missing:
        raise UnusableResult(f"returned {', '.join(named) or 'nothing'} and no {missing[0]}")
    return named


def _numbers_in_order(returned: Any, metrics: Sequence[str]) -> dict[str, float]:
    """Empty where it is neither a number nor numbers."""
    values = returned if isinstance(returned, list | tuple) else [returned]
    found = [as_number(value) for value in values]
    known = [number for number in found if number is not None]
    if len(known) < len(found):
        return {}
    if len(known) != len(metrics):
        count = f"{len(known)} number{'s' * (len(known) != 1)}"
        raise UnusableResult(f"returned {count} for {', '.join(metrics)}")
    return dict(zip(metrics, known, strict=True))


def as_number(value: Any) -> float | None:
    """A number as such, also one that NumPy, PyTorch or TensorFlow have as an array without
    dimensions; None for anything else."""
    if isinstance(value, numbers.Real):
        return float(value)
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) > 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Progress:
    """How far a running trial is, as it reports it.

    epoch, epochs: those done, of all. value: of the study's metric so far. run_id: its MLflow run.
    restored: how many of the epochs an earlier attempt did.
    """

    epoch: int
    epochs: int
    value: float | None = None
    run_id: str = ""
    restored: int = 0


@dataclass(frozen=True)
class Context:
    """What a trial knows of the study around it; empty for a single run.

    metric: the first of metrics, the study's. study_id: unlike its name never another study's.
    left_results: the folder in which a trial leaves its result. varied: the keys that vary.
    tracking_uri: MLflow's store; empty where nothing is tracked. pruner, storage: the pruner's
    options and the study's storage, for a trial that asks the pruner itself; None and empty where
    no pruner may stop it.
    """

    study: str = ""
    parent_run_id: str = ""
    experiment_id: str = ""
    metric: str = "val_accuracy"
    varied: tuple[str, ...] = ()
    attempt: int = 0
    pruner: Mapping[str, Any] | None = None
    storage: str = ""
    study_id: str = ""
    left_results: str = ""
    metrics: tuple[str, ...] = ()
    tracking_uri: str = ""

    def to_environment(self) -> dict[str, str]:
        """As the environment variable from which a trial reads it."""
        return {CONTEXT: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Context:
        """This process's own."""
        values = json.loads(os.environ.get(CONTEXT, "{}"))
        for name in ("varied", "metrics"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


PAUSING = ("promotion", "first")
"""The pruners that let a trial pause where others would end it."""


class Pruned(Exception):
    """Raised inside a trial that was told to stop; the message says after which epoch and by
    what."""


class Paused(Pruned):
    """The same of one that may go on later from where it is, and keeps what it needs for that."""


Reporter = Callable[[Progress], bool]
"""Takes a trial's progress and returns whether the trial should stop."""

_reporter: Reporter | None = None


def report(progress: Progress) -> None:
    """Tell whoever supervises this process how its trial goes.

    Raises Pruned when the answer is to stop; a trial lets it pass.
    """
    if _reporter and _reporter(progress):
        pruner = Context.from_environment().pruner or {}
        when = f"after epoch {progress.epoch} of {progress.epochs}"
        stopped = Paused if pruner.get("name") in PAUSING else Pruned
        raise stopped(f"{when} by {pruner.get('name')}, at {progress.value:.4f}")


def has_reporter() -> bool:
    """Whether this process's trial is supervised."""
    return _reporter is not None


def set_reporter(reporter: Reporter | None) -> None:
    """Send this process's `Progress` to `reporter` from now on."""
    global _reporter  # noqa: PLW0603  one process runs one trial at a time
    _reporter = reporter
