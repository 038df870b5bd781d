"""Optuna's study as a sweep sees it: a `Study` gives the specs that are still to be tried and takes
their results.

Its accounting: every planned configuration has one counted outcome, FINISHED, FAILED or PRUNED. An
attempt that was interrupted or whose parent died is no outcome: its trial waits, under its number,
and goes on when the study is opened again.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Self

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError

from cifar_hpo.config.fields import as_list, flat
from cifar_hpo.errors import ConfigError
from cifar_hpo.study.attributes import StudyAttributes
from cifar_hpo.study.budget import Budget
from cifar_hpo.study.candidates import (
    SKIPPED,
    Candidates,
    ListedCandidates,
    SampledCandidates,
)
from cifar_hpo.study.control import ADDED, Inbox
from cifar_hpo.study.dimensions import as_written, canonical
from cifar_hpo.study.order import (
    Cell,
    Order,
    drawn_cells,
    enqueued_cells,
    grid_cells,
    is_enqueued,
)
from cifar_hpo.study.pauses import RUNG, Pauses
from cifar_hpo.study.pruners import should_prune
from cifar_hpo.study.ranking import (
    LATE_RUN,
    CountedTrials,
    FinishedTrial,
    finished_trials,
)
from cifar_hpo.study.recovery import ATTEMPT, MAX_LOST, recover
from cifar_hpo.study.replication import (
    REPLICA_PLAN,
    Allocate,
    NextSeeds,
    ReplicaPlan,
    Replication,
    noted_plan,
)
from cifar_hpo.study.rungs import Rungs
from cifar_hpo.study.seeds import replicas_of
from cifar_hpo.study.sharing import Sharing, sharing
from cifar_hpo.study.space import Space, Value, identities, identity
from cifar_hpo.study.storage import is_file, open_storage, server, study_lock
from cifar_hpo.study.stored import StoredStudy, choose_name, meaning_of, outcome_of, write_note
from cifar_hpo.study.turns import TurnLost
from cifar_hpo.study.workload import Workload
from cifar_hpo.trial import (
    FAILED,
    FAILURES,
    PAUSED,
    PAUSING,
    PRUNED,
    Progress,
    TrialResult,
    TrialSpec,
)

LeftResult = Callable[["Study", TrialSpec], TrialResult | None]
"""Gives the result that a trial of a study left on disk; None where it left none."""


def _nothing_left(study: Study, spec: TrialSpec) -> None:
    """For those that leave nothing on disk."""


class Study:
    """An Optuna study, held by this process alone from `Study.open` on where it is in a file, and
    shared with other commands where it is in a database server. Use as a context manager, which
    lets unfinished trials wait for the next command, and the study for others.

    running: what this process runs. is_paused: whether nothing new starts for now. is_stopping:
    whether nothing new starts any more.
    """

    def __init__(
        self,
        stored: StoredStudy,
        space: Space,
        options: Mapping[str, Any],
        costs: Mapping[str, float],
        *,
        sharing: Sharing,
        left_result: LeftResult,
        allocate: Allocate | None = None,
    ) -> None:
        self.name = stored.name
        self.options = options
        self.metrics = as_list(options["metric"])
        self.directions = as_list(options["direction"])
        self.is_grid = options["sampler"]["name"] == "grid"
        self.running: dict[int, TrialSpec] = {}
        self.is_paused = self.is_stopping = False
        self._stored = stored
        self._sharing = sharing
        self._left_result = left_result
        self._lock = contextlib.ExitStack()
        self._budget = Budget.from_options(options, self.directions[0])
        self._allocate = allocate
        self._enqueued = [_as_values(wish) for wish in options["enqueue"]]
        self._finished = CountedTrials(self.directions)
        self._requeued: deque[TrialSpec] = deque()
        self._open_trials: dict[int, optuna.Trial] = {}
        self._retried: set[str] | None = None  # any configuration may go on
        self._taken: set[str] = set()
        self._counted_elsewhere: list[FinishedTrial] = []
        self._lost: list[int] = []
        self._failures = 0
        self._counted = 0  # outcomes, those among them that took the place of earlier ones
        is_pausing = options["pruner"]["name"] in PAUSING
        self._rungs = Rungs(options["pruner"], self.directions[0]) if is_pausing else None
        self._ended_paused: list[FinishedTrial] = []
        self._set_space(space, costs)

    def _set_space(self, space: Space, costs: Mapping[str, float]) -> None:
        """What may be tried, from now on."""
        self.space = space
        # Of a grid with seeds nobody knows how many are tried, so n_trials draws no part of it.
        n_trials = None if space.seed_key else self.options["n_trials"]
        self._workload = Workload(space, is_grid=self.is_grid, n_trials=n_trials, costs=costs)
        self._pauses = Pauses(self._stored, space, self._rungs)
        self._asked: Candidates | None = None  # what comes next; None where that has changed
        self._replication = self._with_seeds(self._allocate)
        self._next_seeds: tuple[object, NextSeeds] | None = None  # with what they follow from
        self.__dict__.pop("_configurations", None)

    @classmethod
    def open(
        cls,
        name: str,
        space: Space,
        options: Mapping[str, Any],
        meaning: Mapping[str, Any],
        costs: Mapping[str, float] | None = None,
        *,
        earlier_name: str | None = None,
        left_result: LeftResult = _nothing_left,
        allocate: Allocate | None = None,
    ) -> Self:
        """The study of that name, created or continued.

        options: `hydra.sweeper`'s. meaning: what the study's identity rests on, as JSON. costs: of
        a grid's cells by their identity; the longest are tried first, so that no worker ends
        alone, unless another order is asked for. earlier_name: the name that version 0.1 gave it.
        left_result: gives the results of trials that ended when nobody was there to note it.
        allocate: says which configurations are to have further seeds, where the space has any.

        Raises StudyError when the storage can't be read, another process holds the study, or it
        means something else; ConfigError for an enqueued configuration that is not in the space.
        """
        storage = open_storage(options["storage"])
        name = choose_name(storage, name, earlier_name, is_fresh=options["fresh"])
        shared = sharing(storage, server(options["storage"]), name)
        with contextlib.ExitStack() as until_opened:
            until_opened.callback(shared.close)
            if shared.is_shared and options["pruner"]["name"] in PAUSING:
                problem = "trials pause and go on in a study of one command alone"
                hint = "keep it in an SQLite file, or take hydra/sweeper/pruner=asha"
                raise ConfigError("hydra.sweeper.pruner", f"{problem}; {hint}")
            if not shared.is_shared:
                until_opened.enter_context(study_lock(storage, name))
            with shared.turn():
                stored = StoredStudy.create_or_load(
                    storage, name, space, options, meaning, before_copying=shared.refuse_others
                )
                if options["warm_start"]:
                    stored.warm_start(options["warm_start"], space)
                if shared.is_shared:
                    stored.draw_differently()
                study = cls(
                    stored,
                    space,
                    options,
                    costs or {},
                    sharing=shared,
                    left_result=left_result,
                    allocate=allocate,
                )
                study._recover()
                study._enqueue()
            study._lock = until_opened.pop_all()
        return study

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        finally:
            self._lock.close()

    def _with_seeds(self, allocate: Allocate | None) -> Replication | None:
        """The seeds of a space that has any, by the plan of the study's first command."""
        if not self.space.seed_key:
            return None
        assert allocate is not None
        plan = ReplicaPlan(**self.options["replicas"])
        study = self._stored.study
        noted = noted_plan(study.user_attrs)
        if noted is None:
            noted = plan
            study.set_user_attr(REPLICA_PLAN, plan._asdict())
        config = flat(dict(meaning_of(study.user_attrs).get("config", {})))
        return Replication(
            self.space,
            plan,
            noted,
            allocate,
            replicas=replicas_of({}, config),
            metric=self.metrics[0],
        )

    @property
    def attributes(self) -> StudyAttributes:
        """Where the study is, beside this storage, and what code it ran."""
        return StudyAttributes(self._stored.study)

    @property
    def is_exclusive(self) -> bool:
        """Whether nobody else can work on it, on whichever machine: its lock lies beside its
        file."""
        return is_file(self._stored.storage)

    @property
    def is_shared(self) -> bool:
        """Whether other commands may work on it at the same time."""
        return self._sharing.is_shared

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """In which no other command changes a shared study, or what belongs to it elsewhere."""
        return self._sharing.turn()

    def elsewhere(self) -> dict[int, str]:
        """The trials that other commands run, by number, and the host of each."""
        return self._sharing.elsewhere()

    def counted_elsewhere(self) -> list[FinishedTrial]:
        """What other commands' trials came to since the last call."""
        counted, self._counted_elsewhere = self._counted_elsewhere, []
        return counted

    def ended_paused(self) -> list[FinishedTrial]:
        """The trials that paused to the end, which are PRUNED now, since the last call."""
        ended, self._ended_paused = self._ended_paused, []
        return ended

    def lost(self) -> list[int]:
        """The trials that other commands have been given while this one could not renew its leases,
        since the last call; whatever runs them here is to be ended."""
        lost, self._lost = self._lost, []
        return lost

    def look(self) -> None:
        """Count what other commands' trials came to since the last look."""
        ended = self._sharing.look()
        for number in self._sharing.lost():
            self._give_up(number)
        for trial in ended:
            if SKIPPED in trial.user_attrs and self.is_grid and self.space.holds(trial.params):
                self.leave_out([identity(self._first_cell(trial.params))])
            for counted in finished_trials([trial], {}):
                self._taken.add(identity(counted.params))
                self._count(counted)
                self._failures += counted.state in FAILURES
                self._counted_elsewhere.append(counted)
        self._taken |= identities(trial.params for trial in self._sharing.others())

    def _give_up(self, number: int) -> None:
        """A trial is another command's now."""
        self.running.pop(number, None)
        for spec in list(self._requeued):
            if spec.number == number:
                self._requeued.remove(spec)
        self._lost.append(number)

    def look_around(self) -> None:
        """The same outside of a turn, where nothing depends on it: a database that is away is left
        alone, and waited for when it is needed."""
        with contextlib.suppress(OperationalError, StorageInternalError):
            self.look()

    def release(self) -> None:
        """Let unfinished trials wait for the next command, or another one that is at work."""
        specs = [*self.running.values(), *self._requeued]
        self.running.clear()
        self._requeued.clear()
        if not specs:
            return
        with self._sharing.turn():
            for spec in specs:
                if self._sharing.holds(spec.number):
                    self._stored.set_state(spec.number, TrialState.WAITING)
                    self._sharing.let_go(spec.number)

    def set_trial_run(self, number: int, run_id: str) -> None:
        """Note in which MLflow run a counted trial was logged, after it was counted."""
        if self._finished.set_run(number, run_id):
            self._stored.study.set_user_attr(LATE_RUN.format(number=number), run_id)

    @property
    def storage(self) -> BaseStorage:
        """Optuna's, for what reads a study by itself."""
        return self._stored.storage

    def write_note(self, text: str) -> None:
        """Let optuna-dashboard show a text, Markdown, with this study."""
        write_note(self._stored.storage, self.name, text)

    def finished_trials(self) -> list[FinishedTrial]:
        """Counted trials in the order in which they ended."""
        return list(self._finished)

    def ranking(self) -> list[FinishedTrial]:
        """Counted trials, the best first."""
        return self._finished.ranked()

    @property
    def best(self) -> FinishedTrial | None:
        """The first of the ranking, known without one; None where no trial has a value."""
        return self._finished.best

    def best_values(self) -> dict[int, float]:
        """The best value of the first metric, by the number of trials that have been counted."""
        better = max if self.directions[0] == "maximize" else min
        values: dict[int, float] = {}
        best: float | None = None
        for count, trial in enumerate(self._finished, start=1):
            if trial.value is not None:
                best = trial.value if best is None else better(best, trial.value)
            if best is not None:
                values[count] = best
        return values

    def planned(self) -> int | None:
        """How many trials there will be in all, as far as it is known now; None where only time or
        success limits them."""
        if not self.space.seed_key:
            return self._workload.planned()
        sure = self._begun + len(self.next_seeds().cells)
        return min(sure, self.options["n_trials"] or sure)

    @property
    def replica_plan(self) -> ReplicaPlan | None:
        """How many seeds configurations have; None where none are added to them."""
        return self._replication.plan if self._replication else None

    @property
    def n_configurations(self) -> int:
        """How many a space with seeds has, without those that are left out."""
        return len(self._configurations) - len(self._workload.left_out)

    @property
    def may_grow(self) -> bool:
        """Whether further seeds may follow those that are planned."""
        plan = self.replica_plan
        if plan is None or plan.least == plan.most:
            return False
        seeds = self.next_seeds()
        return bool(seeds.cells or self.running) and not seeds.is_decided

    def next_seeds(self) -> NextSeeds:
        """The trials of further seeds that are to come, and which configurations they are to tell
        apart; of a space with seeds."""
        assert self._replication is not None
        running = [spec.params for spec in [*list(self.running.values()), *self._requeued]]
        running += [trial.params for trial in self._sharing.others()]
        left_out = self._workload.left_out
        known = (self._counted, identities(running), len(left_out))
        latest = self._next_seeds
        if latest is not None and latest[0] == known:
            return latest[1]
        configurations = []
        for configuration in self._configurations:
            if identity(self._first_cell(configuration)) not in left_out:
                configurations.append(configuration)
        seeds = self._replication.next_seeds(configurations, list(self._finished), running)
        self._next_seeds = known, seeds
        return seeds

    @functools.cached_property
    def _configurations(self) -> list[Cell]:
        """The cells of a space with seeds without these, in the order in which they begin, enqueued
        ones first."""
        configurations = grid_cells(self.space.without_seeds(), self._order())
        return sorted(configurations, key=lambda cell: not is_enqueued(cell, self._enqueued))

    @property
    def is_drawn(self) -> bool:
        """Whether it is a grid of which n_trials allows a part, which is drawn at random."""
        return self._workload.is_cut

    @property
    def draw_seed(self) -> int:
        """By which cells of a grid are drawn."""
        return self.options["sampler"].get("seed") or 0

    def cost(self, params: Mapping[str, Value]) -> float:
        """How much work a configuration is beside others; the mean of all where it is not known."""
        return self._workload.cost(self._first_cell(params))

    def _first_cell(self, params: Mapping[str, Value]) -> Mapping[str, Value]:
        """A configuration with its first seed, where seeds do not say what it is."""
        return {**params, **self.space.first_seed}

    def waiting_costs(self) -> list[float]:
        """The cost of each planned trial that has not begun, in the order in which they will."""
        specs = list(self.running.values())  # a copy: another thread shows what goes on
        running = identities(spec.params for spec in specs)
        if self.options["retry_failed"]:
            failed = identities(self._failed_configurations())
            return self._workload.longest_first(failed - running)
        if self._replication:
            return sorted(map(self.cost, self.next_seeds().cells), reverse=True)
        return self._workload.waiting_costs(running)

    def seconds_to_timeout(self) -> float | None:
        """Seconds in which trials may still start; None without a timeout."""
        return self._budget.seconds_left()

    def leave_out(self, configurations: Iterable[str]) -> None:
        """Never try these cells of a grid, which break a constraint; they are not planned either.

        configurations: their identities.
        """
        self._workload.leave_out(configurations)

    def specs(self) -> Iterator[TrialSpec | None]:
        """What is still to be tried; None when that depends on what is running now."""
        self._budget.start()
        while True:
            if self.is_paused:
                yield None
                continue
            try:
                with self._sharing.turn():
                    self.look()
                    if self.is_stopping or self._is_budget_spent():
                        return
                    if self._asked is None:
                        self._asked = self._candidates()
                    spec = self._next_spec(self._asked)
                    if spec:
                        self.running[spec.number] = spec
            except TurnLost:
                continue
            if not spec and not self.running and not self._sharing.is_anyone_at_work():
                self._end_paused()
                return
            yield spec

    @property
    def is_cut_short(self) -> bool:
        """Whether it ended because it was asked to, because too many trials failed, or without
        what was left to try beside failed ones."""
        planned = self.planned()
        is_partial = self.options["retry_failed"] and len(self._finished) < (planned or 0)
        return (
            self.is_stopping
            or self._budget.has_failed_too_often(self._failures)
            or bool(is_partial)
        )

    def is_anyone_at_work(self) -> bool:
        """Whether other commands run trials of a shared study; as of now."""
        with contextlib.suppress(OperationalError, StorageInternalError):
            self.look()
        return self._sharing.is_anyone_at_work()

    def inbox(self) -> Inbox:
        """Where this study's sweep finds what others ask of it."""
        return Inbox(self._stored.storage, self.name)

    def resume(self, seconds: float) -> None:
        """Go on after a pause of so many seconds, which do not count."""
        self.is_paused = False
        self._budget.lengthen(seconds)

    def enqueue_next(self, wish: Mapping[str, Value]) -> str:
        """Let a configuration, or what a grid has of a part of one, be tried next; returns what
        follows. In a turn.

        Raises ConfigError where it is not in the space, or was tried.
        """
        self._refuse_outside(wish, "studies enqueue")
        if self._replication:
            raise ConfigError("studies enqueue", "further seeds go to what is not told apart yet")
        if not self.is_grid:
            # Of several commands that are asked each does so, of which one makes a trial.
            self._stored.study.enqueue_trial(dict(wish), skip_if_exists=True)
            return "it is tried next"
        known = {key: canonical(value) for key, value in wish.items()}
        begun = self._finished_configurations() | identities(
            spec.params for spec in list(self.running.values())
        )
        matching = identities(self.space.cells(known))
        new = matching - begun - self._workload.left_out
        if not new:
            problem = "has begun, or is left out by constraints" if matching else "is in no cell"
            raise ConfigError("studies enqueue", f"all that has these values {problem}")
        self._enqueued.insert(0, known)
        self._asked = None
        count = f"{len(new)} configurations are" if len(new) > 1 else "it is"
        return f"{count} tried next"

    def extend(
        self,
        space: Space,
        meaning: Mapping[str, Any],
        costs: Mapping[str, float],
        left_out: Iterable[str],
        values: Mapping[str, Sequence[str]],
    ) -> None:
        """Go on with a grid that has further values; running trials go on, too.

        space, meaning, costs: as for `open`. left_out: as for `leave_out`. values: the new ones by
        key, which are noted with the study. Of a study that nobody else works on.
        """
        storage = self._stored.storage
        self._stored = StoredStudy.create_or_load(storage, self.name, space, self.options, meaning)
        noted = dict(self._stored.study.user_attrs.get(ADDED, {}))
        for key, texts in values.items():
            noted[key] = list(dict.fromkeys([*noted.get(key, []), *texts]))
        self._stored.study.set_user_attr(ADDED, noted)
        for number in self._open_trials:  # they may be copies, which the storage knows otherwise
            self._open_trials[number] = self._stored.open_trial(number)
        left_out = [*left_out, *self._workload.left_out]
        self._set_space(space, costs)
        self.leave_out(left_out)
        for trial in self._finished:
            self._workload.finish(trial.params)

    def should_prune(self, spec: TrialSpec, progress: Progress) -> bool:
        """Note a running trial's value after an epoch, and ask the pruner.

        In a shared study a trial that somebody else has or has finished is to stop, and a database
        that is away stops none.
        """
        if spec.number not in self.running:
            return True
        try:
            is_hopeless = should_prune(self._open_trials[spec.number], progress)
            return is_hopeless or self._pauses.reach(self._open_trials[spec.number], progress)
        except UpdateFinishedTrialError:
            return True
        except (OperationalError, StorageInternalError):
            if not self.is_shared:
                raise
            return False

    def discard(self, spec: TrialSpec, reason: str) -> None:
        """Give up a trial before it starts; it does not count."""
        self._workload.leave_out([identity(self._first_cell(spec.params))])
        del self.running[spec.number]
        self._open_trials.pop(spec.number).set_user_attr(SKIPPED, reason)
        self._stored.set_state(spec.number, TrialState.FAIL)

    def tell(self, spec: TrialSpec, result: TrialResult) -> bool:
        """Count a result; returns False where the trial gets another attempt instead, or a result
        came late."""
        with self._sharing.turn():
            is_ours = self._sharing.holds(spec.number)
            if self.running.pop(spec.number, None) is None or not is_ours:
                return False
            return self._tell(spec, result)

    def _tell(self, spec: TrialSpec, result: TrialResult) -> bool:
        if result.transient and spec.retries < self.options["retries"]:
            again = replace(spec, attempt=spec.attempt + 1, retries=spec.retries + 1)
            self._open_trials[spec.number].set_user_attr(ATTEMPT, again.attempt)
            self._requeued.append(again)
            return False
        if result.state == PAUSED:
            paused = outcome_of(replace(result, state=PRUNED), self.metrics)
            self._pauses.add(self._open_trials.pop(spec.number), paused)
            return False
        if result.state in FAILURES:
            self._failures += 1
        outcome = outcome_of(result, self.metrics)
        # Before the state, so that a death between the two loses nothing.
        self._stored.note_outcome(self._open_trials.pop(spec.number), outcome)
        self._stored.close_trial(spec.number, outcome)
        self._count(FinishedTrial(number=spec.number, params=spec.params, **outcome))
        return True

    def _promote(self, *, are_all_begun: bool) -> TrialSpec | None:
        """The trial that goes on from its rung; None where none does now."""
        promoted = self._pauses.promote(self.running, are_all_begun=are_all_begun)
        if promoted is None:
            return None
        self._open_trials[promoted.spec.number] = promoted.trial
        return promoted.spec

    def _end_paused(self) -> None:
        """Nothing else is left to try, so what pauses will not go on."""
        for ended in self._pauses.end():
            self._count(ended)
            self._ended_paused.append(ended)

    def _recover(self) -> None:
        """Count what was counted, and go on with what an interrupted or dead command left; in a
        shared study whoever asks next does so."""
        self._sharing.look()
        if self.options["retry_failed"]:
            attributes = self._stored.study.user_attrs
            before = finished_trials(self._stored.trials(), attributes)
            self._retried = identities(trial.params for trial in before if trial.state in FAILURES)
        paused = self._pauses.recover(self._outcome_of_pause)
        if not self._sharing.is_shared:
            unfinished = self._stored.unfinished_trials()
            left = [trial for trial in unfinished if trial.number not in paused]
            self._requeued.extend(self._take_up(left))
        trials = self._stored.trials()
        for counted in finished_trials(trials, self._stored.study.user_attrs):
            self._count(counted)
        if self.is_grid:
            skipped = [trial.params for trial in trials if SKIPPED in trial.user_attrs]
            in_space = filter(self.space.holds, skipped)
            self.leave_out(identities(map(self._first_cell, in_space)))

    def _take_up(self, trials: Iterable[FrozenTrial]) -> list[TrialSpec]:
        """Go on with unfinished trials that nobody runs, or close them."""

        def known_outcome(spec: TrialSpec, lost: int) -> dict[str, Any] | None:
            result = self._left_result(self, spec)
            if result is not None and result.state == PAUSED:
                result = None  # it has gone on since
            if result is None and lost >= MAX_LOST:
                result = TrialResult(FAILED, error=f"its process died, {lost} times")
            return None if result is None else outcome_of(result, self.metrics)

        recovered = recover(
            self._stored,
            trials,
            self.space,
            is_grid=self.is_grid,
            known_outcome=known_outcome,
            is_wanted=self._may_go_on,
        )
        for trial in recovered:
            self._open_trials[trial.spec.number] = trial.trial
            self._sharing.hold(trial.trial)
        return [trial.spec for trial in recovered]

    def _outcome_of_pause(self, trial: FrozenTrial) -> dict[str, Any]:
        """What a trial has come to that was told to pause, by what it left on disk if it left
        anything."""
        overrides = self.space.overrides(trial.params)
        result = self._left_result(self, TrialSpec(trial.number, overrides, trial.params))
        if result is None or result.state != PAUSED:
            result = TrialResult(PAUSED, error=f"paused after epoch {trial.user_attrs[RUNG]}")
        return outcome_of(replace(result, state=PRUNED), self.metrics)

    def _enqueue(self) -> None:
        """Let known-good configurations be tried first; what they leave open the sampler fills in.
        A grid reorders its cells instead."""
        for wish in self._enqueued:
            self._refuse_outside(wish, "hydra.sweeper.enqueue")
            if not self.is_grid:
                self._stored.study.enqueue_trial(wish, skip_if_exists=True)

    def _refuse_outside(self, wish: Mapping[str, Value], path: str) -> None:
        """Raise ConfigError for a configuration of which a value is not in the space. path: where
        it is from."""
        for key, value in wish.items():
            part = self.space.dimensions.get(key)
            if part is None or not part.has(value):
                raise ConfigError(path, f"{key}={value} is not in the space")

    def _candidates(self) -> Candidates:
        """What may be tried beside the requeued trials and those that run."""
        under_way = [*self._requeued, *self.running.values()]
        requeued = identities(spec.params for spec in under_way)
        requeued |= self._pauses.configurations()
        if self.options["retry_failed"]:
            failed = self._failed_configurations()
            again = [params for params in failed if identity(params) not in requeued]
            return ListedCandidates(self._stored, again, self._taken)
        tried = self._finished_configurations() | requeued
        if not self.is_grid:
            return SampledCandidates(self._stored, self.space, tried, self._taken)
        if self._replication:
            return ListedCandidates(self._stored, self.next_seeds().cells, self._taken)
        tried |= self._workload.left_out
        return ListedCandidates(self._stored, self._untried_cells(tried), self._taken)

    def _untried_cells(self, tried: AbstractSet[str]) -> Iterator[Cell]:
        """A grid's cells as they are asked for, enqueued ones first; of a grid that n_trials will
        cut short the others are drawn."""
        wishes: list[Cell] = []
        for wish in self._enqueued:
            wishes.append({key: canonical(value) for key, value in wish.items()})

        def is_untried(cell: Cell) -> bool:
            return identity(cell) not in tried

        def is_other(cell: Cell) -> bool:
            return is_untried(cell) and not is_enqueued(cell, wishes)

        yield from filter(is_untried, enqueued_cells(self.space, wishes))
        workload = self._workload
        order = self._order()
        if not workload.is_cut:
            yield from filter(is_other, grid_cells(self.space, order))
            return
        count = self.options["n_trials"] - self._begun
        drawn, others = drawn_cells(self.space, order, count, is_other)
        workload.draw(identities(drawn))
        yield from drawn
        yield from others  # in the place of those that break a constraint

    def _order(self) -> Order:
        workload = self._workload
        are_partly_known = workload.is_cut or self.space.seed_key  # by one seed of each
        are_known = workload.costs if are_partly_known else workload.knows_all_costs
        return Order(self.options["order"], self.draw_seed, self.cost if are_known else None)

    def _next_spec(self, candidates: Candidates) -> TrialSpec | None:
        """A requeued trial, else one that nobody runs any more, else a new one if there may be
        more; None where there is none now."""
        self._sharing.check()
        while self._requeued:
            spec = self._requeued.popleft()
            if self._sharing.holds(spec.number):
                return spec
        for abandoned in self._sharing.abandoned():
            is_waiting = abandoned.state is TrialState.WAITING
            if is_waiting and not self._may_go_on(abandoned.params):
                continue
            for spec in self._take_up([abandoned]):
                return spec
        promoted = self._promote(are_all_begun=False)
        if promoted:
            return promoted
        is_allowed = self.options["retry_failed"] or self._budget.allows(self._begun)
        candidate = candidates.ask() if is_allowed else None
        if candidate is None:
            return self._promote(are_all_begun=True)
        trial, params = candidate
        self._open_trials[trial.number] = trial
        self._sharing.hold(trial)
        return TrialSpec(trial.number, self.space.overrides(params), dict(params))

    def _may_go_on(self, params: Mapping[str, Value]) -> bool:
        """Whether an unfinished trial of a configuration is tried again now; else it waits."""
        return self._retried is None or identity(params) in self._retried

    @property
    def _begun(self) -> int:
        """Trials that were counted or will be, whoever runs them."""
        unfinished = len(self.running) + len(self._requeued) + len(self._sharing.others())
        return len(self._finished) + unfinished + len(self._pauses)

    def _is_budget_spent(self) -> bool:
        best = self.best.value if self.best else None
        return self._budget.is_spent(best, self._finished.since_best, self._failures)

    def _finished_configurations(self) -> set[str]:
        return identities(trial.params for trial in self._finished)

    def _failed_configurations(self) -> list[Mapping[str, Value]]:
        failed = [trial for trial in self._finished if trial.state in FAILURES]
        return [trial.params for trial in failed if self.space.holds(trial.params)]

    def _count(self, trial: FinishedTrial) -> None:
        self._finished.count(trial)
        self._counted += 1
        self._workload.finish(trial.params)
        if self._replication:
            self._asked = None


def _as_values(wish: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration to try first, as a space has it: null, lists and dicts are texts."""
    values = {}
    for key, value in wish.items():
        is_value = isinstance(value, bool | int | float | str)
        values[key] = value if is_value else as_written(value)
    return values
