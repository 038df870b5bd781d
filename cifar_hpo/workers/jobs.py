"""What goes to a worker and comes back: a `Job` in, `PruningQuery`s on the way, a `JobResult` out.

`compose` makes a job's config as every Hydra launcher does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hydra.core.utils import JobReturn, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from cifar_hpo.trial import Progress, TrialSpec

PAUSE, RESUME = "pause", "resume"
"""What a worker may be told on the way: to wait at its trial's next report, and to go on."""


class HydraLauncher(Protocol):
    """A Hydra launcher after its `setup`."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a batch of jobs and return what came of each, in order."""


class WorkerLost(Exception):
    """The worker ended before its trial did; the message says by what."""


class LimitPassed(WorkerLost):
    """The worker was ended because its trial passed a limit; a retry would pass it again."""


@dataclass(frozen=True)
class Job:
    """A spec with its composed config and the environment variables it runs under.

    checked: what the task made of the config when it was validated, so that the worker need not;
    None where it was not. is_pruned: whether the trial waits after each `Progress` with a value for
    an answer whether to stop. is_alone: whether it is to have its worker's GPU for itself, though
    other slots share it.
    """

    spec: TrialSpec
    config: DictConfig
    environment: Mapping[str, str] = field(default_factory=dict)
    checked: Any = None
    is_pruned: bool = False
    is_alone: bool = False


@dataclass(frozen=True)
class PruningQuery:
    """A running trial's progress, with the question whether it should stop.

    send: takes the answer to the worker.
    """

    job: Job
    progress: Progress
    send: Callable[[bool], object]

    def answer(self, should_prune: bool) -> None:
        """Let the trial go on or stop; a worker that is gone by now needs no answer."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(should_prune)


@dataclass(frozen=True)
class JobResult:
    """How a job ended: Hydra's view of it, its MLflow run as far as known, its wall time in
    seconds, and the slot it had."""

    job: Job
    returned: JobReturn
    run_id: str = ""
    seconds: float = 0.0
    worker: int | None = None


def compose(launcher: HydraLauncher, number: int, overrides: Sequence[str]) -> DictConfig:
    """The config of a job, as every Hydra launcher makes it."""
    setup_globals()
    loader = launcher.hydra_context.config_loader
    config = loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
    assert isinstance(config, DictConfig)
    return config
