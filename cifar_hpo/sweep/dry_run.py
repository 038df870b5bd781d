"""What a sweep would do, and what it would take: `dry_run` prints it and starts nothing.

An `Outlook` is what a study would still have to try. How long that takes is known from earlier
trials of the storage, else from some steps that are trained in a process of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.console import PLAIN, clock, still, terminal
from cifar_hpo.errors import TrialError, UserError, one_line
from cifar_hpo.paths import HYDRA_CONFIG, HYDRA_FOLDER, SCRATCH, TEMPORARY
from cifar_hpo.study.seeds import without_seed
from cifar_hpo.study.space import Value, identities, identity
from cifar_hpo.study.workload import Workload
from cifar_hpo.sweep.estimate import TimedTrial, sweep_seconds_left
from cifar_hpo.sweep.final import final_text
from cifar_hpo.sweep.plan import MAX_CELLS_CHECKED, Plan
from cifar_hpo.table import Table
from cifar_hpo.task import Profile
from cifar_hpo.trial import FAILURES, FINISHED, PRUNED
from cifar_hpo.workers.engine import Engine
from cifar_hpo.workers.pool import Pool, available_cores
from cifar_hpo.workers.process import thread_environment

if TYPE_CHECKING:  # Optuna is loaded where a study is looked for
    from optuna.storages import BaseStorage

    from cifar_hpo.study.ranking import FinishedTrial

MAX_LISTED = 10
"""Cells that constraints leave out of which the reason is listed."""

MAX_TIMED = 20
"""Trials of other studies by which the time is estimated; the config of each lies in a file."""

TITLE_WIDTH = 15
"""Characters of the first column."""

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


@dataclass
class Outlook:
    """What a study would still have to try, as an estimate asks for it.

    name: of the study. is_there: whether it has begun. finished: its counted trials. timed: what
    trials took that ran in one go, by which one estimates. timed_by: which trials these are.
    seeds: the trials of each configuration, at least and at most, where seeds are added as they
    decide; nobody knows how many, so the least count unless `is_most`.
    """

    name: str
    workload: Workload
    timeout: float | None
    is_there: bool = False
    finished: Sequence[FinishedTrial] = ()
    timed: Sequence[TimedTrial] = ()
    timed_by: str = ""
    retried: Sequence[Mapping[str, Value]] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, int] | None = None
    is_most: bool = False

    def planned(self) -> int | None:
        if self.seeds is None:
            return self.workload.planned()
        trials = self.n_configurations * self.seeds[self.is_most]
        return min(trials, self.workload.n_trials or trials)

    @property
    def n_configurations(self) -> int:
        """How many will be tried, of a grid with so many seeds of each."""
        cells = self.workload.space.n_cells
        return cells // self.seeds[1] - len(self.left_out) if self.seeds else cells

    def cost(self, params: Mapping[str, Value]) -> float:
        return self.workload.cost(params)

    def waiting_costs(self) -> list[float]:
        if self.retried is not None:
            return self.workload.longest_first(identities(self.retried))
        if self.seeds:
            return [self.workload.mean_cost] * (self.to_try or 0)
        return self.workload.waiting_costs(set())

    def seconds_to_timeout(self) -> float | None:
        return self.timeout

    @property
    def to_try(self) -> int | None:
        """How many trials are left; None where only time or success limits them."""
        if self.retried is not None:
            return len(self.retried)
        planned = self.planned()
        return None if planned is None else max(0, planned - self._counted())

    def _counted(self) -> int:
        """How many of the planned trials are done: of each configuration so many as are planned."""
        if self.seeds is None:
            return len(self.finished)
        of_space = [trial for trial in self.finished if self.workload.space.holds(trial.params)]
        done = Counter(identity(without_seed(trial.params)) for trial in of_space)
        return sum(min(count, self.seeds[self.is_most]) for count in done.values())


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """What is decoded or made on the way lies in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        own = {SCRATCH: folder, "TMPDIR": folder}
        with env_override(own):
            yield


def dry_run(plan: Plan, engine: Engine | None, task_function: Any, jobs_at_a_time: int) -> None:
    """Print what a sweep would try, how long it would take, and how much memory and disk.

    plan: prepared. engine: of a launcher of ours, not entered; else None. task_function: what its
    trials run. jobs_at_a_time: of another launcher. Raises StudyError for a study that could not
    go on, or a storage that can't be read.
    """
    from cifar_hpo.study.storage import storage_if_there

    storage = storage_if_there(plan.options["storage"])
    outlook = _outlook(plan, storage)
    workers = _workers(plan, engine, jobs_at_a_time)
    if storage is not None and not outlook.timed and outlook.workload.costs:
        outlook.timed, outlook.timed_by = _of_other_studies(plan, storage, outlook.name)
    profile, problem = None, ""
    cell = _longest_cell(plan, outlook)
    if outlook.to_try != 0 and cell is not None:
        environment = _environment(engine, workers)
        checked = plan.checked[identity(cell)]
        with still("training some steps, for what a trial takes"):
            profile, problem = _profile(task_function, checked, environment)
    if profile and cell is not None and not outlook.timed:
        outlook.timed = [TimedTrial(profile.seconds, outlook.cost(cell))]
        outlook.timed_by = f"{profile.steps} steps of {_params_text(cell)}, timed alone"

    lines = {"to try": _what_to_try(plan, outlook), "time": _time(plan, outlook, workers)}
    if outlook.to_try != 0:
        unknown = problem or "not known: this app does not say what its trials take"
        lines["memory"] = _memory(profile, workers, plan) if profile else unknown
        lines["disk"] = _disk(profile, workers, outlook) if profile else unknown
    if plan.options["final"]:
        lines["final stage"] = f"{final_text(plan)}; not counted above"
    _print(outlook, lines)


def _outlook(plan: Plan, storage: BaseStorage | None) -> Outlook:
    """By the plan, and by what its study has done so far. Raises StudyError where the study means
    something else."""
    options = plan.options
    is_grid = options["sampler"]["name"] == "grid"
    workload = Workload(
        plan.space, is_grid=is_grid, n_trials=options["n_trials"], costs=plan.costs()
    )
    outlook = Outlook(plan.name, workload, options["timeout"], left_out=plan.left_out())
    workload.leave_out(outlook.left_out)
    if plan.space.seed_key:
        seeds = [int(seed) for seed in plan.space.choices(plan.space.seed_key)]
        of_trial = seeds[1] - seeds[0] if len(seeds) > 1 else options["replicas"]["most"]
        least = math.ceil(options["replicas"]["least"] / of_trial)
        outlook.seeds = (least, len(seeds))
    if storage is None:
        return outlook
    from cifar_hpo.study.ranking import finished_trials
    from cifar_hpo.study.recovery import ATTEMPT
    from cifar_hpo.study.storage import latest_first, load_study
    from cifar_hpo.study.stored import (
        choose_name,
        meaning_of,
        refuse_another_program,
        refuse_differences,
    )

    name = choose_name(storage, plan.name, plan.earlier_name, is_fresh=options["fresh"])
    outlook.name = name
    if name not in latest_first(storage):
        return outlook
    study = load_study(storage, name)
    refuse_another_program(storage, name, options)
    stored = meaning_of(study.user_attrs)
    if stored:
        refuse_differences(name, stored, json.loads(json.dumps(plan.meaning)))
    trials = study.get_trials(deepcopy=False)
    outlook.is_there = True
    outlook.finished = finished_trials(trials, study.user_attrs)
    for trial in outlook.finished:
        workload.finish(trial.params)
    if options["retry_failed"]:
        failed = [trial for trial in outlook.finished if trial.state in FAILURES]
        outlook.retried = [trial.params for trial in failed if plan.space.holds(trial.params)]
    in_one_go = {trial.number for trial in trials if not trial.user_attrs.get(ATTEMPT)}
    outlook.timed = [
        TimedTrial(trial.seconds, workload.cost(trial.params))
        for trial in outlook.finished
        if trial.state in (FINISHED, PRUNED) and trial.number in in_one_go
    ]
    outlook.timed_by = f"the {len(outlook.timed)} of its trials that were timed"
    return outlook


def _of_other_studies(plan: Plan, storage: BaseStorage, name: str) -> tuple[list[TimedTrial], str]:
    """The latest trials of other studies of the same images of which this app says what they cost,
    and what they are called."""
    from cifar_hpo.study.attributes import folders_of
    from cifar_hpo.study.ranking import finished_trials
    from cifar_hpo.study.storage import latest_first, load_study
    from cifar_hpo.study.stored import meaning_of

    timed: list[TimedTrial] = []
    others = [other for other in latest_first(storage) if other != name]
    for other in others:
        study = load_study(storage, other)
        attributes = study.user_attrs
        if meaning_of(attributes).get("data") != plan.meaning["data"]:
            continue
        trials = finished_trials(study.get_trials(deepcopy=False), attributes)
        for trial in reversed(trials):
            cost = _cost_of(plan, folders_of(attributes), trial)
            if cost is not None and trial.state == FINISHED:
                timed.append(TimedTrial(trial.seconds, cost))
            if len(timed) == MAX_TIMED:
                return timed, f"the latest {MAX_TIMED} trials of other studies of these images"
    return timed, f"{len(timed)} trials of other studies of these images"


def _cost_of(plan: Plan, folders: Sequence[Path], trial: FinishedTrial) -> float | None:
    """What a trial cost, by the config that Hydra left in its folder; None where there is none, or
    it is of another app."""
    for folder in reversed(folders):
        file = Path(folder, str(trial.number), HYDRA_FOLDER, HYDRA_CONFIG)
        with contextlib.suppress(OSError, UserError, OmegaConfBaseException):
            config = OmegaConf.load(file)
            assert isinstance(config, DictConfig)
            return plan.task.cost(plan.task.validate(config))
    return None


def _workers(plan: Plan, engine: Engine | None, jobs_at_a_time: int) -> int:
    """Trials at a time; of a cluster that nobody has asked for its room those that were asked for,
    or one."""
    if engine is None:
        return int(plan.options["max_batch_size"] or jobs_at_a_time)
    options: Mapping[str, Any] = getattr(plan.launcher, "options", {})
    return engine.n_workers or options.get("n_workers") or 1


def _environment(engine: Engine | None, workers: int) -> dict[str, str]:
    """What a worker has in its environment, as far as that is known."""
    if isinstance(engine, Pool):
        return engine.environment(0)
    threads = engine.threads if engine else max(1, available_cores() // workers)
    return thread_environment(threads)


def _longest_cell(plan: Plan, outlook: Outlook) -> Mapping[str, Value] | None:
    """Of the configurations that were checked and will be tried, the one that costs most."""
    done = identities(trial.params for trial in outlook.finished)
    cells = [json.loads(key) for key in plan.checked.keys() - outlook.left_out.keys() - done]
    return max(cells, key=lambda cell: (outlook.cost(cell), identity(cell)), default=None)


def _profile(
    task_function: Any, checked: Any, environment: Mapping[str, str]
) -> tuple[Profile | None, str]:
    """What a configuration takes; where the steps fail, why."""
    from cifar_hpo.workers.apart import profile_apart

    try:
        return profile_apart(task_function, checked, environment), ""
    except TrialError as error:
        return None, f"not known: {one_line(error)}"


def _what_to_try(plan: Plan, outlook: Outlook) -> str:
    """How many trials, of which space, and how many are done."""
    to_try, space = outlook.to_try, plan.space
    if to_try is None:
        text = f"trials by {plan.options['sampler']['name']} until {_ends_of(plan)}"
    elif outlook.retried is not None:
        return f"{to_try} failed trials again"
    elif outlook.seeds:
        least, most = outlook.seeds
        seeds = f"{least} to {most}" if least < most else f"{most}"
        text = f"{outlook.n_configurations:,} configurations with {seeds} trials each: {to_try:,}"
        text += " trials, and more where they decide" if least < most else " trials"
    else:
        text = f"{to_try:,} {'configuration' if to_try == 1 else 'configurations'}"
        if outlook.workload.is_grid:
            text += f" of a grid of {space.n_cells:,}"
        else:
            text += f" by {plan.options['sampler']['name']}"
        if outlook.workload.is_cut:
            text += ", drawn at random"
        ends = _ends_of(plan)
        text += f"; none starts after {ends}" if ends else ""
    if outlook.finished:
        text += f"; {len(outlook.finished):,} done before"
    return text


def _ends_of(plan: Plan) -> str:
    """What else than their number ends a sweep's trials."""
    options = plan.options
    ends = []
    if options["timeout"]:
        ends.append(f"{clock(options['timeout'])} (hydra.sweeper.timeout)")
    if options["target"] is not None:
        ends.append(f"the target {options['target']:g}")
    if options["patience"]:
        ends.append(f"{options['patience']} trials without a better value")
    return " or ".join(ends)


def _time(plan: Plan, outlook: Outlook, workers: int) -> str:
    if outlook.to_try == 0:
        may_go_on = outlook.seeds and outlook.seeds[0] < outlook.seeds[1]
        return "that of the seeds that still decide" if may_go_on else "none: all is done"
    used = min(workers, outlook.to_try or workers)
    on_workers = f"{used} worker{'s' * (used > 1)}"
    timed = outlook.timed
    seconds = sweep_seconds_left(outlook, [], used, timed)
    if seconds is None:
        known = "" if outlook.timed else ", before a first trial of this app has ended here"
        return f"not known{known}"
    text = f"about {clock(seconds)} with {on_workers}, by {outlook.timed_by}"
    if outlook.seeds:
        at_most = sweep_seconds_left(dataclasses.replace(outlook, is_most=True), [], workers, timed)
        text += f"; {clock(at_most)} at most" if at_most and at_most > seconds else ""
    return f"{text}; less where the pruner stops trials" if plan.is_pruned else text


def _memory(profile: Profile, workers: int, plan: Plan) -> str:
    free = psutil.virtual_memory().available
    needed = workers * profile.memory
    text = f"about {_bytes(needed)}: {workers} × {_bytes(profile.memory)}; {_bytes(free)} free"
    options: Mapping[str, Any] = getattr(plan.launcher, "options", {})
    limit = options.get("memory_limit")
    if limit and profile.memory > limit * 2**30:
        return f"{text}; more than hydra.launcher.memory_limit={limit:g} GiB"
    if needed > free:
        return f"{text}: too little, hydra.launcher.n_workers={max(1, free // profile.memory)} fits"
    return text


def _disk(profile: Profile, workers: int, outlook: Outlook) -> str:
    """Models of all trials, and the checkpoints of those that run, each with the one before it."""
    decoded = sum(file.stat().st_size for file in Path(os.environ[SCRATCH]).rglob("*.npy"))
    checkpoints = 2 * workers * profile.checkpoint
    trials = outlook.to_try
    models = f"a model of {_bytes(profile.model)} for each trial"
    parts = [f"{_bytes(checkpoints)} of checkpoints while trials run"]
    needed = decoded + checkpoints
    if trials is not None:
        models = f"{trials:,} × {_bytes(profile.model)} of models at most"
        needed += trials * profile.model
    if decoded:
        parts.append(f"{_bytes(decoded)} of decoded images")
    free = shutil.disk_usage(Path.cwd()).free
    text = f"about {_bytes(needed)}: {', '.join([models, *parts])}; {_bytes(free)} free"
    return f"{text}: too little" if needed > free else text


def _bytes(count: float) -> str:
    """A size in the unit that leaves it two or three digits."""
    for unit, size in UNITS.items():
        if count >= size:
            scaled = count / size
            return f"{scaled:.1f} {unit}" if scaled < 10 else f"{scaled:.0f} {unit}"
    return f"{count:.0f} B"


def _params_text(params: Mapping[str, Value]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items()) or "the base config"


def _print(outlook: Outlook, lines: Mapping[str, str]) -> None:
    console = terminal()
    state = "is there" if outlook.is_there else "would be new"
    console.print(f"dry run: study {outlook.name} {state}; nothing is started", **PLAIN)
    for title, text in lines.items():
        console.print(f"{title:<{TITLE_WIDTH}}{text}", **PLAIN)
    if not outlook.left_out:
        return
    count = len(outlook.left_out)
    first = f", of the first {MAX_CELLS_CHECKED:,}" * (
        outlook.workload.space.size > MAX_CELLS_CHECKED
    )
    console.print(f"{'left out':<{TITLE_WIDTH}}{count:,} by constraints{first}", **PLAIN)
    rows = []
    for configuration, reason in list(outlook.left_out.items())[:MAX_LISTED]:
        rows.append([_params_text(json.loads(configuration)), reason])
    drawn = Table(["configuration", "reason"], rows).to_rich()
    if count > MAX_LISTED:
        drawn.caption = f"and {count - MAX_LISTED} more"
    console.print(drawn)
