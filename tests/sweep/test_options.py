"""The options of a sweep, settled and validated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from cifar_hpo.config.sweep import OF_HYDRA_OPTUNA_SWEEPER, Sweeper
from cifar_hpo.errors import ConfigError
from cifar_hpo.study.space import Choices, Interval, Space
from cifar_hpo.sweep.options import (
    Options,
    settle_metrics,
    settle_options,
    validate_forms,
    without_foreign_keys,
)
from cifar_hpo.task import OwnMetric, Task, as_task

FINITE = Space({"x": Choices({1: "1", 2: "2"})})
ENDLESS = Space({"x": Interval(0.1, 1, log=False)})


def options(**given: Any) -> Options:
    """The defaults, with some given."""
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(Sweeper()))
    return {**defaults, "sampler": {"name": "auto"}, "pruner": {"name": "none"}, **given}


def task(metrics: tuple[str, ...] = (), epoch_metrics: tuple[str, ...] = ()) -> Task:
    """One that knows these metrics."""

    def function(config: DictConfig) -> float:
        return float(config.x)

    hooks: Any = function
    hooks.metrics, hooks.epoch_metrics = metrics, epoch_metrics
    return as_task(function)


def settle(
    space: Space = FINITE,
    metrics: tuple[str, ...] = (),
    own_metrics: Sequence[Mapping[str, OwnMetric]] = ({},),
    **given: Any,
) -> Options:
    known = task(metrics, metrics[:2])
    settled = settle_options(options(**given), space, {}, known)
    return settled if settled["metric"] is None else settle_metrics(settled, known, own_metrics)


@pytest.mark.parametrize(
    ("space", "n_trials", "sampler"),
    [(FINITE, None, "grid"), (FINITE, 5, "tpe"), (ENDLESS, 5, "tpe")],
)
def test_auto_is_a_grid_where_there_is_an_end_and_no_budget(
    space: Space, n_trials: int | None, sampler: str
) -> None:
    given = options(n_trials=n_trials)
    assert settle_options(given, space, {}, task())["sampler"] == {"name": sampler}
    assert given["sampler"] == {"name": "auto"}, "what was given stays as it was"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials"),
        ({"study_name": "a/b"}, "hydra.sweeper.study_name"),
        ({"study_name": "x" * 101}, "hydra.sweeper.study_name"),
        ({"sampler": {"name": "best"}}, "hydra.sweeper.sampler.name"),
        ({"sampler": {"name": "tpe"}}, "hydra.sweeper.n_trials"),
        ({"pruner": {"name": "median", "interval_steps": 0}}, "hydra.sweeper.pruner"),
        ({"metric": "val_acuracy"}, "hydra.sweeper.metric"),
        ({"metric": []}, "hydra.sweeper.metric"),
        ({"metric": ["loss", "val_loss"], "direction": "minimize"}, "hydra.sweeper.direction"),
        ({"metric": "val_accuracy", "pruner": {"name": "median"}}, "hydra.sweeper.pruner"),
        (
            {
                "metric": ["loss", "val_loss"],
                "direction": ["minimize", "minimize"],
                "pruner": {"name": "median"},
            },
            "hydra.sweeper.pruner",
        ),
        ({"constraints": ["loss"]}, "hydra.sweeper.constraints"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(given: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settle(metrics=("loss", "val_loss", "val_accuracy"), **given)
    assert str(refused.value).startswith(path)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"replicas": 3.5}, "3.5 is no number of seeds; write"),
        ({"replicas": {"least": 3, "most": 2}}, "least is 3, more than most, 2"),
        ({"replicas": {"lest": 3}}, "lest: there is no such option"),
        ({"replicas": 1}, "1 is out of range: must be ≥ 2"),
        ({"replicas": {"most": 2.5}}, "2.5 is not a whole number"),
        ({"replicas": 2, "metric": ["loss", "val_loss"]}, "none is the best by several metrics"),
        ({"replicas": 2, "metric": "loss", "pruner": {"name": "median"}}, "came to their end"),
        ({"replicas": 2, "sampler": {"name": "random"}, "n_trials": 2}, "random draws others"),
    ],
)
def test_seeds_that_can_t_be_added_are_refused(given: dict[str, Any], problem: str) -> None:
    def validate() -> None:
        validate_forms(options(**given))
        settle(metrics=("loss", "val_loss"), **given)

    with pytest.raises(ConfigError, match=re.escape(problem)):
        validate()


def test_seeds_are_a_grid_s_and_the_least_and_the_most_are_known() -> None:
    settled = settle(replicas={"most": 5}, n_trials=7)
    assert settled["sampler"]["name"] == "grid"
    assert settled["replicas"] == {"least": 2, "most": 5}
    assert settle(replicas=3)["replicas"] == {"least": 3, "most": 3}


def test_a_grid_of_an_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="a grid has no intervals"):
        settle(ENDLESS, sampler={"name": "grid"})


def test_the_launchers_options_are_held_against_their_ranges_where_it_is_ours() -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.n_workers"):
        settle_options(options(), FINITE, {"n_workers": 0}, task())
    assert settle_options(options(), FINITE, {"n_jobs": 0}, task())


def test_a_metric_s_spread_is_a_metric_too_and_any_where_nobody_can_say() -> None:
    assert settle(metrics=("val_loss",), metric="val_loss_std", direction="minimize")
    assert settle(metric="whatever")


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val_accuracy", "maximize"),
        ("val_loss", "minimize"),
        ("val_accuracy_std", "minimize"),
        (["val_accuracy", "parameters"], ["maximize", "minimize"]),
    ],
)
def test_known_metrics_have_a_direction_of_their_own(
    metric: Any, direction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    known = ("val_accuracy", "val_loss", "parameters")
    assert settle(metrics=known, metric=metric)["direction"] == direction
    assert not caplog.records
    given = "maximize" if isinstance(metric, str) else ["maximize", "maximize"]
    assert settle(metrics=known, metric=metric, direction=given)["direction"] == given
    assert len(caplog.records) == (direction != given)
    assert all("own direction is minimize" in text for text in caplog.messages)


def test_without_a_metric_it_is_left_to_the_task_and_settled_then() -> None:
    known = task(("val_loss", "val_accuracy"), ("val_loss",))
    options_before = settle_options(options(metric=None), FINITE, {}, known)
    assert (options_before["metric"], options_before["direction"]) == (None, None)
    settled = settle_metrics({**options_before, "metric": "val_loss"}, known)
    assert settled["direction"] == "minimize"
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.metric: a trial has no cost"):
        settle_metrics({**options_before, "metric": "cost"}, known)


TOP2 = {
    "val_top2": OwnMetric("maximize", by_epoch=True),
    "test_top2": OwnMetric("maximize", by_epoch=False),
}
ERROR = {"val_error": OwnMetric("minimize", by_epoch=True)}


@pytest.mark.parametrize(
    ("metric", "own_metrics", "direction"),
    [
        ("val_top2", [TOP2], "maximize"),
        ("val_top2_std", [TOP2], "minimize"),
        (["val_error", "val_top2", "loss"], [TOP2 | ERROR], ["minimize", "maximize", "minimize"]),
        ("val_top2", [TOP2, TOP2 | ERROR], "maximize"),
    ],
)
def test_a_metric_that_each_configuration_brings_is_one_in_its_own_direction(
    metric: Any, own_metrics: Any, direction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    known: Any = {"metrics": ("loss", "val_loss"), "own_metrics": own_metrics, "metric": metric}
    assert settle(**known)["direction"] == direction
    given = "minimize" if isinstance(metric, str) else ["minimize"] * len(metric)
    assert settle(**known, direction=given)["direction"] == given
    assert len(caplog.records) == (direction != given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"metric": "val_top3"}, "metric: a trial has no val_top3; it has val_top2, test_top2, lo"),
        (
            {"metric": "val_error"},
            "metric: a trial has no val_error; it has val_top2, test_top2, l",
        ),
        (
            {"metric": "test_top2", "pruner": {"name": "median"}},
            "pruner: test_top2 has no value by epoch to prune by; val_top2, loss, val_loss have",
        ),
    ],
)
def test_a_metric_that_a_configuration_does_not_bring_is_refused_with_what_it_has(
    given: dict[str, Any], problem: str
) -> None:
    known: Any = {"metrics": ("loss", "val_loss"), "own_metrics": [TOP2, TOP2 | ERROR]}
    with pytest.raises(ConfigError) as refused:
        settle(**known, **given)
    assert str(refused.value).startswith(f"hydra.sweeper.{problem}")
    assert settle(**known, metric="val_top2", pruner={"name": "median"})


def test_of_a_metric_that_nobody_knows_more_is_better_but_of_losses_and_errors() -> None:
    assert settle(metric="cost")["direction"] == "maximize"
    assert settle(metric=["val_loss", "f1"])["direction"] == ["minimize", "maximize"]
    assert settle(metric="error_rate")["direction"] == "minimize"


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("mae", "minimize"),
        ("val_mae", "minimize"),
        ("rmse_test", "minimize"),
        ("test/MSE", "minimize"),
        ("val.rmse", "minimize"),
        ("maestro", "maximize"),
        ("parmse", "maximize"),
    ],
)
def test_mean_errors_are_known_by_their_short_names_as_whole_words(
    metric: str, direction: str
) -> None:
    assert settle(metric=metric)["direction"] == direction


@pytest.mark.parametrize(
    ("known", "direction", "metric"),
    [
        ((), None, "value"),
        ((), "minimize", "value"),
        ((), ["minimize", "maximize"], ["value_0", "value_1"]),
        (("val_accuracy", "loss"), None, None),
    ],
)
def test_a_study_compares_what_the_task_says_or_the_number_that_it_returns(
    known: tuple[str, ...], direction: Any, metric: Any
) -> None:
    assert settle(metrics=known, direction=direction)["metric"] == metric


@pytest.mark.parametrize("path", list(OF_HYDRA_OPTUNA_SWEEPER))
def test_a_key_of_another_sweeper_names_its_replacement(path: str) -> None:
    part, _, key = path.rpartition(".")
    given = {part: {"name": "auto", key: "optuna.samplers.TPESampler"}} if part else {key: 1}
    with pytest.raises(ConfigError, match=f"^hydra.sweeper.{path}: there is no such option; "):
        without_foreign_keys(options(**given))


def test_the_keys_of_another_sweeper_are_no_options() -> None:
    own = without_foreign_keys(options(sampler={"name": "auto", "_target_": None}))
    assert own["sampler"] == {"name": "auto"}
    assert "n_jobs" not in own


def test_zero_is_a_target() -> None:
    assert settle(ENDLESS, target=0.0, sampler={"name": "tpe"})["target"] == 0.0
