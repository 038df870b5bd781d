"""Optuna's study as a sweep sees it: a `Study` gives the specs that are still to be tried and takes
their results.

Its accounting: every planned configuration has one counted outcome, FINISHED, FAILED or PRUNED. An
attempt that was interrupted or whose parent died is no outcome: its trial waits, under its number,
and goes on when the study is opened again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, Self

import optuna
from optuna.trial import TrialState

from cifar_hpo.config.fields import flat
from cifar_hpo.config.secrets import PASSWORD
from cifar_hpo.errors import ConfigError, StudyError
from cifar_hpo.study import samplers
from cifar_hpo.study.distributions import Distributions
from cifar_hpo.study.ranking import OUTCOME, FinishedTrial, finished_trials, identity, ranked
from cifar_hpo.study.space import Space, Value
from cifar_hpo.study.storage import open_storage, study_lock
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED, Progress, TrialResult, TrialSpec

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)

MEANING, ATTEMPT, RUN = "meaning", "attempt", "mlflow"
REPEATS = 10
"""Proposals of a sampler that were tried before, after which an untried cell is drawn instead."""

MAX_LISTED_CELLS = 20_000
"""Cells above which a sampler's space counts as one without end: nobody will try them all, and to
list them takes long."""


class Study:
    """An Optuna study held by this process alone. Use as a context manager.

    costs: of a grid's cells by their identity; the longest are tried first, so that no worker ends
    alone.

    Raises StudyError when the storage can't be read, another process holds the study, or it means
    something else.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        options: Mapping[str, Any],
        meaning: Mapping[str, Any],
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self.space, self.options = space, options
        self.costs = costs if costs and any(costs.values()) else {}
        self.started = time.monotonic()
        self._discarded: set[str] = set()
        self.metrics, self.directions = _listed(options["metric"]), _listed(options["direction"])
        self.is_grid = options["sampler"]["name"] == "grid"
        self._enqueued = [_texts(wish) for wish in options["enqueue"]]
        self.running: dict[int, TrialSpec] = {}
        self._requeued: deque[TrialSpec] = deque()
        self._open_trials: dict[int, optuna.Trial] = {}
        self._failures = 0
        self._lock = contextlib.ExitStack()
        self._storage = open_storage(options["storage"])
        taken = {study.study_name for study in self._storage.get_all_studies()}
        fresh = (
            one
            for n in range(1, len(taken) + 2)
            if (one := f"{name}-{n}" if n > 1 else name) not in taken
        )
        self.name = next(fresh) if options["fresh"] else name
        self._lock.enter_context(study_lock(self._storage, self.name))
        try:
            known = self._storage.get_study_id_from_name(self.name) if self.name in taken else None
            self._study = optuna.create_study(
                study_name=self.name,
                storage=self._storage,
                sampler=samplers.sampler(
                    options["sampler"], 0 if known is None else self._storage.get_n_trials(known)
                ),
                pruner=samplers.pruner(options["pruner"]),
                directions=self.directions,  # type: ignore[arg-type]
                load_if_exists=True,
            )
            self._id = self._storage.get_study_id_from_name(self.name)
            self._check_definition(json.loads(json.dumps(meaning)))
            self._distributions = Distributions(space, self._study, self._storage)
            self._warm_start()
            self._recover()
            self._told = finished_trials(self._study.get_trials(deepcopy=False))
            for wish in self._enqueued:
                self._enqueue(wish)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let unfinished trials wait for the next command, and the study for others."""
        for number in [*self.running, *(spec.number for spec in self._requeued)]:
            self._storage.set_trial_state_values(self._trial_id(number), TrialState.WAITING)
        self._lock.close()

    def _trial_id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))

    def _check_definition(self, meaning: dict[str, Any]) -> None:
        """Continue only what means the same."""
        before = self._study.user_attrs.get(MEANING)
        if before and "data" in before:
            before["data"] = sorted(
                set(before["data"])
            )  # earlier versions have each as often as it was looked at
        if before is None:
            self._study.set_user_attr(MEANING, meaning)
        elif before != meaning:
            one, other = flat(before), flat(meaning)
            different = sorted(
                key for key in one.keys() | other.keys() if one.get(key) != other.get(key)
            )
            shown = ", ".join(f"{key} {one.get(key)} → {other.get(key)}" for key in different[:5])
            hint = "choose another hydra.sweeper.study_name, or hydra.sweeper.fresh=true"
            raise StudyError(f"study {self.name} means something else ({shown}); {hint}")

    def _warm_start(self) -> None:
        """Let the sampler know the finished trials of an earlier study that lie in this space; they
        count for nothing else."""
        if not (earlier := self.options["warm_start"]) or self._study.get_trials(deepcopy=False):
            return
        try:
            known = optuna.load_study(study_name=earlier, storage=self._storage).get_trials(
                states=(TrialState.COMPLETE,)
            )
        except KeyError:
            raise StudyError(f"hydra.sweeper.warm_start: there is no study {earlier}") from None
        usable = [
            trial
            for trial in known
            if self.space.holds(trial.params) and len(trial.values) == len(self.metrics)
        ]
        for trial in usable:
            trial.user_attrs = {"warm_start": f"{earlier} {trial.number}"}
            trial.distributions = self._distributions.of(trial.params)
            self._study.add_trial(trial)
        log.warning(
            "%d of %d trials of study %s known beforehand", len(usable), len(known), earlier
        )

    def _recover(self) -> None:
        """Take up what an interrupted or dead parent left: close what had its outcome noted, go on
        with the rest."""
        for trial in self._study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            if outcome := trial.user_attrs.get(OUTCOME):
                self._close(trial.number, outcome)
            elif self.space.holds(trial.params) and (
                "fixed_params" not in trial.system_attrs or trial.params
            ):
                trial_id = self._trial_id(trial.number)
                self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                attempt = trial.user_attrs.get(ATTEMPT, 0) + 1
                self._open_trials[trial.number] = asked = optuna.Trial(self._study, trial_id)
                asked.set_user_attr(ATTEMPT, attempt)
                self._requeued.append(
                    TrialSpec(
                        trial.number, self.space.overrides(trial.params), trial.params, attempt
                    )
                )
            elif trial.state is TrialState.RUNNING or self.is_grid:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _close(self, number: int, outcome: Mapping[str, Any] | None) -> None:
        if outcome and outcome["values"] is not None:
            self._storage.set_trial_state_values(
                self._trial_id(number), TrialState.COMPLETE, outcome["values"]
            )
        else:
            pruned = outcome is not None and outcome["state"] == PRUNED
            self._storage.set_trial_state_values(
                self._trial_id(number), TrialState.PRUNED if pruned else TrialState.FAIL
            )

    def note_run(self, uri: str, run_id: str) -> None:
        """Where MLflow has this study, for the report; not where the URI holds a password."""
        if not PASSWORD.search(uri):
            self._study.set_user_attr(RUN, [uri, run_id])

    def told(self) -> list[FinishedTrial]:
        """Counted trials in the order in which they ended."""
        return list(self._told)

    def ranking(self) -> list[FinishedTrial]:
        return ranked(self._told, self.directions)

    def planned(self) -> int | None:
        """How many trials there will be in all; None where only time or success limits them."""
        limit: int | None = self.options["n_trials"]
        if not self.is_grid and (limit or self.space.size > MAX_LISTED_CELLS):
            return limit
        told = {identity(one.params) for one in self._told}
        planned = len((self._identities - self._discarded) | told)
        return min(planned, limit or planned)

    def cost(self, params: Mapping[str, Value]) -> float:
        """How much work a configuration is beside others; the mean of all where it is not known."""
        known = self.costs.get(identity(params))
        return self._mean_cost if known is None else known

    def waiting_costs(self) -> list[float]:
        """The cost of each planned trial that has not begun, in the order in which they will."""
        failed = [one for one in self._told if one.state in (FAILED, KILLED)]
        running = {identity(spec.params) for spec in list(self.running.values())}
        if self.options["retry_failed"]:
            waiting = frozenset(identity(one.params) for one in failed) - running
            count = len(waiting)
        else:
            begun = running | {identity(one.params) for one in self._told}
            count = max(0, (self.planned() or 0) - len(begun))
            if not self.is_grid:
                return [self._mean_cost] * count
            waiting = self._identities - begun - self._discarded
        costs = [self.costs.get(key, self._mean_cost) for key in waiting]
        return sorted(costs, reverse=True)[:count]

    def seconds_to_timeout(self) -> float | None:
        """Seconds in which trials may still start; None without a timeout."""
        timeout = self.options["timeout"]
        return None if not timeout else max(0.0, timeout - (time.monotonic() - self.started))

    @functools.cached_property
    def _mean_cost(self) -> float:
        return fmean(self.costs.values()) if self.costs else 1.0

    @functools.cached_property
    def _identities(self) -> frozenset[str]:
        return frozenset(identity(cell) for cell in self.space.cells())

    def specs(self) -> Iterator[TrialSpec | None]:
        """What is still to be tried; None when that depends on what is running now."""
        self.started, self._count = time.monotonic(), len(self._told)
        self._tried = {identity(one.params) for one in self._told} | {
            identity(spec.params) for spec in self._requeued
        }
        self._count += len(self._requeued)
        cells = self._cells()
        while not self._is_over():
            spec = self._requeued.popleft() if self._requeued else None
            if not spec and not (
                self.options["n_trials"]
                and self._count >= self.options["n_trials"]
                and not self.options["retry_failed"]
            ):
                spec = self._ask(cells)
                self._count += spec is not None
            if spec:
                self.running[spec.number] = spec
            elif not self.running:
                return
            yield spec

    def _cells(self) -> Iterator[Mapping[str, Value]] | None:
        """The cells to try in order, where it is not a sampler who says."""
        if self.options["retry_failed"]:
            return iter([one.params for one in self._told if one.state in (FAILED, KILLED)])
        if not self.is_grid:
            return None
        first = [
            cell
            for wish in self._enqueued
            for cell in self.space.cells()
            if wish.items() <= cell.items()
        ]
        longest_first = sorted(
            self.space.cells(), key=lambda cell: -self.costs.get(identity(cell), 0)
        )
        cells = {identity(cell): cell for cell in [*first, *longest_first]}
        return iter([cell for key, cell in cells.items() if key not in self._tried])

    def _is_over(self) -> bool:
        """Whether a limit other than the number of trials is reached."""
        options = self.options
        if options["max_failures"] and self._failures >= options["max_failures"]:
            return True
        if self.seconds_to_timeout() == 0:
            return True
        sign = 1 if self.directions[0] == "maximize" else -1
        values = [-float("inf") if one.value is None else sign * one.value for one in self._told]
        if options["target"] is not None and values and max(values) >= sign * options["target"]:
            return True
        return bool(
            options["patience"]
            and values
            and len(values) - 1 - values.index(max(values)) >= options["patience"]
        )

    def _ask(self, cells: Iterator[Mapping[str, Value]] | None) -> TrialSpec | None:
        for repeat in range(10 * REPEATS):
            if cells is not None:
                if (cell := next(cells, None)) is None:
                    return None
                return self._create_trial(cell)
            if repeat >= REPEATS and self.space.size <= MAX_LISTED_CELLS:
                untried = [cell for cell in self.space.cells() if identity(cell) not in self._tried]
                if not untried:
                    return None
                return self._create_trial(random.choice(untried))  # noqa: S311  no secret
            trial = self._study.ask()
            params = self._distributions.suggested(trial)
            if identity(params) not in self._tried:
                return self._started(trial, params)
            trial.set_user_attr("skipped", "tried before")
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _create_trial(self, cell: Mapping[str, Value]) -> TrialSpec:
        """A trial of this configuration, in one transaction and past the sampler."""
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(cell), distributions=self._distributions.of(cell)
        )
        return self._started(
            optuna.Trial(self._study, self._storage.create_new_trial(self._id, running)), cell
        )

    def _started(self, trial: optuna.Trial, params: Mapping[str, Value]) -> TrialSpec:
        self._tried.add(identity(params))
        self._open_trials[trial.number] = trial
        return TrialSpec(trial.number, self.space.overrides(params), dict(params))

    def _enqueue(self, wish: Mapping[str, Any]) -> None:
        """Try a known-good configuration first; what it leaves open the sampler fills in. A grid
        reorders its cells instead."""
        for key, value in wish.items():
            part = self.space.dimensions.get(key)
            if part is None or not part.has(value):
                raise ConfigError("hydra.sweeper.enqueue", f"{key}={value} is not in the space")
        if not self.is_grid:
            self._study.enqueue_trial(dict(wish), skip_if_exists=True)

    def should_stop(self, spec: TrialSpec, progress: Progress) -> bool:
        """Note a running trial's value after an epoch, and ask the pruner."""
        return _stops(self._open_trials[spec.number], progress)

    def discard(self, spec: TrialSpec, reason: str) -> None:
        """Give up a trial before it starts; it does not count."""
        self._discarded.add(identity(spec.params))
        del self.running[spec.number]
        self._count -= 1
        self._open_trials.pop(spec.number).set_user_attr("skipped", reason)
        self._close(spec.number, None)

    def tell(self, spec: TrialSpec, result: TrialResult) -> bool:
        """Count a result; returns False where the trial gets another attempt instead, or a result
        came late."""
        if self.running.pop(spec.number, None) is None:
            return False
        if result.transient and spec.retries < self.options["retries"]:
            self._requeued.append(replace(spec, attempt=spec.attempt + 1, retries=spec.retries + 1))
            return False
        self._failures += result.state in (FAILED, KILLED)
        finished = result.state == FINISHED and all(name in result.metrics for name in self.metrics)
        values = [result.metrics[name] for name in self.metrics] if finished else None
        outcome: dict[str, Any] = {
            "state": result.state,
            "values": values,
            "metrics": dict(result.metrics),
            "error": result.error,
        }
        outcome |= {
            "seconds": round(result.seconds, 3),
            "run_id": result.run_id,
            "worker": result.worker,
            "ended": round(time.time(), 3),
        }
        self._open_trials.pop(spec.number).set_user_attr(
            OUTCOME, outcome
        )  # first, so that a death between the two lines loses nothing
        self._close(spec.number, outcome)
        self._told = [one for one in self._told if identity(one.params) != identity(spec.params)]
        self._told.append(FinishedTrial(number=spec.number, params=spec.params, **outcome))
        return True


def pruner_for(url: str, study: str, number: int, pruner: Mapping[str, Any]) -> Any:
    """For a trial outside of our workers: says to the storage itself how it goes, and asks the
    pruner."""
    storage = open_storage(url)
    known = optuna.load_study(study_name=study, storage=storage, pruner=samplers.pruner(pruner))
    asked = optuna.Trial(
        known,
        storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study), number
        ),
    )

    return functools.partial(_stops, asked)


def _stops(asked: optuna.Trial, progress: Progress) -> bool:
    """Note a trial's value after an epoch, and ask the pruner; a trial that has no value yet or is
    at its end goes on."""
    if progress.value is None:
        return False
    asked.report(progress.value, progress.epoch)
    return progress.epoch < progress.epochs and asked.should_prune()


def _texts(wish: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration to try first as the space has it, where a list is a text."""
    return {
        key: f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        for key, value in wish.items()
    }


def _listed(one_or_several: Any) -> list[str]:
    return list(one_or_several) if isinstance(one_or_several, list) else [one_or_several]
