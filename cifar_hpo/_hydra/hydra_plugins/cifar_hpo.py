"""Hydra's plugins: `StudySweeper`, `WorkersLauncher`, `RayLauncher`, the search path of sweeps/.

What they do is elsewhere, and imported when they do it.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cifar_hpo.config import sweep as options
from cifar_hpo.hydra_internals import store_config
from cifar_hpo.paths import CONF, SWEEPS

if TYPE_CHECKING:
    from cifar_hpo.study.study import Study
    from cifar_hpo.sweep.loop import Ended
    from cifar_hpo.sweep.plan import Plan
    from cifar_hpo.sweep.tracker import StudyTracker
    from cifar_hpo.workers.engine import Engine

HELP = """== cifar_hpo: sweeps of CNNs ==

  python -m cifar_hpo                                     one run of the base model
  python -m cifar_hpo model=enhanced optimizer=sgd        a variant
  python -m cifar_hpo -m model.filters=4,8,16             a grid: three trials, in parallel
  python -m cifar_hpo -cn neuron_count                    a named study from sweeps/
  the same command again                                  resumes: runs only what is missing

== Groups: GROUP=CHOICE ==

$APP_CONFIG_GROUPS
== Keys: KEY=VALUE, or KEY=VALUE,VALUE to sweep with -m ==
"""


class StudySweeper(Sweeper):
    """A sweep as an Optuna study that resumes when the command is repeated.

    Options as in `config.sweep.Sweeper`.
    """

    launcher: Any  # Hydra says that it may be None, which it is before `setup`
    hydra_context: HydraContext
    task_function: TaskFunction

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's contract."""
        from hydra.core.plugins import Plugins

        from cifar_hpo.tracked import Tracked
        from cifar_hpo.workers.leaving import LeavingResult

        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.tracked = Tracked(task_function)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context,
            task_function=LeavingResult(self.tracked),
            config=config,
        )

    def sweep(self, arguments: list[str]) -> Sequence[Sequence[JobReturn]]:
        """Hydra's contract: run all trials, and return what came of them in batches."""
        from cifar_hpo.console import replace_closed_streams

        replace_closed_streams()
        with _errors_on_one_line():
            if self.options["dry_run"]:
                return self._dry_run(arguments)
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> Sequence[Sequence[JobReturn]]:
        from cifar_hpo.console import still
        from cifar_hpo.study.storage import storage_errors
        from cifar_hpo.sweep.final import refuse_impossible
        from cifar_hpo.sweep.plan import Plan

        with still("preparing the sweep"):
            plan = Plan.from_command_line(self, arguments)
            if plan.options["final"]:
                refuse_impossible(self, plan)
        if plan.is_tracked:
            self.tracked.turn_on()
        with storage_errors(self.options["storage"]), self._ending_multirun():
            ended = self._run(plan, self._replan(arguments))
            batches, failure = ended.batches, ended.failure
            stage = self._final(ended) if plan.options["final"] and ended.is_whole else None
            if stage is not None:
                final = self._run(stage)
                batches, failure = batches + final.batches, failure or final.failure
            if failure:
                raise failure
        return batches

    def _run(self, plan: Plan, replan: Callable[[Sequence[str]], Plan] | None = None) -> Ended:
        """Run the sweep that is planned, in slots that are there for it."""
        from cifar_hpo.console import still

        with self._pool(plan.n_trials) as pool:
            with still("preparing the data"):
                plan = plan.prepared()
                from cifar_hpo.sweep.control import with_added_values
                from cifar_hpo.sweep.loop import run_sweep
            if replan:
                plan = with_added_values(plan, replan)
            return run_sweep(plan, pool, _open_tracker, replan)

    def _final(self, search: Ended) -> Plan | None:
        """The final stage of a search that has come to its end; None where it found nothing."""
        from cifar_hpo.console import PLAIN, still, terminal
        from cifar_hpo.sweep.final import final_plan, final_text, finalists, note_final

        with still("preparing the final stage"):
            found, seeds = finalists(search.plan, search.study)
            if not found:
                terminal().print("no final stage: no trial of the search has a value", **PLAIN)
                return None
            plan = final_plan(self, search.plan, search.study, found, seeds)
        note_final(search.plan, search.study)
        terminal().print(f"\nfinal stage: {final_text(search.plan, len(found))}", **PLAIN)
        return plan

    def _replan(self, arguments: list[str]) -> Callable[[Sequence[str]], Plan]:
        """Makes the plan once more, with further overrides behind the arguments."""
        from cifar_hpo.sweep.plan import Plan

        return lambda more: Plan.from_command_line(self, [*arguments, *more]).prepared()

    def _dry_run(self, arguments: list[str]) -> Sequence[Sequence[JobReturn]]:
        """Say what the sweep would do; the launcher's slots are asked for, not started."""
        from cifar_hpo.console import still
        from cifar_hpo.study.storage import storage_errors
        from cifar_hpo.sweep.batches import jobs_at_a_time
        from cifar_hpo.sweep.control import with_added_values
        from cifar_hpo.sweep.dry_run import dry_run, leaving_nothing
        from cifar_hpo.sweep.final import refuse_impossible
        from cifar_hpo.sweep.plan import Plan

        with leaving_nothing(), storage_errors(self.options["storage"]):
            with still("preparing the sweep"):
                plan = Plan.from_command_line(self, arguments)
                if plan.options["final"]:
                    refuse_impossible(self, plan)
            engine = self._engine(plan.n_trials)
            with still("preparing the data"):
                plan = with_added_values(plan.prepared(), self._replan(arguments))
            dry_run(plan, engine, self.task_function, jobs_at_a_time(self.launcher))
        return []

    @contextlib.contextmanager
    def _ending_multirun(self) -> Iterator[None]:
        """Tell callbacks of the end of a sweep with failed trials, which raises, where Hydra tells
        them of the others alone."""
        from cifar_hpo.errors import SweepFailed
        from cifar_hpo.hydra_internals import TELLS_OF_EVERY_END

        try:
            yield
        except SweepFailed:
            if TELLS_OF_EVERY_END:
                raise
            config = self.launcher.config
            name = config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=config, config_name=name)
            raise

    def _pool(self, jobs: int | None) -> contextlib.AbstractContextManager[Engine | None]:
        """The slots of a launcher of ours, which import while data is prepared."""
        return self._engine(jobs) or contextlib.nullcontext()

    def _engine(self, jobs: int | None) -> Engine | None:
        """The same, before it starts anything; None for another launcher."""
        from cifar_hpo.workers._submitit import refuse_without_slurm

        if isinstance(self.launcher, OwnLauncher):
            return self.launcher.engine(jobs)
        refuse_without_slurm(self.launcher)
        return None


@contextlib.contextmanager
def _errors_on_one_line() -> Iterator[None]:
    """End the program as this package's own command does, where Hydra would with a traceback.

    Hydra keeps its own errors, as of an override that it can't parse.
    """
    from cifar_hpo.errors import SweepFailed, UserError, disk_error, exit_interrupted, exit_with
    from cifar_hpo.hydra_internals import ends_program

    try:
        yield
    except (UserError, SweepFailed) as error:
        if not ends_program():
            raise
        exit_with(error)
    except OSError as error:
        if not ends_program() or disk_error(error) is None:
            raise
        exit_with(error)
    except KeyboardInterrupt as interrupt:
        if not ends_program():
            raise
        exit_interrupted(interrupt)


def _open_tracker(plan: Plan, study: Study) -> StudyTracker:
    """The study's own MLflow run, where it is tracked; an app without an `mlflow` config has
    MLflow's own defaults."""
    from cifar_hpo.sweep.tracker import NoTracker

    if not plan.is_tracked:
        return NoTracker()
    from cifar_hpo.paths import tracking_uri
    from cifar_hpo.tracking.runs import StudyRun
    from cifar_hpo.tracking.store import experiment_name, store_errors

    options = plan.mlflow_options()
    with store_errors(tracking_uri(options["tracking_uri"])):
        run = StudyRun(
            options["tracking_uri"],
            experiment_name(options["experiment"], study.name),
            study.name,
            study_id=study.attributes.id,
            is_exclusive=study.is_exclusive,
            tags=options["tags"],
            note=options["note"],
            folder=Path.cwd(),
        )
        run.set_ui_columns(plan.ui_metrics(study.metrics), study.directions[0], plan.ui_params())
        run.restore_best(study.best_values())
    study.attributes.set_run(run.uri, run.run_id)
    return run


class OwnLauncher(Launcher):
    """One whose jobs need not come in batches; `engine` says where they go."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's contract."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Hydra's contract: run a batch and return it in order."""
        from cifar_hpo.workers.pool import launch

        return launch(self, job_overrides, initial_job_idx)

    @abstractmethod
    def engine(self, jobs: int | None) -> Engine:
        """The slots of this engine. jobs: how many there are at most, where that is known."""


class WorkersLauncher(OwnLauncher):
    """Trials in warm local processes, each with its share of the cores.

    Options as in `config.sweep.Launcher`.
    """

    def engine(self, jobs: int | None) -> Engine:
        from cifar_hpo.task import unwrapped
        from cifar_hpo.workers.pool import Pool
        from cifar_hpo.workers.process import refuse_unguarded

        refuse_unguarded(unwrapped(self.task_function))
        return Pool(self, jobs)


class RayLauncher(OwnLauncher):
    """Trials in warm actors of a Ray cluster.

    Options as in `config.sweep.RayLauncher`.
    """

    def engine(self, jobs: int | None) -> Engine:
        from cifar_hpo.workers.ray_pool import RayPool

        return RayPool(self, jobs)


class SweepsSearchPath(SearchPathPlugin):
    """Lets `-cn NAME` find the named studies of sweeps/, in this project's own app alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if any(str(CONF) in element.path for element in search_path.get_path() if element.path):
            search_path.append("cifar_hpo", f"file://{SWEEPS}")


store_config("hydra/sweeper", "study", options.Sweeper)
for _name in options.SAMPLERS:
    _sampler = options.SAMPLER_SCHEMAS.get(_name, options.Sampler)(name=_name)
    store_config("hydra/sweeper/sampler", _name, _sampler)
for _name in options.PRUNERS:
    _pruner = options.PRUNER_SCHEMAS.get(_name, options.Pruner)(name=_name)
    store_config("hydra/sweeper/pruner", _name, _pruner)
store_config("hydra/launcher", "workers", options.Launcher)
for _name in options.RAY_NAMES:
    store_config("hydra/launcher", _name, options.RayLauncher)
_help = {"app_name": "cifar_hpo", "template": HELP + options.keys_help()}
store_config("hydra/help", "cifar_hpo", _help)
