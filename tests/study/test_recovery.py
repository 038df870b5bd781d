"""What an interrupted or dead command left in a study; no training, real SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
from support import finished, study_options, swept, work

from cifar_hpo.study.space import Space
from cifar_hpo.study.stored import StoredStudy
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, TrialResult, TrialSpec


def test_an_interrupted_trial_waits_and_goes_on_under_its_number(
    space: Callable[..., Space],
) -> None:
    wanted = space("+x=1,2,3")
    with Study.open("s", wanted, study_options(), {}) as study:
        specs: Iterator[Any] = study.specs()
        first, second = next(specs), next(specs)
        study.tell(first, finished(1))
    with Study.open("s", wanted, study_options(), {}) as study:
        taken = work(study, lambda spec: finished(2))
        assert [(spec.number, spec.overrides, spec.attempt) for spec in taken] == [
            (1, second.overrides, 1),
            (2, ("+x=3",), 0),
        ]
        assert len(study.finished_trials()) == 3
        assert study.tell(second, finished(9)) is False, "a late result of a superseded attempt"
    states = [
        trial.state.name
        for trial in optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    ]
    assert states == ["COMPLETE"] * 3


def test_a_death_between_the_two_writes_of_a_result_loses_nothing(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = space("+x=1,2")
    study = Study.open("s", wanted, study_options(), {})
    spec = next(study.specs())
    assert spec

    def died(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(StoredStudy, "close_trial", died)
        with pytest.raises(SystemExit):
            study.tell(spec, finished(7))
    study._lock.close()  # noqa: SLF001  as the end of its process would
    with Study.open("s", wanted, study_options(), {}) as study:
        done, ranking = work(study, lambda spec: finished(1)), study.ranking()
    assert [spec.params for spec in done] == [{"+x": 2}]
    assert ranking[0].value == 7


def test_a_waiting_trial_that_left_the_space_is_closed(space: Callable[..., Space]) -> None:
    with Study.open("s", space("+x=1,2"), study_options(), {}) as study:
        assert next(study.specs())
    with Study.open("s", space("+x=2,3"), study_options(), {}) as study:
        assert [spec.params for spec in work(study, lambda spec: finished(1))] == [
            {"+x": 2},
            {"+x": 3},
        ]
    trials = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_result_that_was_left_on_disk_counts_and_is_not_tried_again(
    space: Callable[..., Space],
) -> None:
    wanted = space("+x=1,2,3")
    with Study.open("s", wanted, study_options(), {}) as study:
        specs: Iterator[Any] = study.specs()
        next(specs), next(specs)

    def left_result(study: Study, spec: TrialSpec) -> TrialResult | None:
        assert study.name == "s"
        return finished(0.5) if spec.overrides == ("+x=2",) else None

    with Study.open("s", wanted, study_options(), {}, left_result=left_result) as study:
        assert [trial.params for trial in study.finished_trials()] == [{"+x": 2}]
        specs_done = work(study, lambda spec: finished(1))
    assert [spec.overrides for spec in specs_done] == [("+x=1",), ("+x=3",)]
    trials = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.value for trial in trials] == [1, 0.5, 1]


def test_a_retry_that_was_interrupted_is_not_begun_twice(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2")
    swept(wanted, lambda spec: TrialResult(FAILED, error="no luck"))
    again = study_options(retry_failed=True)
    with Study.open("s", wanted, again, {"a": 1}) as study:
        assert next(study.specs())
    with Study.open("s", wanted, again, {"a": 1}) as study:
        specs = work(study, lambda spec: finished(1))
    assert sorted(spec.overrides for spec in specs) == [("+x=1",), ("+x=2",)]


def test_a_retry_leaves_waiting_what_has_not_failed(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3")
    with Study.open("s", wanted, study_options(), {"a": 1}) as study:
        specs: Iterator[Any] = study.specs()
        first, _ = next(specs), next(specs)
        study.tell(first, TrialResult(FAILED, error="no luck"))
    specs_again, _ = swept(wanted, lambda spec: finished(1), retry_failed=True)
    assert [spec.overrides for spec in specs_again] == [("+x=1",)]
    specs_later, ranking = swept(wanted, lambda spec: finished(1))
    assert sorted(spec.overrides for spec in specs_later) == [("+x=2",), ("+x=3",)]
    assert len(ranking) == 3


def test_cells_that_are_left_out_are_neither_planned_nor_written(
    space: Callable[..., Space],
) -> None:
    wanted = space("+x=1,2,3")
    for _ in range(2):
        with Study.open("s", wanted, study_options(), {}) as study:
            study.leave_out(['{"+x": 2}'])
            assert study.planned() == 2
            work(study, lambda spec: finished(1))
    trials = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]


def test_a_cell_that_was_given_up_before_it_started_stays_out(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3")
    for _ in range(2):
        with Study.open("s", wanted, study_options(), {}) as study:
            for spec in study.specs():
                assert spec
                if spec.params == {"+x": 2}:
                    study.discard(spec, "too large")
                else:
                    study.tell(spec, finished(1))
            assert study.planned() == 2
    trials = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_attempts_are_counted_on_by_the_next_command(space: Callable[..., Space]) -> None:
    lost = TrialResult(FAILED, error="worker killed by SIGKILL", transient=True)
    attempts = []
    for _ in range(2):
        with Study.open("s", space("+x=1"), study_options(), {}) as study:
            specs: Iterator[Any] = study.specs()
            spec = next(specs)
            attempts.append(spec.attempt)
            assert study.tell(spec, lost) is False
            attempts.append(next(specs).attempt)
    assert attempts == [0, 1, 2, 3]
