"""Studies: budgets, accounting, resuming; no training, real SQLite."""

from __future__ import annotations

import itertools
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import pytest
from support import finished, parse_space, study_options, swept, work

from cifar_hpo import paths
from cifar_hpo.errors import ConfigError, StudyError
from cifar_hpo.study.space import Space, identity
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED, TrialResult, TrialSpec

PACKAGE = str(paths.PACKAGE)
CHOICES = ["model.filters=4,8,16", "model.activation=relu,elu"]


def test_conditional_parameters(space: Callable[..., Space]) -> None:
    wanted = space(
        "optimizer=adam,sgd,rmsprop",
        "optimizer.momentum=0,0.9",
        **{"optimizer.momentum": "optimizer=sgd"},
    )
    cells = [wanted.overrides(cell) for cell in wanted.cells()]
    assert cells == [
        ("optimizer=adam",),
        ("optimizer=sgd", "optimizer.momentum=0"),
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=rmsprop",),
    ]
    done, _ = swept(wanted, lambda spec: finished(0))
    assert [spec.overrides for spec in done] == cells
    wanted = space(
        "optimizer=adam,sgd",
        "optimizer.momentum=interval(0,0.99)",
        **{"optimizer.momentum": "optimizer=sgd"},
    )
    done, _ = swept(
        wanted, lambda spec: finished(random.random()), "tpe", sampler="tpe", n_trials=20
    )
    assert {
        ("optimizer.momentum" in spec.params) == (spec.params["optimizer"] == "sgd")
        for spec in done
    } == {True}


def test_a_total_of_trials_and_a_larger_one(space: Callable[..., Space]) -> None:
    wanted = space("model.dropout=interval(0,0.5)")
    assert len(swept(wanted, lambda spec: finished(1), sampler="random", n_trials=3)[0]) == 3
    assert len(swept(wanted, lambda spec: finished(1), sampler="random", n_trials=3)[0]) == 0
    assert [
        spec.number
        for spec in swept(wanted, lambda spec: finished(1), sampler="random", n_trials=5)[0]
    ] == [3, 4]


BUDGETS: dict[str, tuple[dict[str, Any], int]] = {
    "target": ({"target": 5}, 6),
    "patience": ({"patience": 4}, 10 + 4),
    "timeout": ({"timeout": 1e-9}, 0),
    "max_failures": ({"max_failures": 3}, 6),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets(budget: str, space: Callable[..., Space]) -> None:
    given, expected = BUDGETS[budget]

    def rising(spec: TrialSpec) -> TrialResult:
        if budget == "max_failures" and spec.number % 2:
            return TrialResult(FAILED, error="no luck")
        return finished(min(spec.number, 9))

    done, _ = swept(
        space("model.dropout=interval(0,0.5)"), rising, sampler="random", n_trials=30, **given
    )
    assert len(done) == expected


def test_several_objectives_rank_their_pareto_front_first(space: Callable[..., Space]) -> None:
    points = {0: (0.5, 10.0), 1: (0.7, 30.0), 2: (0.6, 40.0), 3: (0.7, 20.0), 4: (0.9, 90.0)}
    given: dict[str, Any] = {"metric": ["y", "size"], "direction": ["maximize", "minimize"]}
    objective = lambda spec: finished(points[spec.number][0], size=points[spec.number][1])  # noqa: E731
    _, ranking = swept(space("+x=range(0,5)"), objective, **given)
    assert {trial.number for trial in ranking[:3]} == {0, 3, 4}
    study = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db")
    assert {trial.number for trial in study.best_trials} == {0, 3, 4}


def test_known_good_configurations_come_first(space: Callable[..., Space]) -> None:
    good = [{"model.filters": 16, "model.activation": "elu"}, {"model.filters": 8}]
    for sampler in ("grid", "tpe"):
        done, _ = swept(
            space(*CHOICES),
            lambda spec: finished(0),
            sampler,
            sampler=sampler,
            enqueue=good,
            n_trials=6,
        )
        assert done[0].params == good[0]
        assert done[1].params["model.filters"] == 8
        assert len(done) == 6
    lists = space("model.filters=[4,8],[8,16],[16,32]")
    assert swept(lists, lambda spec: finished(0), "lists", enqueue=[{"model.filters": [16, 32]}])[
        0
    ][0].params == {"model.filters": "[16,32]"}
    with pytest.raises(ConfigError, match=r"model\.filters=5 is not in the space"):
        Study.open("x", space(*CHOICES), study_options(enqueue=[{"model.filters": 5}]), {})


def test_a_sampler_in_a_space_of_very_many_cells_starts_at_once(
    space: Callable[..., Space],
) -> None:
    wanted = space(*(f"+x{place}=range(0,10)" for place in range(12)))
    with Study.open("s", wanted, study_options("random", timeout=3600), {}) as study:
        assert study.planned() is None
        assert wanted.holds(next(spec for spec in study.specs() if spec).params)


def test_failed_trials_are_counted_and_tried_again_only_when_wished(
    space: Callable[..., Space],
) -> None:
    def fails(spec: TrialSpec) -> TrialResult:
        return TrialResult(FAILED, error="no luck") if spec.params["+x"] == 2 else finished(1)

    wanted = space("+x=1,2,3")
    assert len(swept(wanted, fails)[0]) == 3
    assert swept(wanted, fails)[0] == []
    again, ranking = swept(wanted, lambda spec: finished(5), retry_failed=True)
    assert [spec.params for spec in again] == [{"+x": 2}]
    assert len(ranking) == 3
    assert ranking[0].params == {"+x": 2}
    assert swept(wanted, fails, retry_failed=True)[0] == []


def test_a_transient_failure_gets_another_attempt_under_its_number(
    space: Callable[..., Space],
) -> None:
    attempts: list[tuple[int, int]] = []

    def dies_once(spec: TrialSpec) -> TrialResult:
        attempts.append((spec.number, spec.attempt))
        return finished(1) if spec.attempt else TrialResult(FAILED, transient=True, error="killed")

    with Study.open("s", space("+x=1,2"), study_options(), {}) as study:
        for spec in study.specs():
            if spec:
                study.tell(spec, dies_once(spec))
        assert [trial.state for trial in study.finished_trials()] == [FINISHED, FINISHED]
    assert attempts == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_pruned_and_killed_outcomes(space: Callable[..., Space]) -> None:
    states = {1: PRUNED, 2: KILLED, 3: FINISHED}
    objective = lambda spec: TrialResult(states[int(spec.params["+x"])], {"y": 1.0})  # noqa: E731
    _, ranking = swept(space("+x=1,2,3"), objective)
    assert [trial.state for trial in ranking] == [FINISHED, PRUNED, KILLED]
    stored = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.state.name for trial in stored] == ["PRUNED", "FAIL", "COMPLETE"]


def test_a_duplicate_is_recognised_whatever_the_order_of_its_keys(
    space: Callable[..., Space],
) -> None:
    swept(space("+a=1,2", "+b=1,2"), lambda spec: finished(1))
    done, _ = swept(space("+b=1,2,3", "+a=1,2"), lambda spec: finished(1))
    assert sorted(spec.params["+b"] for spec in done) == [3, 3]


def test_null_and_lists_are_enqueued_as_they_are_written() -> None:
    wish = {"+a": None, "+b": [16, None]}
    wanted = parse_space("+a=3,null", "+b=[8],[16,null]")
    specs, _ = swept(wanted, lambda spec: finished(0), "null", enqueue=[wish])
    assert specs[0].overrides == ("+a=null", "+b=[16,null]")
    with pytest.raises(ConfigError, match="not in the space"):
        Study.open("y", wanted, study_options(enqueue=[{"+a": {"b": 1}}]), {})


def test_a_value_from_elsewhere_that_changed_is_refused_with_its_key() -> None:
    wanted = parse_space("+a=1,2")
    storage = f"sqlite:///{Path.cwd()}/interpolated.db"
    options = study_options(storage=storage)
    for seed in ("aa", "aa"):
        with Study.open("s", wanted, options, {"interpolated": {"training.seed": seed}}):
            pass
    with pytest.raises(StudyError, match=r"interpolated\.training\.seed aa → bb"):
        Study.open("s", wanted, options, {"interpolated": {"training.seed": "bb"}})


class Calls:
    """Counts the calls of this package's functions while it is the profiler."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and PACKAGE in frame.f_code.co_filename:
            self.count += 1


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"metric": ["y", "z"], "direction": ["maximize", "minimize"]},
        {"sampler": "random", "n_trials": 900, "overrides": ["+x=interval(0.0,1.0)"]},
        {"patience": 1000, "target": 2.0},
    ],
)
def test_a_trial_takes_as_many_steps_behind_many_as_behind_few(
    given: dict[str, Any], space: Callable[..., Space]
) -> None:
    """Ask, tell, and all that the screen shows; in the memory that a trial takes, too."""
    draw = random.Random(0)
    wanted = space(*given.get("overrides", ["+x=range(0,30)", "+y=range(0,30)"]))
    changes = {name: value for name, value in given.items() if name != "overrides"}
    options = study_options(storage="memory", **changes)
    steps, memory = [], []
    tracemalloc.start()
    with Study.open("s", wanted, options, {}) as study:
        specs = study.specs()
        for _ in range(3):
            calls = Calls()
            before = tracemalloc.get_traced_memory()[0]
            sys.setprofile(calls)
            for spec in itertools.islice(specs, 100):
                assert spec
                study.tell(spec, finished(draw.random(), z=draw.random()))
                assert study.planned() == 900
                assert study.best
                study.waiting_costs()
            sys.setprofile(None)
            steps.append(calls.count)
            memory.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert steps[2] < 1.2 * steps[0]
    assert memory[2] < 100 * 20 * 1024


def test_a_grid_of_sixteen_million_cells_begins_at_once(space: Callable[..., Space]) -> None:
    wanted = space("+x=range(0,4000)", "+y=range(0,4000)")
    options = study_options(storage="memory", n_trials=2, enqueue=[{"+y": 3999}])
    tracemalloc.start()
    with Study.open("s", wanted, options, {}) as study:
        done = work(study, lambda spec: finished(1))
        assert study.planned() == 2
        assert study.waiting_costs() == []
    assert [spec.params for spec in done] == [{"+x": 0, "+y": 3999}, {"+x": 1, "+y": 3999}]
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_each_cell_of_a_grid_is_tried_once_where_wishes_overlap(
    space: Callable[..., Space],
) -> None:
    wishes = [{"+x": 2.0, "+y": "b"}, {"+x": 2}, {"+y": "b"}]
    done, _ = swept(space("+x=1,2", "+y=a,b"), lambda spec: finished(1), enqueue=wishes)
    assert [tuple(spec.params.values()) for spec in done] == [
        (2, "b"),
        (2, "a"),
        (1, "b"),
        (1, "a"),
    ]


def test_a_grid_cut_short_is_drawn_and_goes_on_with_others(space: Callable[..., Space]) -> None:
    wide = space("+x=range(0,50)")
    first, _ = swept(wide, lambda spec: finished(0), n_trials=5)
    tried = [int(spec.params["+x"]) for spec in first]
    assert len(tried) == 5
    assert tried == sorted(tried) != list(range(5))
    again, ranking = swept(wide, lambda spec: finished(0), n_trials=9)
    assert len(again) == 4
    assert len(ranking) == 9, "none twice"


def test_a_drawn_grid_has_enqueued_cells_first_and_replaces_what_is_left_out(
    space: Callable[..., Space],
) -> None:
    wide = space("+x=range(0,50)")
    options = study_options(n_trials=6, enqueue=[{"+x": 7}])
    with Study.open("s", wide, options, {"a": 1}) as study:
        assert study.is_drawn
        done: list[Any] = []
        for spec in study.specs():
            assert spec
            if len(done) == 2:
                study.discard(spec, "a constraint")
                done.append(None)
                continue
            study.tell(spec, finished(0))
            done.append(spec.params["+x"])
        assert done[0] == 7
        assert len(study.finished_trials()) == 6
        assert len(done) == 7, "another one in the place of the one that was left out"


def test_the_order_of_a_grid_is_the_one_that_is_asked_for(space: Callable[..., Space]) -> None:
    grid = space("+x=3,1,2")
    costs = {identity({"+x": value}): float(value) for value in (1, 2, 3)}

    def order(name: str) -> list[Any]:
        options = study_options(order=name, storage="memory")
        with Study.open(name, grid, options, {"a": 1}, costs) as study:
            return [spec.params["+x"] for spec in work(study, lambda spec: finished(0))]

    assert order("longest") == [3, 2, 1]
    assert order("given") == [3, 1, 2]
    assert sorted(order("random")) == [1, 2, 3]


def test_a_grid_gains_values_while_a_trial_runs(space: Callable[..., Space]) -> None:
    with Study.open("s", space("model.filters=4,8"), study_options(), {"a": 1}) as study:
        specs = study.specs()
        running = next(specs)
        assert running is not None
        grown = space("model.filters=4,8,16,32")
        study.extend(grown, {"a": 1}, {}, (), {"model.filters": ["16", "32"]})
        assert study.planned() == 4
        assert study.enqueue_next({"model.filters": 32}) == "it is tried next"
        with pytest.raises(ConfigError, match="all that has these values has begun"):
            study.enqueue_next(running.params)
        study.is_paused = True
        assert next(specs) is None, "nothing starts"
        study.resume(1.0)
        study.tell(running, finished(1))
        tried = []
        for spec in specs:
            assert spec is not None
            tried.append(spec.params["model.filters"])
            study.tell(spec, finished(0))
        assert tried == [32, 8, 16]
        assert study.ranking()[0].number == running.number


def test_a_sampler_tries_next_what_it_is_asked_to(space: Callable[..., Space]) -> None:
    options = study_options("random", n_trials=3)
    with Study.open("s", space("training.label_smoothing=interval(0,0.5)"), options, {}) as study:
        specs = study.specs()
        first = next(specs)
        assert first is not None
        study.enqueue_next({"training.label_smoothing": 0.125})
        with pytest.raises(ConfigError, match=r"0\.75 is not in the space"):
            study.enqueue_next({"training.label_smoothing": 0.75})
        second = next(specs)
        assert second is not None
        assert second.params == {"training.label_smoothing": 0.125}
