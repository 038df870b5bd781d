"""What an interrupted or dead command left in a study; no training, real SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
from support import finished, study_options, work

from cifar_hpo.study.space import Space
from cifar_hpo.study.stored import StoredStudy
from cifar_hpo.study.study import Study


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
