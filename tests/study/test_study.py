"""Studies: every sampler in every kind of space, budgets, accounting, resuming; no training, real
SQLite."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins

from cifar_hpo.config import sweep as schema
from cifar_hpo.errors import ConfigError, StudyError
from cifar_hpo.paths import CONF
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.space import Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED, Progress, TrialResult, TrialSpec

Objective = Callable[[TrialSpec], TrialResult]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def space() -> Callable[..., Space]:
    Plugins.instance()
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(f"file://{CONF}"))
    return lambda *overrides, **conditions: Space.parse(overrides, {}, loader, conditions)


def options(sampler: str = "grid", **changes: Any) -> dict[str, Any]:
    given = {
        name: field.default
        for name, field in schema.Sweeper.__dataclass_fields__.items()
        if name not in ("params", "defaults")
    }
    chosen = vars(schema.SAMPLER_SCHEMAS.get(sampler, schema.Sampler)(name=sampler)) | {
        "seed": changes.pop("seed", 0)
    }
    empty = {
        "enqueue": [],
        "constraints": [],
        "conditions": {},
        "sampler": chosen,
        "pruner": {"name": "none"},
    }
    return given | empty | {"metric": "y"} | changes


def finished(value: float, **more: float) -> TrialResult:
    return TrialResult(FINISHED, {"y": value, **more})


def work(study: Study, objective: Objective) -> list[TrialSpec]:
    """One trial after the other, to the end."""
    done = []
    for spec in study.specs():
        assert spec, "nothing runs, so nothing can be waited for"
        study.tell(spec, objective(spec))
        done.append(spec)
    return done


def swept(
    space: Space, objective: Objective, name: str = "s", **given: Any
) -> tuple[list[TrialSpec], list[FinishedTrial]]:
    with Study(name, space, options(**given), {"a": 1}) as study:
        return work(study, objective), study.ranking()


KINDS = {
    "choices": ["model.filters=4,8,16", "model.activation=relu,elu"],
    "range": ["model.filters=range(4,33,4)", "model.depth=range(1,4)"],
    "interval": ["model.dropout=interval(0,0.5)", "model.dense_units=interval(8,64)"],
    "log": [
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
        "model.dense_units=tag(log,interval(8,64))",
    ],
    "lists and groups": ["optimizer=adam,sgd", "model.filters=[4,8],[8,16]"],
    "mixed": [
        "optimizer=glob(*)",
        "model.depth=range(1,4)",
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
        "training.epochs=3",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cmaes", "nsgaii", "qmc"])
def test_every_sampler_in_every_kind_of_space(
    sampler: str, kind: str, space: Callable[..., Space]
) -> None:
    if missing := [
        package
        for package in schema.EXTRAS.get(sampler, ())
        if not importlib.util.find_spec(package)
    ]:
        pytest.skip(f"{missing} not installed")
    wanted = space(*KINDS[kind])
    rng = random.Random(0)
    done, ranking = swept(wanted, lambda spec: finished(rng.random()), sampler=sampler, n_trials=14)
    assert len(done) == min(14, wanted.size)
    assert len({spec.overrides for spec in done}) == len(done), "a configuration was tried twice"
    assert all(wanted.holds(spec.params) for spec in done)
    assert [one.value for one in ranking] == sorted((one.value for one in ranking), reverse=True)


def test_a_seed_makes_a_sequential_study_repeatable(space: Callable[..., Space]) -> None:
    for sampler in ("random", "tpe", "nsgaii"):
        runs = []
        for name in ("one", "other"):
            done, _ = swept(
                space(*KINDS["mixed"]),
                lambda spec: finished(float(len(str(spec.params)))),
                f"{sampler}-{name}",
                sampler=sampler,
                n_trials=15,
            )
            runs.append([spec.overrides for spec in done])
        assert runs[0] == runs[1]


def test_tpe_beats_random_in_the_median_of_ten_seeds(space: Callable[..., Space]) -> None:
    def branin(spec: TrialSpec) -> TrialResult:
        """Least 0.397887, at three places (Dixon and Szegö 1978)."""
        x, y = float(spec.params["+x"]), float(spec.params["+y"])
        value = (
            (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
            + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x)
            + 10
        )
        return finished(value)

    best: dict[str, list[float]] = {"tpe": [], "random": []}
    for sampler, values in best.items():
        for seed in range(10):
            given = {
                "sampler": sampler,
                "seed": seed,
                "n_trials": 40,
                "direction": "minimize",
                "storage": "memory",
            }
            _, ranking = swept(
                space("+x=interval(-5.0,10.0)", "+y=interval(0.0,15.0)"), branin, **given
            )
            values.append(ranking[0].value or 0)
    assert statistics.median(best["tpe"]) < statistics.median(best["random"])


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
    given = {"metric": ["y", "size"], "direction": ["maximize", "minimize"]}
    objective = lambda spec: finished(points[spec.number][0], size=points[spec.number][1])  # noqa: E731
    _, ranking = swept(space("+x=range(0,5)"), objective, **given)
    assert {one.number for one in ranking[:3]} == {0, 3, 4}
    study = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db")
    assert {trial.number for trial in study.best_trials} == {0, 3, 4}


def test_known_good_configurations_come_first(space: Callable[..., Space]) -> None:
    good = [{"model.filters": 16, "model.activation": "elu"}, {"model.filters": 8}]
    for sampler in ("grid", "tpe"):
        done, _ = swept(
            space(*KINDS["choices"]),
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
        Study("x", space(*KINDS["choices"]), options(enqueue=[{"model.filters": 5}]), {})


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
        Study("third", narrow, options("tpe", n_trials=3, warm_start="nowhere"), {})


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


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("range(0,3)", "0,1,2,5"),
        ("0,1,2", "range(0,4)"),
        ("range(0,3)", "range(0,7,2)"),
        ("choice(0)", "range(0,2)"),
    ],
)
def test_a_grid_grows_however_it_is_written(
    first: str, then: str, space: Callable[..., Space]
) -> None:
    before, _ = swept(space(f"+x={first}"), lambda spec: finished(0))
    wanted = space(f"+x={then}")
    after, _ = swept(wanted, lambda spec: finished(0))
    cells = [cell["+x"] for cell in wanted.cells()]
    assert [spec.params["+x"] for spec in after] == [
        x for x in cells if x not in {spec.params["+x"] for spec in before}
    ]
    assert len(after) in (1, 2)


def test_a_study_of_whole_numbers_takes_no_others(space: Callable[..., Space]) -> None:
    swept(space("+x=range(0,3)"), lambda spec: finished(0))
    with pytest.raises(
        StudyError,
        match=r"study s has \+x as whole numbers; choose another hydra\.sweeper\.study_name",
    ):
        Study("s", space("+x=0,1.5"), options(), {"a": 1})


def test_data_that_earlier_versions_named_twice_is_the_same(space: Callable[..., Space]) -> None:
    with Study("s", space("+x=1"), options(), {"data": ["b", "a", "a"]}):
        pass
    with Study("s", space("+x=1"), options(), {"data": ["a", "b"]}) as study:
        assert study.name == "s"


def test_a_sampler_in_a_space_of_very_many_cells_starts_at_once(
    space: Callable[..., Space],
) -> None:
    wanted = space(*(f"+x{place}=range(0,10)" for place in range(12)))
    with Study("s", wanted, options("random", timeout=3600), {}) as study:
        assert study.planned() is None
        assert wanted.holds(next(one for one in study.specs() if one).params)


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

    with Study("s", space("+x=1,2"), options(), {}) as study:
        for spec in study.specs():
            if spec:
                study.tell(spec, dies_once(spec))
        assert [one.state for one in study.told()] == [FINISHED, FINISHED]
    assert attempts == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_an_interrupted_trial_waits_and_goes_on_under_its_number(
    space: Callable[..., Space],
) -> None:
    wanted = space("+x=1,2,3")
    with Study("s", wanted, options(), {}) as study:
        specs: Iterator[Any] = study.specs()
        first, second = next(specs), next(specs)
        study.tell(first, finished(1))
    with Study("s", wanted, options(), {}) as study:
        taken = work(study, lambda spec: finished(2))
        assert [(spec.number, spec.overrides, spec.attempt) for spec in taken] == [
            (1, second.overrides, 1),
            (2, ("+x=3",), 0),
        ]
        assert len(study.told()) == 3
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
    study = Study("s", wanted, options(), {})
    spec = next(study.specs())
    assert spec

    def died(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(study, "_close", died)
    with pytest.raises(SystemExit):
        study.tell(spec, finished(7))
    study._lock.close()  # noqa: SLF001  as the end of its process would
    done, ranking = _requeued(wanted)
    assert [one.params for one in done] == [{"+x": 2}]
    assert ranking[0].value == 7


def _requeued(wanted: Space) -> tuple[list[TrialSpec], list[FinishedTrial]]:
    with Study("s", wanted, options(), {}) as study:
        return work(study, lambda spec: finished(1)), study.ranking()


def test_pruned_and_killed_outcomes(space: Callable[..., Space]) -> None:
    states = {1: PRUNED, 2: KILLED, 3: FINISHED}
    objective = lambda spec: TrialResult(states[int(spec.params["+x"])], {"y": 1.0})  # noqa: E731
    _, ranking = swept(space("+x=1,2,3"), objective)
    assert [one.state for one in ranking] == [FINISHED, PRUNED, KILLED]
    stored = optuna.load_study(study_name="s", storage="sqlite:///mlruns/studies.db").trials
    assert [trial.state.name for trial in stored] == ["PRUNED", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("pruner", "given"),
    [
        ("median", {"n_startup_trials": 2}),
        ("asha", {"min_resource": 1}),
        ("hyperband", {"max_resource": 8}),
        ("patient", {"patience": 1}),
    ],
)
def test_every_pruner_stops_the_bad_and_lets_the_good_end(
    pruner: str, given: dict[str, Any], space: Callable[..., Space]
) -> None:
    chosen = vars(schema.PRUNER_SCHEMAS[pruner](name=pruner)) | given
    epochs: dict[int, int] = {}

    def objective(study: Study, spec: TrialSpec) -> TrialResult:
        quality = int(spec.params["+x"])
        for epoch in range(1, 9):
            value = quality * (epoch if pruner != "patient" or quality > 5 else 9 - epoch)
            epochs[quality] = epoch
            if study.should_stop(spec, Progress(epoch, 8, float(value))):
                return TrialResult(PRUNED)
        return finished(float(quality))

    with Study("s", space("+x=9,8,7,2,1,3,0,4"), options(pruner=chosen), {}) as study:
        for spec in study.specs():
            assert spec
            study.tell(spec, objective(study, spec))
        ranking = study.ranking()
    assert ranking[0].params == {"+x": 9}
    assert epochs[9] == 8
    assert sum(epochs.values()) < 8 * 8


def test_a_duplicate_is_recognised_whatever_the_order_of_its_keys(
    space: Callable[..., Space],
) -> None:
    swept(space("+a=1,2", "+b=1,2"), lambda spec: finished(1))
    done, _ = swept(space("+b=1,2,3", "+a=1,2"), lambda spec: finished(1))
    assert sorted(spec.params["+b"] for spec in done) == [3, 3]


def test_a_garbled_storage_is_told_and_never_replaced() -> None:
    Path("mlruns").mkdir()
    Path("mlruns/studies.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StudyError, match=r"mlruns/studies\.db can't be opened"):
        Study("s", Space({}), options(), {})
    assert Path("mlruns/studies.db").read_bytes() == b"not a database" * 100


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(StudyError) as refused:
        Study("s", Space({}), options(storage="postgresql://me:secret@127.0.0.1:9/db"), {})
    assert "secret" not in str(refused.value)
