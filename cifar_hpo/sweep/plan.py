"""What a sweep is about to do, checked before anything heavy is imported or started: a `Plan`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo import paths
from cifar_hpo.config.fields import as_list, config_error, flat
from cifar_hpo.config.tags import validate_tags
from cifar_hpo.console import Heartbeat
from cifar_hpo.errors import ConfigError, UserError
from cifar_hpo.hydra_internals import job_config, search_arguments, single_run_arguments
from cifar_hpo.metrics import metric_name, param_name
from cifar_hpo.redaction import redacted
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.seeds import REPLICAS, SEEDS, is_seed, replicas_of
from cifar_hpo.study.space import Space, Value, identity
from cifar_hpo.sweep.code import Code, code_of, varied_targets
from cifar_hpo.sweep.composer import Composer, KnownGroups, absent_keys, whole_keys
from cifar_hpo.sweep.constraints import Constraint
from cifar_hpo.sweep.identity import automatic_name, automatic_name_in_0_1, meaning_of
from cifar_hpo.sweep.options import (
    Options,
    knows_metrics,
    settle_metrics,
    settle_options,
    validate_forms,
    without_foreign_keys,
)
from cifar_hpo.task import OwnMetric, Task, as_task
from cifar_hpo.workers.jobs import HydraLauncher

log = logging.getLogger(__name__)

MAX_CELLS_CHECKED = 2000
"""Cells of a grid that are composed and checked beforehand; the rest are checked as they come."""

SHOWN_METRICS = ("test_accuracy", "parameters", "train_seconds")
"""Those beside the study's that MLflow's list of runs shows, of a task that has them."""

OF_MOMENT = re.compile(r"\$\{\s*now\s*:")
"""An interpolation that is another at each moment."""


class HydraSweeper(Protocol):
    """Our sweeper after its `setup`; options as in `config.sweep.Sweeper`."""

    options: dict[str, Any]
    hydra_context: HydraContext
    task_function: TaskFunction
    launcher: HydraLauncher


@dataclass(frozen=True)
class Plan:
    """A search space with all that its trials share.

    base: the composed config of one cell. meaning: what the study's identity rests on. checked: by
    the identity of its cell, what the task made of each config that was checked beforehand.
    constraints: what a configuration must fulfil to be tried. code: digests of what the trials run.
    is_tracked: whether MLflow gets the study and its trials. is_final: whether it is the final
    stage of a search.
    """

    space: Space
    options: Options
    composer: Composer
    task: Task
    base: DictConfig
    meaning: Mapping[str, Any]
    checked: Mapping[str, Any]
    constraints: Sequence[Constraint] = ()
    code: Code = Code()
    is_tracked: bool = False
    is_final: bool = False

    @classmethod
    def from_command_line(cls, sweeper: HydraSweeper, arguments: Sequence[str]) -> Plan:
        """Parse, compose and check; every wrong cell is found here, before a worker starts.

        Raises ConfigError for what is wrong, and Hydra's errors for what can't be composed.
        """
        _refuse_folder_of_interpolation()
        launcher, task = sweeper.launcher, as_task(sweeper.task_function)
        options = without_foreign_keys(_plain_values(sweeper.options))
        validate_forms(options)
        params, conditions = options["params"], options["conditions"]
        groups, cells = KnownGroups(launcher), options["cells"]
        space = Space.parse(arguments, params, groups, conditions, cells=cells)
        composer = Composer(launcher, space)
        space = space.with_whole_numbers(whole_keys(composer, task))
        launcher_options = getattr(launcher, "options", {})
        options = settle_options(options, space, launcher_options, task)

        space = dataclasses.replace(space, absent=absent_keys(composer))
        composer.space = space
        composer.space = space = with_seeds(space, composer, options["replicas"])
        checked_cells = _cells_to_check(space)
        _refuse_common_folder(composer, checked_cells)
        metrics = as_list(options["metric"] or [])
        checked = {}
        with Heartbeat(lambda: _say_how_many(checked_cells), soon=lambda: True):
            for cell in checked_cells:
                config = composer.compose_task(cell)
                job = composer.compose(0, cell) if composer.depends_on_job(cell) else None
                checked[identity(cell)] = _validated(task, config, metrics, job)
        if options["metric"] is None:
            metric = task.default_metric(checked[identity(checked_cells[0])])
            options = {**options, "metric": metric}
        options = settle_metrics(options, task, _own_metrics(task, options, checked))
        first = composer.compose_task(checked_cells[0])
        base = composer.compose(0, checked_cells[0])
        by_choice = composer.compose_choices()
        first_seed = {"first_seed": space.first_seed[space.seed_key]} if space.seed_key else {}
        of_choices = [config for configs in by_choice.values() for config in configs.values()]
        plan = cls(
            space=space,
            options=options,
            composer=composer,
            task=task,
            base=base,
            meaning=meaning_of(
                first,
                space,
                options,
                task.defaults_before,
                shared=composer.compose_shared(),
                by_choice=by_choice,
                unmeant_keys=task.unmeant_keys,
            )
            | first_seed,
            checked=checked,
            constraints=[Constraint.parse(text) for text in options["constraints"]],
            code=code_of(sweeper.task_function, [first, *of_choices], varied_targets(space)),
            is_tracked=_is_tracked(options["track"], task, base),
        )
        if plan.is_tracked:
            plan.mlflow_options()
        return plan

    def prepared(self) -> Plan:
        """With the data at hand, which is part of the meaning; warns of what the task warns of.

        Raises what the task's `prepare` raises.
        """
        prepared = {self.task.prepare(checked) for checked in self.checked.values()}
        for checked in self.checked.values():  # of which more is known now
            _refuse_lacking(self.task, checked, as_list(self.options["metric"]))
        warnings: dict[str, None] = {}  # in their order, each once
        for checked in self.checked.values():
            warnings |= dict.fromkeys(self.task.warnings(checked))
        for warning in warnings:
            log.warning(warning)
        return dataclasses.replace(self, meaning={**self.meaning, "data": sorted(prepared - {""})})

    @property
    def name(self) -> str:
        """The study's name: the one given, else one that follows from what it means."""
        return self.options["study_name"] or automatic_name(self.space, self.meaning)

    @property
    def earlier_name(self) -> str | None:
        """The name that version 0.1 gave this study; None where the user gives one."""
        if self.options["study_name"]:
            return None
        return automatic_name_in_0_1(self.space, self.meaning)

    @property
    def n_trials(self) -> int | None:
        """The most trials that it can have, counted up to MAX_CELLS_CHECKED; None where no one can
        say."""
        limits = []
        if self.options["n_trials"]:
            limits.append(self.options["n_trials"])
        if self.options["sampler"]["name"] == "grid":
            limits.append(min(self.space.n_cells, MAX_CELLS_CHECKED))
        return min(limits, default=None)

    @property
    def is_pruned(self) -> bool:
        """Whether a pruner may stop trials."""
        return bool(self.options["pruner"]["name"] != "none")

    @property
    def launcher(self) -> HydraLauncher:
        return self.composer.launcher

    def mlflow_options(self) -> dict[str, Any]:
        """The store, the experiment, tags and note that the app's config names; None for each that
        it does not, as in an app that has something else under the name mlflow.

        Raises ConfigError for what MLflow would not take.
        """
        part = self.base.get("mlflow")
        options: dict[str, Any] = {}
        for name in ("tracking_uri", "experiment", "tags", "note"):
            options[name] = _resolved(part, name) if isinstance(part, DictConfig) else None
        validate_tags(options["tags"], options["note"])
        uri = options["tracking_uri"]
        if uri is not None and not isinstance(uri, str):
            raise ConfigError("mlflow.tracking_uri", f"{str(uri)[:40]!r} is no URI of a store")
        return options

    def ui_metrics(self, metrics: Sequence[str]) -> list[str]:
        """The metrics that MLflow's list of runs shows, the study's first."""
        more = [name for name in SHOWN_METRICS if name in self.task.metrics]
        return [metric_name(name) for name in dict.fromkeys([*metrics, *more])]

    def ui_params(self) -> list[str]:
        """The params that it shows: what varies, under the names by which it is logged."""
        params = []
        for key in self.space.dimensions:
            # A task that logs its composed config has a group's choice under its name.
            is_choice = self.task.logs_itself and "." not in key and not key.startswith("+")
            params.append(f"{key}.name" if is_choice else param_name(key))
        return params

    def costs(self) -> dict[str, float]:
        """How much work each checked cell is beside others, where the task can say."""
        costs = {}
        for cell, checked in self.checked.items():
            cost = self.task.cost(checked)
            if cost is not None:
                costs[cell] = cost
        return costs

    def validate(self, config: DictConfig, params: Mapping[str, Value]) -> Any:
        """What the task makes of a config, which was perhaps checked beforehand.

        config: with Hydra's own part. Raises what the task's `validate` raises.
        """
        metrics = as_list(self.options["metric"])
        if self.composer.depends_on_job(params):
            return _validated(self.task, config, metrics, config)
        known = self.checked.get(identity(params))
        return known if known is not None else _validated(self.task, config, metrics)

    def broken_constraint(self, config: DictConfig, checked: Any) -> str:
        """Why a configuration must not be tried; empty where it fulfils all constraints."""
        if not self.constraints:
            return ""
        measures = self.task.measure(checked)
        for constraint in self.constraints:
            problem = constraint.problem(config, measures)
            if problem:
                return problem
        return ""

    def left_out(self) -> dict[str, str]:
        """The identities of the cells, of those that were checked, that break a constraint, and
        why."""
        left_out: dict[str, str] = {}
        if not self.constraints or self.options["sampler"]["name"] != "grid":
            return left_out
        for cell in _cells_to_check(self.space):
            key = identity(cell)
            config = self.composer.compose_task(cell)
            reason = self.broken_constraint(config, self.checked[key])
            if reason:
                left_out[key] = reason
        return left_out

    def rerun_command(self) -> str:
        """How this app is started, without arguments."""
        if self.task.logs_itself:
            return "python -m cifar_hpo"
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        name = f"-m {spec.name.removesuffix('.__main__')}" if spec else shlex.quote(sys.argv[0])
        return f"python {name}"

    def app_command(self) -> str:
        """How an app that is not this package's own is started for one trial, without what varies;
        no password is in it."""
        arguments = [redacted(argument) for argument in single_run_arguments()]
        return " ".join([self.rerun_command(), *map(shlex.quote, arguments)])

    def rerun_arguments(self, params: Mapping[str, Value]) -> list[str]:
        """The arguments that run one configuration alone, without passwords: they are shown."""
        chosen = self._config_arguments() if self.task.logs_itself else single_run_arguments()
        arguments = [*chosen, *self.space.overrides(params)]
        return [redacted(argument) for argument in arguments]

    def _config_arguments(self) -> list[str]:
        """Those that name the config of this package's own app, and where it is found."""
        hydra = self.base.hydra
        name = hydra.job.config_name
        arguments = [] if name == "config" else ["-cn", name, "hydra.mode=RUN"]
        return [*arguments, *search_arguments(hydra)]

    def best(self, ranking: Sequence[FinishedTrial]) -> dict[str, Any] | None:
        """The best configuration of a ranking, with what trains it again."""
        if not ranking or ranking[0].value is None:
            return None
        best = ranking[0]
        overrides = self.rerun_arguments(best.params)
        return {"trial": best.number, "value": best.value, "overrides": overrides}

    def name_folder(self, study: str, earlier: Sequence[Path] = ()) -> Path:
        """Let `hydra.sweep.dir`, which may name the study, point to this study's folder.

        A study that goes on does so in the folder that it had, where `hydra.sweep.dir` would name
        another at each moment, as Hydra's own does; so its trials find their checkpoints. The
        sweep's config is kept there. earlier: the study's folders, the latest last. Returns the
        folder.
        """
        config = self.launcher.config
        before = config.hydra.sweep.dir
        if OmegaConf.select(config, "hydra.sweeper.study_name") != study:
            self._set_option("hydra.sweeper.study_name", study)
        if self.is_final and config.hydra.sweep.dir == before:  # that of the search
            self._set_option("hydra.sweep.dir", str(Path(before, paths.FINAL_FOLDER)))
        written = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        known = [folder for folder in earlier if folder.is_dir()]
        if known and OF_MOMENT.search(str(written)):
            self._set_option("hydra.sweep.dir", str(known[-1]))
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / paths.SWEEP_CONFIG)
        return folder

    def _set_option(self, key: str, value: str) -> None:
        """Give an option of Hydra's another value, for the configs of all trials too."""
        config = self.launcher.config
        quoted = QuotedString(value, Quote.single).with_quotes()
        with read_write(config.hydra), open_dict(config):
            OmegaConf.update(config, key, value)
            config.hydra.overrides.hydra.append(f"{key}={quoted}")
        self.composer.forget()


def _refuse_folder_of_interpolation() -> None:
    """Raise UserError in a folder whose name Hydra would take for more than a name."""
    if "${" in str(Path.cwd()):
        problem = "Hydra takes ${ in the name of the current folder for an interpolation"
        raise UserError(f"{Path.cwd()}: {problem}; start the sweep in another one")


def _resolved(part: DictConfig, name: str) -> Any:
    """The plain value of a key, None where it has none. Raises ConfigError for an interpolation
    that can't be resolved."""
    try:
        value = part.get(name)
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise config_error(error, name) from None
    return value


def _is_tracked(track: bool | None, task: Task, base: DictConfig) -> bool:
    """Where nobody says, whether the app's config has a part for MLflow."""
    if task.logs_itself and track is False:
        problem = "each trial of this app has its run, and the study one above them; leave it out"
        raise ConfigError("hydra.sweeper.track", problem)
    return base.get("mlflow") is not None if track is None else track


def _validated(
    task: Task, config: DictConfig, metrics: Sequence[str], job: DictConfig | None = None
) -> Any:
    """What the task makes of a config, whose trial will have the study's metrics.

    job: the config with Hydra's own part, where it takes values of it.
    """
    with job_config(job) if job is not None else contextlib.nullcontext():
        checked = task.validate(config)
    _refuse_lacking(task, checked, metrics)
    return checked


def _refuse_lacking(task: Task, checked: Any, metrics: Sequence[str]) -> None:
    """Raise ConfigError for a metric that a trial will not have."""
    for metric in metrics:
        problem = task.lacks(checked, metric)
        if problem:
            raise ConfigError("hydra.sweeper.metric", f"a trial will have no {metric}: {problem}")


def _own_metrics(
    task: Task, options: Options, checked: Mapping[str, Any]
) -> list[Mapping[str, OwnMetric]]:
    """What configurations have beside the task's metrics, for each of which it is known; nobody
    looks for these where a study compares by the task's alone."""
    if knows_metrics(options, task):
        return [{}]
    found = [task.own_metrics(configuration) for configuration in checked.values()]
    return [own for own in found if own is not None]


def _refuse_common_folder(composer: Composer, cells: Sequence[Mapping[str, Value]]) -> None:
    """Raise ConfigError where trials would have each other's checkpoints."""
    folders = []
    for number, cell in enumerate(cells[:2]):
        config = composer.compose(number, cell)
        with job_config(config):
            folders.append(OmegaConf.select(config, "hydra.sweep.subdir"))
    if len(folders) != len(set(folders)):
        problem = f"{folders[0]!r} is the folder of all trials; put ${{hydra.job.num}} into it"
        raise ConfigError("hydra.sweep.subdir", problem)


def _plain_values(options: Mapping[str, Any]) -> Options:
    """Hydra's options, interpolations resolved, as Python's own values."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(options)), resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def with_seeds(space: Space, composer: Composer, replicas: Mapping[str, int] | None) -> Space:
    """The space with the seeds that its configurations may have, which count up from the config's.

    replicas: the most among them; None where nobody asks for any. Raises ConfigError where the
    seed varies by itself, or there is none.
    """
    if replicas is None:
        return space
    path = "hydra.sweeper.replicas"
    for key in space.dimensions:
        if is_seed(key) or key == REPLICAS:
            raise ConfigError(path, f"{key} varies by itself; leave one of the two out")
    key, first = seed_of(space, composer, path)
    values = flat(OmegaConf.to_container(composer.compose_task(_any_cell(space))))
    of_trial = replicas_of({}, values)
    return space.with_seeds(key, range(first, first + replicas["most"], of_trial))


def seed_of(space: Space, composer: Composer, path: str) -> tuple[str, int]:
    """The key of a config's seed, and its value.

    path: of the option that counts seeds. Raises ConfigError where there is none to count from.
    """
    values = flat(OmegaConf.to_container(composer.compose_task(_any_cell(space))))
    given = [key for key in space.parts if is_seed(key)]  # such as +seed=3
    known = [*given, *(key for key in SEEDS if key in values)]
    if not known:
        hint = "give it one, and let the task use it"
        raise ConfigError(path, f"the config has no {' or '.join(SEEDS)}; {hint}")
    first = values.get(known[0].lstrip("+"))
    if not isinstance(first, int) or isinstance(first, bool):
        problem = f"{first!r} is no whole number, from which seeds could count up"
        raise ConfigError(known[0], problem)
    return known[0], first


def _any_cell(space: Space) -> dict[str, Value]:
    return next(iter(space.cells() if space.is_finite else space.corners()))


def _cells_to_check(space: Space) -> list[dict[str, Value]]:
    """The cells of a grid, up to MAX_CELLS_CHECKED, of each configuration one; of another space
    its corners."""
    cells = space.first_cells() if space.is_finite else space.corners()
    return list(itertools.islice(cells, MAX_CELLS_CHECKED))


def _say_how_many(cells: Sequence[Mapping[str, Value]]) -> None:
    log.info("checking %d configurations", len(cells))
