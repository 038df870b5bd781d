"""The loop of a sweep: specs out of the study, jobs into the launcher, results back into the study,
each as it comes."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, env_override

from cifar_hpo.console import still
from cifar_hpo.errors import ConfigError, StudyError, SweepFailed, TrialError, one_line
from cifar_hpo.study.study import Study
from cifar_hpo.sweep import progress as watch
from cifar_hpo.sweep.plan import Plan
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED, Context, Pruned, TrialResult
from cifar_hpo.workers.pool import (
    Job,
    JobResult,
    LimitPassed,
    Pool,
    PruningQuery,
    WorkerLost,
    stream,
)
from cifar_hpo.workers.process import value_of

log = logging.getLogger(__name__)

MAX_SKIPPED = 500
"""Configurations in a row of which a sampler has to have a possible one."""

GOES_ON = "the same command goes on from here"


def sweep(
    plan: Plan, pool: Pool | None, open_run: Callable[[Plan, Study], Any]
) -> list[list[JobReturn]]:
    """Run a sweep to its end, and return Hydra's view of it: batches of what this call ran, in the
    order of trial numbers.

    open_run: gives the MLflow run of the study, or None where the app does not track. Without a
    pool the trials go to whatever launcher Hydra was given, batch by batch. Raises StudyError when
    the study can't be continued, SweepFailed at the end where a trial failed.
    """
    size = plan.options["max_batch_size"]
    with (
        Study(plan.name, plan.space, plan.options, plan.meaning, plan.costs) as study,
        _terminable(),
    ):
        plan.name_folder(study.name)
        with still("opening the study's run"):
            run = open_run(plan, study)
        jobs = _jobs(plan, study, run)
        outcomes = stream(jobs, pool) if pool else _batches(jobs, plan.launcher, size)
        returned: dict[int, JobReturn] = {}
        status = KILLED
        try:
            with watch.screen(study, pool) as screen:
                for outcome in outcomes:
                    if isinstance(outcome, PruningQuery):
                        outcome.answer(study.should_stop(outcome.job.spec, outcome.progress))
                        continue
                    result = replace(result_of(outcome, study.metrics), worker=outcome.worker)
                    if (
                        isinstance(value_of(outcome.returned), WorkerLost)
                        and run
                        and outcome.run_id
                    ):
                        run.end(outcome.run_id, KILLED)
                    counted = study.tell(outcome.job.spec, result)
                    screen.ended(outcome.job.spec, result, counted)
                    if counted:
                        returned[outcome.job.spec.number] = outcome.returned
                        if run:
                            run.tell(len(study.told()), study.ranking()[0].value)
            failed = [told for told in study.told() if told.state == FAILED]
            status = FAILED if failed else FINISHED
        finally:
            if pool:
                pool.close()
            if run:
                with still("closing the study's run"):
                    _close(run, study, plan, status)
        watch.summary(study, plan, run, pool)
    if any(told.number in returned for told in failed) or (failed and not returned):
        raise SweepFailed(
            f"{len(failed)} of {len(study.told())} trials failed; the first: {failed[0].error}"
        )
    ordered = [returned[number] for number in sorted(returned)]
    return [
        ordered[at : at + (size or len(ordered))]
        for at in range(0, len(ordered), size or len(ordered) or 1)
    ]


def _close(run: Any, study: Study, plan: Plan, status: str) -> None:
    """End the study's run with what it found; the best model becomes the champion if it is one."""
    run.close_abandoned()
    ranking = study.ranking()
    if ranking and ranking[0].value is not None and ranking[0].run_id:
        run.register_champion(
            ranking[0].run_id, study.metrics[0], ranking[0].value, study.directions[0]
        )
    run.close(status, watch.note(study), plan.best(ranking))


def _jobs(plan: Plan, study: Study, run: Any) -> Iterator[Job | None]:
    """The study's specs, composed, without those that are wrong after all or break a constraint.

    Raises StudyError where a sampler finds nothing else: its space may have next to no room within
    the constraints.
    """
    left_out, said = 0, set()
    for spec in study.specs():
        if spec is None:
            yield None
            continue
        config = plan.compose(spec.number, spec.params)
        try:
            plan.check(config)
        except ConfigError as error:
            reason = one_line(error)
            if reason not in said:
                log.warning("left out: %s", reason)
            said.add(reason)
        else:
            reason = plan.broken_constraint(
                config
            )  # what is no constraint at all is for the user to mend, and ends the sweep
        if reason:
            study.discard(spec, reason)
            left_out += 1
            if left_out >= MAX_SKIPPED and not study.is_grid:
                raise StudyError(
                    f"{left_out} configurations in a row were left out; of the last one {reason}"
                )
            continue
        left_out = 0
        parent, experiment = (run.run_id, run.experiment_id) if run else ("", "")
        pruner, storage = (
            (plan.options["pruner"], plan.options["storage"] or "") if plan.prunes else (None, "")
        )
        context = Context(
            study.name,
            parent,
            experiment,
            study.metrics[0],
            tuple(spec.params),
            spec.attempt,
            pruner,
            storage,
        )
        yield Job(spec, config, context.to_environment(), plan.prunes)


def _batches(jobs: Iterator[Job | None], launcher: Any, size: int | None) -> Iterator[JobResult]:
    """The same through any Hydra launcher: as many jobs as there are now, up to `size`, and all of
    their outcomes.

    Launchers count a batch's numbers up from the first, and the environment is the only way in for
    the context: a job whose number or attempt is another one begins the next batch.
    """
    job: Job | None = None
    while True:
        batch: list[Job] = []
        while len(batch) < (size or math.inf):
            job = job or next(jobs, None)
            if not job or (
                batch
                and (job.spec.number, job.spec.attempt)
                != (batch[-1].spec.number + 1, batch[-1].spec.attempt)
            ):
                break
            batch.append(job)
            job = None
        if not batch:
            return
        with env_override(dict(batch[0].environment)):
            returned = launcher.launch(
                [job.spec.overrides for job in batch], initial_job_idx=batch[0].spec.number
            )
        for done, outcome in zip(batch, returned, strict=True):
            yield JobResult(done, outcome)


def result_of(outcome: JobResult, names: Sequence[str]) -> TrialResult:
    """What a job's end means for its trial: a value of our own objective, any other number, or an
    error."""
    value = value_of(outcome.returned)
    if outcome.returned.status is JobStatus.COMPLETED:
        if isinstance(value, TrialResult):
            return value
        values = value if isinstance(value, list | tuple) else [value]
        are_numbers = len(values) == len(names) and all(
            isinstance(one, numbers.Real) and math.isfinite(one) for one in values
        )
        metrics = (
            {name: float(one) for name, one in zip(names, values, strict=True)}
            if are_numbers
            else {}
        )
        return TrialResult(FINISHED, metrics, seconds=outcome.seconds, run_id=outcome.run_id)
    if isinstance(value, Pruned):
        return TrialResult(
            PRUNED, error=one_line(value), seconds=outcome.seconds, run_id=outcome.run_id
        )
    lost = isinstance(value, WorkerLost) and not isinstance(value, LimitPassed)
    error = (
        one_line(value)
        if isinstance(value, TrialError | WorkerLost)
        else f"{type(value).__name__}: {one_line(value)}"
    )
    return TrialResult(
        FAILED, error=error, transient=lost, seconds=outcome.seconds, run_id=outcome.run_id
    )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops the sweep as Ctrl-C does: running trials are KILLED, the study resumes by the
    same command."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GOES_ON) from None
    finally:
        signal.signal(signal.SIGTERM, before)
