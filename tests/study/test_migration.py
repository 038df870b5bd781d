"""A study's choices grow, whatever interrupts it: trials keep numbers, states and all they have."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState
from support import finished, study_options, swept, work

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.study import migration
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.stored import FIRST_CHOICES
from cifar_hpo.study.study import Study
from cifar_hpo.trial import PRUNED, Progress, TrialResult, TrialSpec

WIDER: dict[str, BaseDistribution] = {"+x": CategoricalDistribution(["relu", "elu", "tanh"])}


def contents(trial: FrozenTrial) -> dict[str, Any]:
    """All that a stored trial has, but for its distributions and the storage's own ids."""
    return {
        "number": trial.number,
        "state": trial.state,
        "values": trial.values,
        "params": trial.params,
        "attributes": trial.user_attrs,
        "system": trial.system_attrs,
        "reported": trial.intermediate_values,
        "dates": (trial.datetime_start, trial.datetime_complete),
    }


def load() -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(None))


@pytest.fixture
def begun(space: Callable[..., Space]) -> list[dict[str, Any]]:
    """A study with a finished, a pruned, a skipped and a waiting trial."""
    wanted = space("+x=relu,elu", "+y=1,2")
    with Study.open("s", wanted, study_options(), {"a": 1}) as study:
        study.attributes.set_run("sqlite:///mlflow.db", "run")
        specs = [spec for spec, _ in zip(study.specs(), range(4), strict=False) if spec]
        study.should_prune(specs[0], Progress(1, 2, 0.5))
        study.tell(specs[0], finished(1))
        study.tell(specs[1], TrialResult(PRUNED))
        study.discard(specs[2], "too large")
    return [contents(trial) for trial in load().trials]


def test_trials_keep_all_that_they_have(begun: list[dict[str, Any]]) -> None:
    before = load()
    attributes, directions = before.user_attrs, before.directions
    migration.extend_choices(open_storage(None), "s", WIDER)
    study = load()
    assert [contents(trial) for trial in study.trials] == begun
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.WAITING,
    ]
    assert study.user_attrs == attributes
    assert study.directions == directions
    assert optuna.get_all_study_names(open_storage(None)) == ["s"]


def test_samplers_and_charts_find_one_space_of_readable_values(begun: object) -> None:
    migration.extend_choices(open_storage(None), "s", WIDER)
    (finished_trial,) = load().get_trials(states=(TrialState.COMPLETE,))
    assert finished_trial.params["+x"] == "relu"
    assert intersection_search_space(load().trials)["+x"] == WIDER["+x"]


class Killed(BaseException):
    """Ends what runs as SIGKILL would: nothing that was not committed is stored."""


def test_a_kill_at_any_moment_loses_nothing(begun: list[dict[str, Any]]) -> None:
    database, original = Path("mlruns/studies.db"), Path("original.db")
    shutil.copy(database, original)
    kills = 0
    while True:
        shutil.copy(original, database)
        try:
            commit_until(kills)
        except Killed:
            kills += 1
        else:
            break
        migration.restore(open_storage(None), "s")
        assert [contents(trial) for trial in load().trials] == begun, f"after {kills} commits"
        assert load().user_attrs["meaning"] == {"a": 1}
        assert optuna.get_all_study_names(open_storage(None)) == ["s"]
    assert kills > 20
    assert [contents(trial) for trial in load().trials] == begun


def commit_until(commits: int) -> None:
    """Extend the study's choices, and be killed before the commit after so many."""
    storage: Any = open_storage(None)
    done = 0

    def before_commit(_: object) -> None:
        nonlocal done
        if done == commits:
            raise Killed
        done += 1

    sqlalchemy.event.listen(storage.engine, "commit", before_commit)
    try:
        migration.extend_choices(storage, "s", WIDER)
    finally:
        sqlalchemy.event.remove(storage.engine, "commit", before_commit)
        storage.engine.dispose()


KILLED_WHILE_RESTORING = """
import os, signal
import optuna
from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.study import migration
from cifar_hpo.study.storage import open_storage

add_trial = optuna.Study.add_trial
added = 0

def add(study, trial):
    global added
    add_trial(study, trial)
    added += 1
    if added == {last}:
        os.kill(os.getpid(), signal.SIGKILL)

optuna.Study.add_trial = add
wider = optuna.distributions.CategoricalDistribution(["relu", "elu", "tanh"])
migration.{call}
"""


def test_a_killed_process_and_a_killed_recovery_lose_nothing(begun: list[dict[str, Any]]) -> None:
    extend = 'extend_choices(open_storage(None), "s", {"+x": wider})'
    for last, call in ((6, extend), (2, 'restore(open_storage(None), "s")')):
        program = KILLED_WHILE_RESTORING.replace("{last}", str(last)).replace("{call}", call)
        ended = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert migration.copy_name("s") in optuna.get_all_study_names(open_storage(None))
    migration.restore(open_storage(None), "s")
    assert [contents(trial) for trial in load().trials] == begun


def test_a_study_goes_on_after_its_growth_was_interrupted(
    begun: object, space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = space("+x=relu,elu,tanh", "+y=1,2")
    with monkeypatch.context() as patched:
        patched.setattr(optuna, "delete_study", killed)
        with pytest.raises(Killed):
            Study.open("s", wider, study_options(), {"a": 1})
    with Study.open("s", wider, study_options(), {"a": 1}) as study:
        specs = work(study, lambda spec: finished(2))
        assert [spec.number for spec in specs] == [3, 4, 5], "what was left out stays out"
        assert study.planned() == 5
    assert [trial.params["+x"] for trial in load().trials[4:]].count("tanh") == 2


def killed(**_: object) -> None:
    raise Killed


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_a_sampler_goes_on_in_a_space_that_grew(sampler: str, space: Callable[..., Space]) -> None:
    def objective(spec: TrialSpec) -> TrialResult:
        return finished(float(len(str(spec.params["+x"]))))

    given: dict[str, Any] = {"sampler": sampler, "n_trials": 4}
    swept(space("+x=relu,elu", "+y=interval(0.0,1.0)"), objective, **given)
    wider = space("+x=elu,tanh,sigmoid", "+y=interval(0.0,1.0)")
    specs, ranking = swept(wider, objective, sampler=sampler, n_trials=16)
    assert len(specs) == 12
    assert all(wider.holds(spec.params) for spec in specs)
    assert {spec.params["+x"] for spec in specs} == {"elu", "tanh", "sigmoid"}
    assert ranking[0].params["+x"] == "sigmoid"


def test_it_is_noted_with_how_many_choices_a_study_began(space: Callable[..., Space]) -> None:
    for seeds in ("0", "0,1,2", "0,1,2,3,4", "0,1,2,3,4,5"):
        with Study.open(
            "s", space("+x=relu", f"+seed={seeds}"), study_options(), {"a": 1}
        ) as study:
            work(study, lambda spec: finished(1))
    assert load().user_attrs[FIRST_CHOICES] == {"+seed": 3}, "one seed alone shows nothing"
    assert compare_study("s", open_storage(None)).looks == Looks(3, 3)
