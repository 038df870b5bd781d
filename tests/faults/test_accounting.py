"""Any order of what may happen to a study: `StudyMachine` asks, reports, finishes, fails, kills and
resumes with stub objectives, and holds the study against a model of its outcomes.

The study is real, on real SQLite, in this process. A killed parent is a study that is dropped, with
its lock, as the end of its process does; a killed worker is what the pool makes of one.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from invariants import check
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from support import parse_space, study_options

from cifar_hpo import database
from cifar_hpo.errors import StudyError
from cifar_hpo.paths import STUDIES_DB
from cifar_hpo.study import _optuna, storage
from cifar_hpo.study.space import identities, identity
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, FINISHED, PRUNED, Progress, TrialResult, TrialSpec

SHORT = settings(
    max_examples=10,
    stateful_step_count=20,
    phases=[Phase.generate],  # a failure is shown as it was found; the long form makes it short
    database=None,
    report_multiple_bugs=False,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    SHORT,
    max_examples=1000,
    stateful_step_count=50,
    phases=[Phase.generate, Phase.shrink],
    derandomize=False,
    print_blob=True,
)

SECONDS_TO_WAIT = 0.05
"""For a store that is away, instead of a minute."""

EPOCHS = 4
ASHA = {"name": "asha", "min_resource": 1, "reduction_factor": 2}

Outcome = tuple[str, float | None]
"""A state and a value."""

values = st.integers(0, 9).map(float)
statements = st.integers(0, 15)
"""The statement of the database before which a process dies."""


class Died(BaseException):
    """Stands in for kill -9: nothing may catch it."""


@contextlib.contextmanager
def dying_before(statement: int) -> Iterator[None]:
    """Die before that statement of this process's databases, counted from 0, if there are so
    many."""
    count = 0

    def die(*_: object) -> None:
        nonlocal count
        count += 1
        if count > statement:
            raise Died

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", die)


class StudyMachine(RuleBasedStateMachine):
    """A study and the model of it.

    outcomes: by configuration, of those that were counted. doubtful: what may have become of those
    at whose end the process died or the store was away. running: what this process runs, by
    number. lost: specs of processes that died. retried: the failed ones that this process is to
    try again; None where it is not asked to. interrupted: failed ones whose next try had begun, or
    may have, when a process died; any later one goes on with it. epochs: reported of each trial.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.database = self.folder / STUDIES_DB
        self.url = f"sqlite:///{self.database}"
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(storage, "SQLITE_TIMEOUT", SECONDS_TO_WAIT)
        self.patch.setattr(database, "LOCK_TIMEOUT", SECONDS_TO_WAIT)
        self.patch.setattr(_optuna, "connect", self._connect)
        self.connections: list[RDBStorage] = []
        self.study: Study | None = None
        self.specs: Iterator[TrialSpec | None] = iter(())
        self.blocker: sqlite3.Connection | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.doubtful: dict[str, list[Outcome | None]] = {}
        self.running: dict[int, TrialSpec] = {}
        self.lost: list[TrialSpec] = []
        self.retried: set[str] | None = None
        self.interrupted: set[str] = set()
        self.epochs: dict[int, int] = {}

    @initialize(
        sampler=st.sampled_from(["grid", "random"]),
        cells=st.integers(1, 5),
        n_trials=st.none() | st.integers(1, 5),
    )
    def begin(self, sampler: str, cells: int, n_trials: int | None) -> None:
        self.sampler, self.cells, self.n_trials = sampler, cells, n_trials

    @property
    def planned(self) -> int:
        """How many configurations the study is to count."""
        return min(self.cells, self.n_trials or self.cells)

    # What a process does.

    @precondition(lambda self: self.study is None)
    @rule(retry_failed=st.booleans(), added=st.integers(0, 1))
    def resume(self, retry_failed: bool, added: int) -> None:
        """The same command, or one with more cells, or one that tries the failed ones again."""
        self.cells += added
        self.n_trials = self.n_trials and self.n_trials + added
        self._guarded(lambda: self._open(retry_failed=retry_failed))

    @precondition(lambda self: self.study is not None)
    @rule(count=st.integers(1, 3))
    def ask(self, count: int) -> None:
        for _ in range(count):
            if self.study is not None:  # the store may be away
                self._guarded(self._ask)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), value=values)
    def report(self, data: st.DataObject, value: float) -> None:
        spec = self._choose(data)
        epoch = self.epochs.get(spec.number, 0) + 1
        self.epochs[spec.number] = epoch

        def report() -> None:
            assert self.study
            if self.study.should_prune(spec, Progress(epoch, EPOCHS, value)):
                assert epoch < EPOCHS, "what is at its end is not stopped"
                self._tell(spec, TrialResult(PRUNED, error=f"after epoch {epoch}"))

        self._guarded(report)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), value=values)
    def finish(self, data: st.DataObject, value: float) -> None:
        spec = self._choose(data)
        self._guarded(lambda: self._tell(spec, TrialResult(FINISHED, {"y": value})))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """The trial raises."""
        spec = self._choose(data)
        self._guarded(lambda: self._tell(spec, TrialResult(FAILED, error="no luck")))

    # What befalls it.

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        spec = self._choose(data)
        killed = TrialResult(FAILED, error="worker killed by SIGKILL", transient=True)
        self._guarded(lambda: self._tell(spec, killed))

    @precondition(lambda self: self.study is not None)
    @rule(statement=statements, when=st.sampled_from(["signal", "idle", "asks", "tells"]))
    def stop(self, statement: int, when: str) -> None:
        """A signal, which the sweep takes between two steps; or the parent is killed, whatever it
        does."""
        if when == "signal":
            self._guarded(self._interrupt)
        elif when == "asks":
            self.interrupted |= self.retried or set()
            self._killed_while(self._ask, statement)
        elif when == "tells" and self.running:
            spec = min(self.running.values(), key=lambda spec: spec.number)
            result = TrialResult(FINISHED, {"y": 5.0})
            self._killed_while(lambda: self._tell(spec, result), statement)
        else:
            self._drop()

    @precondition(lambda self: self.study is None)
    @rule(statement=st.integers(0, 60))
    def kill_parent_while_it_resumes(self, statement: int) -> None:
        self._killed_while(lambda: self._open(retry_failed=False), statement)

    @precondition(lambda self: self.lost and self.study is not None)
    @rule(data=st.data())
    def late_result(self, data: st.DataObject) -> None:
        """Of an attempt that was replaced."""
        spec = data.draw(st.sampled_from(self.lost))
        if spec.number not in self.running:
            assert self.study
            assert self.study.tell(spec, TrialResult(FINISHED, {"y": 99.0})) is False

    @precondition(lambda self: self.blocker is None and self.database.exists())
    @rule()
    def store_away(self) -> None:
        """Somebody else holds the database for longer than anybody waits."""
        blocker = sqlite3.connect(self.database, isolation_level=None)
        blocker.execute("begin exclusive")
        self.blocker = blocker

    @precondition(lambda self: self.blocker is not None)
    @rule()
    def store_back(self) -> None:
        assert self.blocker
        self.blocker.close()
        self.blocker = None

    # What must hold.

    @invariant()
    def what_is_counted_is_what_came_of_it(self) -> None:
        if self.study is not None:
            assert self._counted() == self.outcomes
            assert len(self.outcomes) <= self.planned or self.n_trials is None

    def teardown(self) -> None:
        """Run the study to its end, where everything must add up."""
        try:
            if self.blocker is not None:
                self.store_back()
            self._drop()
            if hasattr(self, "sampler"):
                self._run_to_the_end()
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)

    def _run_to_the_end(self) -> None:
        self._open(retry_failed=False)
        for spec in self.specs:
            assert spec is not None
            self._check_asked(spec)
            self._tell(spec, TrialResult(FINISHED, {"y": 1.0}))
        assert self.study
        self.study.__exit__()
        self._drop()
        assert len(self.outcomes) == self.planned
        states = [state for state, _ in self.outcomes.values()]
        returncode = int(FAILED in states)
        check(self.folder, planned=self.planned, budget=self.n_trials, returncode=returncode)
        self._open(retry_failed=False)
        assert next(self.specs, None) is None, "the same command again does nothing"
        self._drop()

    def _connect(self, url: str, options: dict[str, Any]) -> RDBStorage:
        """A storage whose tables are not looked at, which would take a tenth of a second."""
        connected = RDBStorage(url, engine_kwargs=options, skip_compatibility_check=True)
        self.connections.append(connected)
        return connected

    def _open(self, *, retry_failed: bool) -> None:
        choices = ",".join(str(cell) for cell in range(self.cells))
        options = study_options(
            self.sampler,
            storage=self.url,
            n_trials=self.n_trials,
            retry_failed=retry_failed,
            pruner=ASHA,
        )
        self.study = Study.open("s", parse_space(f"+x=choice({choices})"), options, {})
        self.specs = self.study.specs()
        counted = self._counted()
        for configuration, possible in self.doubtful.items():
            outcome = counted.get(configuration)
            assert outcome in possible, f"{configuration}: {outcome}, possible were {possible}"
            if outcome is not None:
                self.outcomes[configuration] = outcome
        self.doubtful.clear()
        self.retried = None
        if retry_failed:
            self.retried = {key for key, (state, _) in counted.items() if state == FAILED}

    def _ask(self) -> None:
        end = object()
        spec: Any = next(self.specs, end)
        if spec is end:
            assert not self.running
            if self.retried is None:
                assert len(self.outcomes) == self.planned, "it ends when everything is counted"
            else:
                assert not self.retried, "it ends when every failed trial was tried again"
        elif spec is None:
            assert self.running, "nothing runs, so nothing can be waited for"
        else:
            self._check_asked(spec)

    def _check_asked(self, spec: TrialSpec) -> None:
        configuration = identity(spec.params)
        running = {identity(other.params) for other in self.running.values()}
        assert configuration not in running, "it is tried twice at once"
        if self.retried is not None and configuration in self.retried:
            self.retried.remove(configuration)
        elif configuration in self.interrupted:
            self.interrupted.remove(configuration)
        elif self.outcomes.get(configuration, (FAILED, None))[0] != FAILED or (
            self.retried is None and configuration in self.outcomes
        ):
            pytest.fail(f"{configuration} is tried again, though it is {self.outcomes}")
        self.running[spec.number] = spec
        begun = self.outcomes.keys() | running | {configuration}
        assert len(begun) <= self.planned, "the count passes the budget"

    def _tell(self, spec: TrialSpec, result: TrialResult) -> None:
        assert self.study
        configuration = identity(spec.params)
        is_retried = result.transient and spec.retries < self.study.options["retries"]
        outcome = (result.state, result.metrics.get("y"))
        del self.running[spec.number]
        if is_retried:
            assert self.study.tell(spec, result) is False
            self.lost.append(spec)
            if self.retried is not None and configuration in self.outcomes:
                self.retried.add(configuration)
            return
        self.doubtful[configuration] = [outcome, self.outcomes.get(configuration)]
        assert self.study.tell(spec, result) is True
        del self.doubtful[configuration]
        self.outcomes[configuration] = outcome

    def _counted(self) -> dict[str, Outcome]:
        assert self.study
        counted = {}
        for trial in self.study.finished_trials():
            counted[identity(trial.params)] = (trial.state, trial.value)
        return counted

    def _choose(self, data: st.DataObject) -> TrialSpec:
        return self.running[data.draw(st.sampled_from(sorted(self.running)))]

    def _guarded(self, step: Callable[[], None]) -> None:
        """A step that may fail while the store is away, which ends the process."""
        if self.blocker is None:
            step()
            return
        try:
            step()
        except (StudyError, sqlalchemy.exc.SQLAlchemyError, StorageInternalError):
            if self.study is not None:
                with contextlib.suppress(Exception):
                    self.study.__exit__()
            self._drop()

    def _interrupt(self) -> None:
        """Ctrl-C: what ran waits for the next command, and nothing is RUNNING."""
        assert self.study
        self.study.__exit__(KeyboardInterrupt)
        self._drop()
        trials = optuna.load_study(study_name="s", storage=self._connect(self.url, {})).trials
        assert TrialState.RUNNING not in {trial.state for trial in trials}

    def _killed_while(self, step: Callable[[], None], statement: int) -> None:
        """A step at whose statement the process dies, at the latest at its end."""
        with contextlib.suppress(Died), dying_before(statement):
            self._guarded(step)
        self._drop()

    def _drop(self) -> None:
        """The end of the process, which releases its lock."""
        if self.study is not None:
            self.study._lock.close()  # noqa: SLF001  as the end of its process would
        while self.connections:
            connection = self.connections.pop()
            connection.remove_session()
            connection.engine.dispose()
        self.study = None
        self.specs = iter(())
        running = identities(spec.params for spec in self.running.values())
        self.interrupted |= running & self.outcomes.keys()
        self.lost += self.running.values()
        self.running.clear()


def test_whatever_happens_each_configuration_is_counted_once() -> None:
    run_state_machine_as_test(StudyMachine, settings=SHORT)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whatever_happens_many_times_over() -> None:
    run_state_machine_as_test(StudyMachine, settings=LONG)
