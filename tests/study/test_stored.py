"""Stored studies: their names, what they mean, and trials that others had before."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from support import finished, study_options, swept

from cifar_hpo.errors import StudyError
from cifar_hpo.study import _optuna
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.stored import (
    MEANING,
    check_definition,
    choose_name,
    next_free_name,
    plain_metrics,
    write_note,
)
from cifar_hpo.study.study import Study


def test_data_that_earlier_versions_named_twice_is_the_same(space: Callable[..., Space]) -> None:
    with Study.open("s", space("+x=1"), study_options(), {"data": ["b", "a", "a"]}):
        pass
    with Study.open("s", space("+x=1"), study_options(), {"data": ["a", "b"]}) as study:
        assert study.name == "s"


def test_warm_start_informs_the_sampler_and_counts_for_nothing_else(
    space: Callable[..., Space],
) -> None:
    wide, narrow = space("+x=interval(0.0,10.0)"), space("+x=interval(0.0,5.0)")
    swept(
        wide,
        lambda spec: finished(-abs(float(spec.params["+x"]) - 2)),
        "first",
        sampler="random",
        n_trials=30,
    )
    done, _ = swept(
        narrow, lambda spec: finished(0), "second", sampler="tpe", n_trials=3, warm_start="first"
    )
    assert len(done) == 3
    known = optuna.load_study(study_name="second", storage="sqlite:///mlruns/studies.db").trials
    taken = [trial for trial in known if "warm_start" in trial.user_attrs]
    assert len(known) == 3 + len(taken)
    assert all(trial.params["+x"] <= 5 for trial in taken)
    assert len(taken) >= 10, "TPE had its start-up trials from there"
    assert statistics.fmean(abs(float(spec.params["+x"]) - 2) for spec in done) < 1
    with pytest.raises(StudyError, match="no study nowhere"):
        Study.open("third", narrow, study_options("tpe", n_trials=3, warm_start="nowhere"), {})


def test_a_warm_start_from_another_kind_of_space(space: Callable[..., Space]) -> None:
    swept(
        space("+x=1,2,4,8", "+y=range(1,3)"),
        lambda spec: finished(float(spec.params["+x"])),
        "first",
    )
    for name, wanted in {
        "whole": space("+x=interval(1,8)", "+y=1,2"),
        "log": space("+x=tag(log,interval(1.0,8.0))", "+y=interval(1,2)"),
    }.items():
        done, _ = swept(
            wanted, lambda spec: finished(0), name, sampler="tpe", n_trials=5, warm_start="first"
        )
        assert len(done) == 5
        taken = optuna.load_study(study_name=name, storage="sqlite:///mlruns/studies.db").trials[:8]
        assert [trial.user_attrs["warm_start"] for trial in taken] == [
            f"first {number}" for number in range(8)
        ]


def test_another_meaning_is_refused_with_its_differences(space: Callable[..., Space]) -> None:
    study = optuna.create_study(study_name="s")
    check_definition(study, {"config": {"model": {"depth": 2}}, "metric": "y"})
    check_definition(study, {"config": {"model": {"depth": 2}}, "metric": "y"})
    with pytest.raises(StudyError) as refused:
        check_definition(study, {"config": {"model": {"depth": 3}}, "metric": "y"})
    assert str(refused.value) == (
        "study s means something else (config.model.depth 2 → 3); choose another "
        "hydra.sweeper.study_name, or hydra.sweeper.fresh=true"
    )


@pytest.mark.parametrize(
    ("noted", "override"),
    [
        ("Choices(texts={2: '2', 4: '4'}, step=2)", "+x=4,2"),
        ("Choices(texts={'\"a\"': '\"a\"', 'b': 'b'}, step=0)", "+x=a,b"),
        ("Interval(low=0.0, high=0.5, log=False)", "+x=interval(0,0.5)"),
    ],
)
def test_a_space_that_version_0_1_noted_is_the_same(
    noted: str, override: str, space: Callable[..., Space]
) -> None:
    study = optuna.create_study(study_name="s")
    study.set_user_attr(MEANING, {"space": {"+x": noted}})
    check_definition(study, {"space": space(override).identity})
    with pytest.raises(StudyError, match="means something else"):
        check_definition(study, {"space": space("+x=interval(0,0.4)").identity})


def test_a_fresh_study_has_the_next_free_name() -> None:
    assert next_free_name("s", []) == "s"
    assert next_free_name("s", ["s", "s-2", "s-4"]) == "s-3"


def test_an_earlier_name_is_taken_where_only_that_is_there() -> None:
    storage = open_storage("memory")
    assert choose_name(storage, "new", "old", is_fresh=False) == "new"
    optuna.create_study(study_name="old", storage=storage)
    assert choose_name(storage, "new", "old", is_fresh=False) == "old"
    assert choose_name(storage, "new", "old", is_fresh=True) == "new"
    optuna.create_study(study_name="new", storage=storage)
    assert choose_name(storage, "new", "old", is_fresh=False) == "new"
    assert choose_name(storage, "new", "old", is_fresh=True) == "new-2"


def test_a_study_of_an_earlier_version_goes_on_under_its_name(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2")
    swept(wanted, lambda spec: finished(1), "old")
    with Study.open("new", wanted, study_options(), {"a": 1}, earlier_name="old") as study:
        assert study.name == "old"
        assert len(study.finished_trials()) == 2


def test_a_choice_that_means_something_else_is_refused_and_a_new_one_is_noted() -> None:
    study = optuna.create_study(study_name="s")
    first = {"choices": {"+experiment": {"a": {"lr": 1}, "b": {"lr": 2}}}}
    check_definition(study, first)
    check_definition(study, {"choices": {"+experiment": {"c": {"lr": 3}, "a": {"lr": 1}}}})
    known = study.user_attrs[MEANING]["choices"]["+experiment"]
    assert known == {"a": {"lr": 1}, "b": {"lr": 2}, "c": {"lr": 3}}
    with pytest.raises(StudyError, match=r"\(choices\.\+experiment\.b\.lr 2 → 5\)"):
        check_definition(study, {"choices": {"+experiment": {"b": {"lr": 5}}}})
    check_definition(study, {})


def test_the_metrics_that_dashboards_draw_are_few() -> None:
    metrics = {"y": 1.0, "cost": 2.0, "cost_std": 0.1, "replica_0/cost": 2.0, "outcome": 1.0}
    assert plain_metrics(metrics, ["y"]) == {"cost": 2.0}
    assert len(plain_metrics({f"m{number}": 0.0 for number in range(100)}, [])) == 20


def test_the_metrics_of_a_study_s_first_trials_are_drawn(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_hpo.study.stored.MAX_DRAWN_TRIALS", 2)
    swept(space("+x=1,2,3"), lambda spec: finished(0, cost=spec.params["+x"]))
    trials = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.user_attrs.get("cost") for trial in trials] == [1, 2, None]
    assert [trial.user_attrs["outcome"]["metrics"]["cost"] for trial in trials] == [1, 2, 3]


def test_a_note_is_written_anew_below_what_a_user_wrote() -> None:
    storage = open_storage(None)
    optuna.create_study(study_name="s", storage=storage)
    write_note(storage, "s", "first")
    assert _optuna.note(storage, "s").endswith("\n\nfirst")
    _optuna.set_note(storage, "s", f"My own.\n\n{_optuna.note(storage, 's')}")
    write_note(storage, "s", "second")
    note = _optuna.note(storage, "s")
    assert note.startswith("My own.\n\n*cifar_hpo writes")
    assert note.endswith("\n\nsecond")
    assert "first" not in note


@pytest.mark.parametrize(
    ("directions", "trials", "meaning"),
    [
        (["maximize"], 2, None),
        (["minimize"], 0, None),
        (["maximize", "maximize"], 0, None),
        (["maximize"], 0, "a text"),
    ],
)
def test_a_study_of_another_program_is_refused_and_stays_as_it_is(
    directions: list[Any], trials: int, meaning: str | None, space: Callable[..., Space]
) -> None:
    options = study_options()
    storage = open_storage(options["storage"])
    other = optuna.create_study(study_name="mine", storage=storage, directions=directions)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    if meaning:
        other.set_user_attr(MEANING, meaning)
    before = dict(other.user_attrs)
    with pytest.raises(StudyError, match=r"^study mine is another program's, .*study_name$"):
        Study.open("mine", space("x=1,2"), options, {"a": 1})
    assert optuna.get_all_study_names(storage) == ["mine"]
    again = optuna.load_study(study_name="mine", storage=storage)
    assert len(again.trials) == trials
    assert again.user_attrs == before


def test_a_study_that_a_dead_command_made_and_gave_no_meaning_is_begun(
    space: Callable[..., Space],
) -> None:
    options = study_options()
    storage = open_storage(options["storage"])
    optuna.create_study(study_name="s", storage=storage, directions=options["direction"].split())
    with Study.open("s", space("+x=1,2"), options, {"a": 1}) as study:
        assert study.planned() == 2
