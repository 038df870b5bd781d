"""The loop of a sweep: specs out of the study, jobs to the workers, results back, each as it comes.

`run_sweep` runs it, with a `Sweep`.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from hydra.core.utils import JobReturn

from cifar_hpo.config.fields import as_list
from cifar_hpo.console import still
from cifar_hpo.errors import (
    ConfigError,
    StudyError,
    SweepFailed,
    UnusableResult,
    disk_error,
    has_no_space,
    one_line,
)
from cifar_hpo.gpus import is_out_of_memory
from cifar_hpo.hydra_internals import return_value
from cifar_hpo.interruption import Interruption
from cifar_hpo.left_results import LeftResults
from cifar_hpo.paths import CHECKPOINTS, TRACEBACK, absolute_url, short_path, storage_url
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.replication import Allocate
from cifar_hpo.study.study import Study
from cifar_hpo.sweep import progress
from cifar_hpo.sweep.batches import run_batches
from cifar_hpo.sweep.closing import Closing
from cifar_hpo.sweep.code import note_code
from cifar_hpo.sweep.control import Controls, Replan
from cifar_hpo.sweep.plan import Plan
from cifar_hpo.sweep.tracker import StudyTracker
from cifar_hpo.sweep.trial_results import from_left, to_trial_result
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PAUSED, Context, TrialResult, TrialSpec
from cifar_hpo.workers.engine import Engine
from cifar_hpo.workers.jobs import Job, JobResult, PruningQuery, WorkerLost
from cifar_hpo.workers.pool import stream

log = logging.getLogger(__name__)

MAX_SKIPPED = 500
"""Configurations in a row of which a sampler has to have a possible one."""

MAX_KEPT_CONFIGS = 100
"""Trials of which a sweep returns the composed configs to Hydra, beside what came of them."""

LOOK_INTERVAL = 2.0
"""Seconds between two looks at what other commands have done in a shared study."""

IDLE_LOOKS = 2
"""Looks in a row at which nobody is at work, between two trials of a command's there may be one."""

HOW_TO_RESUME = "the same command goes on from here"

HOW_TO_RETURN = "name one of its numbers here, or let it return a number or a dict with this one"

SIGNAL_DELAY = 0.1
"""Seconds in which a signal that ended a worker reaches this process, too, where it was sent to
all."""

Batches = list[list[JobReturn]]
"""Hydra's view of a sweep."""


class Ended(NamedTuple):
    """A sweep at its end.

    plan: with what was added to its space on the way. study: its name. failure: what is to be
    raised where trials failed. is_whole: whether it came to its end by itself, and not because it
    was asked to, or too many trials failed.
    """

    plan: Plan
    study: str
    batches: Batches
    failure: SweepFailed | None
    is_whole: bool


def run_sweep(
    plan: Plan,
    pool: Engine | None,
    open_tracker: Callable[[Plan, Study], StudyTracker],
    replan: Replan | None = None,
) -> Ended:
    """Run a sweep to its end, and return what this call ran, in the order of trial numbers.

    open_tracker: gives what keeps the study's record. replan: makes the plan once more, with values
    that the study is given while it runs. Without a pool the trials go to whatever
    launcher Hydra was given, batch by batch. Raises StudyError when the study can't be continued.
    """
    with Interruption(HOW_TO_RESUME, pool.kill if pool else _nothing) as interruption:
        recovered: list[TrialResult] = []
        study = _open_study(plan, recovered)
        with study:
            with study.turn():
                for line in note_code(study, plan.code):
                    log.warning(line)
                left = _left_results(plan, study)
                with still("opening the study's run"):
                    tracker = open_tracker(plan, study)
            sweep = Sweep(
                plan,
                study,
                tracker,
                left,
                interruption,
                pool=pool,
                recovered=recovered,
                replan=replan,
            )
            sweep.run()
            progress.print_summary(study, sweep.plan, tracker, pool, sweep.notices)
        is_whole = not study.is_cut_short
    return Ended(sweep.plan, study.name, sweep.batches(), sweep.failure(), is_whole)


def _nothing() -> None:
    pass


def _open_study(plan: Plan, recovered: list[TrialResult]) -> Study:
    """The study; the cells that break a constraint are left out of it.

    recovered: is given the results of trials that ended when nobody was there to note it.
    """

    def left_result(study: Study, spec: TrialSpec) -> TrialResult | None:
        for folder in study.attributes.folders():
            results = LeftResults.in_sweep_folder(folder, study.attributes.id)
            left = results.read(spec.number, spec.overrides)
            if left is not None:
                result = from_left(left, study.metrics)
                recovered.append(result)
                return result
        return None

    study = Study.open(
        plan.name,
        plan.space,
        plan.options,
        plan.meaning,
        plan.costs(),
        earlier_name=plan.earlier_name,
        left_result=left_result,
        allocate=_allocate_by(plan),
    )
    study.leave_out(plan.left_out())
    return study


def _allocate_by(plan: Plan) -> Allocate | None:
    """Who is to have further seeds, where a sweep adds any: by the report's own tests."""
    if not plan.space.seed_key:
        return None
    from cifar_hpo.analysis.allocation import allocate  # loads SciPy

    return functools.partial(allocate, direction=as_list(plan.options["direction"])[0])


def _end_run(tracker: StudyTracker, result: TrialResult) -> None:
    """Give a trial's run its end, which its process perhaps did not live to give it."""
    if result.run_id:
        tracker.end_attempt(result.run_id, result.run_status)


def _left_results(plan: Plan, study: Study) -> LeftResults:
    """Where the trials of this sweep leave their results; what earlier ones left is noted."""
    folder = plan.name_folder(study.name, study.attributes.folders())
    study.attributes.set_folder(folder)
    if not plan.task.logs_itself:
        study.attributes.set_program(plan.app_command())
    if not study.is_shared:  # else somebody may be about to note one
        for known in study.attributes.folders():
            LeftResults.in_sweep_folder(known, study.attributes.id).clear()
    return LeftResults.in_sweep_folder(folder, study.attributes.id)


class Sweep:
    """A sweep under way: its study, where its jobs run, and what keeps its record.

    left: where trials leave their results. pool: None where another launcher runs them. recovered:
    the results of trials that ended when nobody was there to note it, a list that grows. returned:
    Hydra's view of each trial that this call ran and that counted, by its number. notices: what the
    user should know at the end.
    """

    def __init__(
        self,
        plan: Plan,
        study: Study,
        tracker: StudyTracker,
        left: LeftResults,
        interruption: Interruption,
        *,
        pool: Engine | None,
        recovered: list[TrialResult] | None = None,
        replan: Replan | None = None,
    ) -> None:
        self.controls = Controls(plan, study, study.inbox(), pool, replan)
        self.study = study
        self.pool = pool
        self.tracker = tracker
        self.left = left
        self.interruption = interruption
        self.recovered = [] if recovered is None else recovered
        self.returned: dict[int, JobReturn] = {}
        self.notices: list[str] = []
        self._looked = time.monotonic()
        self._crowded: set[int] = set()  # trials for which a shared GPU had too little memory

    @property
    def plan(self) -> Plan:
        """With what was added to its space on the way."""
        return self.controls.plan

    def run(self) -> None:
        """Until nothing is left to try or a limit is reached; the study's run ends with it."""
        status = KILLED
        self._end_recovered()
        try:
            with progress.follow(self.study, self.pool) as screen:
                for event in self._events(screen):
                    if isinstance(event, PruningQuery):
                        spec = event.job.spec
                        event.answer(self.study.should_prune(spec, event.progress))
                    else:
                        self._take(event, screen)
                self._look_elsewhere(screen)
                self._end_paused(screen)
                if self.plan.options["final"] and not self.study.is_cut_short:
                    self._wait_for_others(screen)
            verdict = progress.verdict_on_seeds(self.study)
            if verdict:
                self.notices.append(verdict)
            if self.study.is_stopping:
                self.notices.append(f"stopped by another command; {HOW_TO_RESUME}")
            if self.plan.options["final"] and self.study.is_cut_short:
                self.notices.append("no final stage, because the search was cut short")
            status = FAILED if self.failed() else FINISHED
        finally:
            if self.pool:
                self.pool.close()
            self.study.release()
            if not self.study.is_shared:
                self.left.remove_empty_folder()
            with still("closing the study's run"):
                closing = Closing(status, self.plan, self.study, self.tracker, notices=self.notices)
                closing.deliver_kept()
                self._end_recovered()
                closing.close()

    def failed(self) -> list[FinishedTrial]:
        """The failed trials of this space, those of earlier commands among them."""
        space, trials = self.study.space, self.study.finished_trials()
        return [trial for trial in trials if trial.state == FAILED and space.holds(trial.params)]

    def failure(self) -> SweepFailed | None:
        """What is to be raised while the outcome of a planned configuration is FAILED.

        So the exit code tells how the study stands, however many commands it took.
        """
        failed = self.failed()
        if not failed:
            return None
        count = len(self.study.finished_trials())
        first = f"the first: {failed[0].error}{self.where(failed)}"
        return SweepFailed(f"{len(failed)} of {count} trials failed; {first}")

    def where(self, failed: Sequence[FinishedTrial]) -> str:
        """Where the traceback of the first of these lies that has one; empty where none has."""
        for trial in failed:
            for folder in self.study.attributes.folders():
                file = folder / str(trial.number) / TRACEBACK
                if file.exists():
                    return f"; see {short_path(file)}"
        return ""

    def batches(self) -> Batches:
        """What this call ran, in batches of the size that was asked for."""
        ordered = [self.returned[number] for number in sorted(self.returned)]
        size = self.plan.options["max_batch_size"] or max(len(ordered), 1)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _events(self, screen: progress.Screen) -> Iterator[JobResult | PruningQuery]:
        jobs = self._jobs()

        def check() -> None:
            self.interruption.check()
            self.controls.obey(screen.asked)
            self._look_elsewhere(screen)

        if self.pool:
            return stream(jobs, self.pool, check)
        return run_batches(
            jobs,
            self.plan.launcher,
            self.plan.options["max_batch_size"],
            take=lambda job_result: self._take(job_result, screen),
            left=self.left,
            check=check,
            while_launched=self.interruption.raised_at_once,
            is_alone=not self.study.is_shared,
        )

    def _look_elsewhere(self, screen: progress.Screen) -> None:
        """Count and show what other commands' trials have come to."""
        if not self.study.is_shared:
            return
        if time.monotonic() - self._looked >= LOOK_INTERVAL:
            self.study.look_around()
            self._looked = time.monotonic()
        for number in self.study.lost():
            if self.pool and number not in self.study.running:  # else it is this one's again
                self.pool.drop(number)
        for trial in self.study.counted_elsewhere():
            screen.counted_elsewhere(trial)
        self._end_recovered()

    def _wait_for_others(self, screen: progress.Screen) -> None:
        """Until no other command is at work on a shared study, whose final stage is of all that was
        found."""
        looks = 0
        while self.study.is_shared and looks < IDLE_LOOKS:
            self.interruption.check()
            looks = 0 if self.study.is_anyone_at_work() else looks + 1
            self._look_elsewhere(screen)
            time.sleep(LOOK_INTERVAL)

    def _end_paused(self, screen: progress.Screen) -> None:
        """Show what paused to the end, and give its runs theirs."""
        for ended in self.study.ended_paused():
            screen.ended_paused(ended)
            self.tracker.end_attempt(ended.run_id, FINISHED)
            for folder in self.study.attributes.folders():
                for file in (folder / str(ended.number)).glob(CHECKPOINTS):
                    file.unlink(missing_ok=True)

    def _end_recovered(self) -> None:
        """Give the runs their end whose trials ended when nobody was there to note it."""
        while self.recovered:
            _end_run(self.tracker, self.recovered.pop())

    def _take(self, job_result: JobResult, screen: progress.Screen) -> None:
        """Count what came of a job, and tell everyone."""
        spec = job_result.job.spec
        if spec.number in self.returned:  # counted before its batch ended
            self.keep(spec, job_result.returned)
            return
        result = self._result(job_result)
        self.tracker.note_unlogged(spec.number, result.unlogged)
        is_counted = self.study.tell(spec, result)
        screen.trial_ended(spec, result, is_counted=is_counted)
        if is_counted or result.state == PAUSED:
            self.left.remove(spec.number)
        if is_counted:
            self.keep(spec, job_result.returned)
            best = self.study.best
            value = best.value if best else None
            self.tracker.log_best(len(self.study.finished_trials()), value)

    def keep(self, spec: TrialSpec, returned: JobReturn) -> None:
        """What Hydra is given at the end; the configs of the first trials alone, since each takes
        0.15 MiB, and all lie in the folders of their trials."""
        if len(self.returned) >= MAX_KEPT_CONFIGS:
            returned = replace(returned, cfg=None, hydra_cfg=None)
        self.returned[spec.number] = returned

    def _result(self, job_result: JobResult) -> TrialResult:
        """What a job's end means; a worker that was lost may have left a result before.

        Where a trial found no room on a disk that is no outcome: it goes on when there is. Raises
        ConfigError for the result of a task that the study can't compare, before there is another.
        """
        value = return_value(job_result.returned)
        spec = job_result.job.spec
        if isinstance(value, OSError) and has_no_space(value):
            raise StudyError(f"trial {spec.number}: {disk_error(value)}")
        if isinstance(value, UnusableResult) and not self._has_values():
            problem = f"trial {spec.number} {one_line(value)}; {HOW_TO_RETURN}"
            raise ConfigError("hydra.sweeper.metric", problem)
        if not isinstance(value, WorkerLost):
            result = to_trial_result(job_result, self.study.metrics)
            return self._to_be_alone(job_result, result) if is_out_of_memory(value) else result
        time.sleep(SIGNAL_DELAY)
        self.interruption.check()
        left = self.left.read(spec.number, spec.overrides)
        if left is not None:
            result = replace(from_left(left, self.study.metrics), worker=job_result.worker)
            _end_run(self.tracker, result)
            return result
        self.tracker.end_attempt(job_result.run_id, KILLED)
        return to_trial_result(job_result, self.study.metrics)

    def _to_be_alone(self, job_result: JobResult, result: TrialResult) -> TrialResult:
        """The result of a trial that ran out of a GPU's memory, which is no outcome where the GPU
        was shared: one further attempt, as of a killed worker, has it for itself."""
        number = job_result.job.spec.number
        is_shared = self.pool is not None and self.pool.shares_gpu(job_result.worker)
        if not is_shared or number in self._crowded:
            return result
        self._crowded.add(number)
        self.left.remove(number)
        return replace(result, transient=True)

    def _has_values(self) -> bool:
        """Whether any trial so far has what the study compares."""
        return any(trial.values is not None for trial in self.study.finished_trials())

    def _jobs(self) -> Iterator[Job | None]:
        """The study's specs as jobs, without those that are wrong after all or break a constraint.

        Raises StudyError where a sampler finds nothing else: its space may have next to no room
        within the constraints.
        """
        skipped = 0
        warned: set[str] = set()
        for spec in self.study.specs():
            if spec is None:
                yield None
                continue
            config = self.plan.composer.compose(spec.number, spec.params)
            try:
                checked = self.plan.validate(config, spec.params)
            except ConfigError as error:
                reason = one_line(error)
                if reason not in warned:
                    log.warning("left out: %s", reason)
                warned.add(reason)
            else:
                # What is no constraint at all is for the user to mend, and ends the sweep.
                reason = self.plan.broken_constraint(config, checked)
            if not reason:
                skipped = 0
                if spec.attempt and self.study.is_shared:
                    self.tracker.end_earlier_attempts(spec.number, spec.attempt)
                environment = self._context(spec).to_environment()
                yield Job(
                    spec,
                    config,
                    environment,
                    checked,
                    is_pruned=self.plan.is_pruned,
                    is_alone=spec.number in self._crowded,
                )
                continue
            self.study.discard(spec, reason)
            skipped += 1
            if skipped >= MAX_SKIPPED and not self.study.is_grid:
                raise StudyError(
                    f"{skipped} configurations in a row were left out; of the last one {reason}"
                )

    def _context(self, spec: TrialSpec) -> Context:
        """What a trial knows of the study around it."""
        options = self.plan.options
        is_pruned = self.plan.is_pruned
        return Context(
            study=self.study.name,
            study_id=self.left.study_id,
            left_results=str(self.left.folder),
            parent_run_id=self.tracker.run_id,
            experiment_id=self.tracker.experiment_id,
            metric=self.study.metrics[0],
            metrics=tuple(self.study.metrics),
            tracking_uri=self.tracker.uri,
            varied=tuple(spec.params),
            attempt=spec.attempt,
            pruner=options["pruner"] if is_pruned else None,
            storage=absolute_url(storage_url(options["storage"])) if is_pruned else "",
        )
