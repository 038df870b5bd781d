"""What a person sees of a sweep: a `Screen` while it runs, and at its end the ranking and the way
on."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from cifar_hpo import paths
from cifar_hpo.config.app import SYNTHETIC_NOTICE
from cifar_hpo.console import PLAIN, Heartbeat, clock, sparkline, terminal
from cifar_hpo.redaction import redacted
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.study import Study
from cifar_hpo.study.tables import trial_table
from cifar_hpo.sweep.estimate import TimedTrial, sweep_seconds_left
from cifar_hpo.sweep.plan import Plan
from cifar_hpo.sweep.tracker import StudyTracker
from cifar_hpo.table import Table
from cifar_hpo.trial import FINISHED, PAUSED, PRUNED, TrialResult, TrialSpec
from cifar_hpo.workers.engine import Engine, WorkerState
from cifar_hpo.workers.pace import Pace

MAX_ROWS = 10
"""Rows of the ranking that are shown; MLflow has all trials."""

REDRAWS_PER_SECOND = 2
RETRY = "hydra.sweeper.retry_failed=true tries it again"
COLUMNS = ("worker", "trial", "configuration", "epoch", "{metric}", "so far", "time left")


class Screen:
    """Follows a sweep from what the pool knows.

    On a terminal a table is drawn anew twice a second. Elsewhere there is a line for each trial
    that ends, and one for all that run: as soon as the first epoch is timed, and then whenever
    nothing was printed for a while.
    """

    def __init__(self, study: Study, pool: Engine | None, console: Console) -> None:
        self.study = study
        self.pool = pool
        self.console = console
        self.started = time.monotonic()
        self.done_before = len(study.finished_trials())
        self.timed: list[TimedTrial] = []
        self.is_live = console.is_terminal and pool is not None
        self.heartbeat = Heartbeat(self.print_status, soon=self._has_estimate)

    def trial_ended(self, spec: TrialSpec, result: TrialResult, *, is_counted: bool) -> None:
        """A trial ended; without a terminal a line tells."""
        is_whole = spec.attempt == 0 and result.state in (FINISHED, PRUNED)
        if is_counted and is_whole:
            self.timed.append(TimedTrial(result.seconds, self.study.cost(spec.params)))
        if self.is_live:
            return
        line = f"{self._count()} trial {spec.number}: {_params_text(spec.params)}: "
        line += f"{self._outcome(result)} in {result.seconds:.1f} s"
        if result.state == PAUSED:
            line += ", may go on"
        elif not is_counted:
            line += ", will be tried again"
        self.console.print(line, **PLAIN)
        self.heartbeat.heard()

    def counted_elsewhere(self, trial: FinishedTrial) -> None:
        """A trial of another command's ended; without a terminal a line tells."""
        self._print_counted(trial, f" in {trial.seconds:.1f} s, elsewhere")

    def ended_paused(self, trial: FinishedTrial) -> None:
        """A trial that paused does not go on; without a terminal a line tells."""
        self._print_counted(trial)

    def _print_counted(self, trial: FinishedTrial, behind: str = "") -> None:
        if not self.is_live:
            outcome = self._outcome(TrialResult(trial.state, trial.metrics, trial.error))
            line = f"{self._count()} trial {trial.number}: {_params_text(trial.params)}: {outcome}"
            self.console.print(line + behind, **PLAIN)
            self.heartbeat.heard()

    def asked(self, text: str) -> None:
        """Another command has asked for something; a line tells."""
        self.console.print(text, **PLAIN)
        self.heartbeat.heard()

    def print_status(self) -> None:
        """One line: how far the sweep is, and each worker's trial, epoch, value and time left."""
        spent = clock(time.monotonic() - self.started)
        parts = [f"{self._count()} after {spent}{self._time_left()}"]
        if self.pool is None:
            trials = ", ".join(str(number) for number in list(self.study.running))
            parts.append(f"with the launcher: {trials or 'nothing yet'}")
        for worker, spec in self._running():
            epoch, value, left = _pace_texts(worker.pace)
            parts.append(f"trial {spec.number}: epoch {epoch}, {value}, {left} left")
        parts += [f"trial {number}: on {host}" for number, host in self._elsewhere()]
        self.console.print(" | ".join(parts), **PLAIN)

    def __rich__(self) -> Group:
        """The live table, as rich draws it."""
        table = RichTable(box=None, pad_edge=False)
        for column in COLUMNS:
            table.add_column(column.format(metric=self.study.metrics[0]))
        for worker, spec in self._running():
            epoch, value, left = _pace_texts(worker.pace)
            curve = sparkline(worker.pace.values)
            params = _params_text(spec.params)
            cells = (worker.slot, spec.number, params, epoch, value, curve, left)
            table.add_row(*(Text(str(cell)) for cell in cells))
        for number, host in self._elsewhere():
            table.add_row(Text(host), Text(str(number)))
        return Group(Text(self._title(), style="bold"), table, Text(self._best()))

    def _title(self) -> str:
        done = len(self.study.finished_trials())
        spent = clock(time.monotonic() - self.started)
        title = f"study {self.study.name}: {done} of {self._planned()} trials done after {spent}"
        return title + self._time_left()

    def _best(self) -> str:
        best = self.study.best
        if best is None:
            return ""
        params = _params_text(best.params)
        return f"best so far: trial {best.number}, {params}: {best.value:.4f}"

    def _outcome(self, result: TrialResult) -> str:
        name = self.study.metrics[0]
        if name in result.metrics:
            return f"{name} {result.metrics[name]:.4f}"
        return f"{result.state} {result.error}".strip()

    def _count(self) -> str:
        """Counted trials of all planned ones."""
        return f"[{len(self.study.finished_trials())}/{self._planned()}]"

    def _planned(self) -> str:
        """How many trials there will be; 18+ where the first seeds tell how many more."""
        more = "+" if self.study.may_grow else ""
        return f"{self.study.planned() or '?'}{more}"

    def _running(self) -> list[tuple[WorkerState, TrialSpec]]:
        """Busy workers and what each tries, as of now: the sweep goes on in another thread."""
        running = []
        for worker in list(self.pool.workers) if self.pool else []:
            job = worker.job
            if job:
                running.append((worker, job.spec))
        return running

    def _elsewhere(self) -> list[tuple[int, str]]:
        """The first trials that other commands run, and their hosts."""
        return sorted(self.study.elsewhere().items())[:MAX_ROWS]

    def _has_estimate(self) -> bool:
        return any(worker.pace.seconds_left is not None for worker, _ in self._running())

    def _time_left(self) -> str:
        if self.study.is_paused:
            return ", paused"
        if not self.pool:
            return ""
        running = [(worker.pace, spec) for worker, spec in self._running()]
        slots = self.pool.n_workers + len(self.study.elsewhere())
        left = sweep_seconds_left(self.study, running, slots, self.timed)
        return "" if left is None else f", about {clock(left)} left"


@contextlib.contextmanager
def follow(study: Study, pool: Engine | None) -> Iterator[Screen]:
    """The screen while the sweep runs."""
    console = terminal()
    screen = Screen(study, pool, console)
    line = f"study {study.name}: {_workload_text(study)}"
    if study.is_drawn:
        cells = f"{study.space.n_cells:,} configurations"
        line += f", drawn at random from {cells} (hydra.sweeper.sampler.seed={study.draw_seed})"
    if screen.done_before:
        line += f", {screen.done_before} done before"
    if pool and pool.text:
        line += f"; {pool.text}"
    console.print(line, **PLAIN)
    if screen.is_live:
        with Live(screen, console=console, refresh_per_second=REDRAWS_PER_SECOND, transient=True):
            yield screen
    else:
        with screen.heartbeat:
            yield screen


def _workload_text(study: Study) -> str:
    """How much there is to do in all."""
    plan = study.replica_plan
    if plan is None or plan.least == plan.most:
        return f"{study.planned() or 'any number of'} trials"
    seeds = f"with {plan.least} to {plan.most} seeds each"
    return f"{study.n_configurations} configurations {seeds}, at least {study.planned()} trials"


def verdict_on_seeds(study: Study) -> str:
    """What the seeds that were added have come to, as a sentence; empty where none were to be."""
    plan = study.replica_plan
    if plan is None:
        return ""
    seeds = study.next_seeds()
    trials = f"{len(study.finished_trials())} trials"
    names = [_params_text(params) for params in seeds.contenders]
    lost = " | ".join(_params_text(params) for params in seeds.lost)
    behind = f"; no verdict on {lost}, of which a seed failed ({RETRY})" if lost else ""
    if not names and not lost:
        return f"not decided after {trials}: not all have their {plan.least} seeds"
    if seeds.compared < 2:  # there is nothing to decide about a single one
        return f"not decided after {trials}{behind}" if lost else ""
    if seeds.is_decided:
        others = "the other" if seeds.compared == 2 else f"each of the {seeds.compared - 1} next"
        found = f"{names[0]} is the best, {others} is shown to be worse"
        return f"decided after {trials}: {found}{behind}"
    alike = " | ".join(names)
    if seeds.cells:
        return f"not decided after {trials}; not told apart yet: {alike}{behind}"
    return f"not told apart by {plan.most} seeds each, after {trials}: {alike}{behind}"


def ranking_note(study: Study) -> str:
    """The best trials as Markdown, for the study's run."""
    return _ranking_table(study, study.ranking()[:MAX_ROWS]).to_markdown()


def print_summary(
    study: Study,
    plan: Plan,
    tracker: StudyTracker,
    pool: Engine | None,
    notices: Sequence[str] = (),
) -> None:
    """The ranking, where everything is, and what to type next.

    notices: what else the user should know; where no trial counted there is nothing beside them.
    """
    console = terminal()
    for notice in notices:
        console.print(notice, style="yellow", **PLAIN)
    ranking = study.ranking()
    if not ranking:
        return
    console.print(_ranking_table(study, ranking[:MAX_ROWS]).to_rich())
    if len(ranking) > MAX_ROWS:
        console.print(f"… and {len(ranking) - MAX_ROWS} more", **PLAIN)
    if _is_synthetic_fallback(plan):
        console.print(SYNTHETIC_NOTICE, style="bold red", **PLAIN)
    if tracker.run_id:
        uri = redacted(tracker.uri)
        file = paths.sqlite_file(uri)
        store = paths.short_path(file) if file else uri
        console.print(f"runs:   experiment {tracker.experiment_name} in {store}", **PLAIN)
        console.print(f"browse: {_browse_command(uri)}", **PLAIN)
    if plan.options["storage"] != paths.IN_MEMORY:
        console.print(f"report: {_report_command(plan, study)}", **PLAIN)
    if ranking[0].state == FINISHED:
        arguments = plan.rerun_arguments(ranking[0].params)
        if pool and plan.task.logs_itself:
            arguments.append(f"training.threads={pool.threads}")
        console.print(f"again:  {plan.rerun_command()} {shlex.join(arguments)}", **PLAIN)


def _ranking_table(study: Study, ranking: Sequence[FinishedTrial]) -> Table:
    return trial_table(ranking, study.metrics, study.directions, study.space.dimensions)


def _is_synthetic_fallback(plan: Plan) -> bool:
    """Whether CIFAR-10 could not be had."""
    is_synthetic = any("synthetic" in dataset for dataset in plan.meaning["data"])
    return is_synthetic and bool(plan.base.data.source == "auto")


def _report_command(plan: Plan, study: Study) -> str:
    storage = plan.options["storage"]
    given = f" --storage {redacted(storage)}" if storage else ""
    return f"python -m cifar_hpo.report {study.name}{given}"


def _browse_command(uri: str) -> str:
    """MLflow's own command, which finds mlflow.db in the current folder by itself; of a server its
    address."""
    if uri.startswith(("http://", "https://")):
        return uri
    file = paths.sqlite_file(uri)
    if file and paths.short_path(file) == paths.MLFLOW_DB:
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri {uri}"


def _pace_texts(pace: Pace) -> tuple[str, str, str]:
    """Epoch of epochs, the value so far and the time left of a trial."""
    progress, left = pace.progress, pace.seconds_left
    epoch = f"{progress.epoch}/{progress.epochs}" if progress.epochs else "starting"
    value = f"{pace.values[-1]:.4f}" if pace.values else "…"
    return epoch, value, "…" if left is None else clock(left)


def _params_text(params: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items()) or "base"
