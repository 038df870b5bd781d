"""A task function with all that a sweep may ask of it."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_hpo.objective import objective
from cifar_hpo.task import HOOKS, Task, as_task
from cifar_hpo.tracked import IMPORTS, Tracked
from cifar_hpo.workers.leaving import LeavingResult

CONFIG = OmegaConf.create({"x": 1})
assert isinstance(CONFIG, DictConfig)


def test_a_plain_function_runs_and_its_hooks_do_nothing() -> None:
    task = as_task(lambda config: config.x)
    assert task(CONFIG) == 1
    assert task.run(CONFIG, "checked") == 1
    assert task.validate(CONFIG) is CONFIG
    assert task.prepare(CONFIG) == ""
    assert task.cost(CONFIG) is None
    assert task.measure(CONFIG) == {}
    assert task.default_metric(CONFIG) == "value"
    assert task.own_metrics(CONFIG) == {}
    for nothing in (task.imports, task.metrics, task.defaults_before, task.warnings(CONFIG)):
        assert len(nothing) == 0
    assert len(task.unmeant_keys) == len(task.computes_with) == 0


def test_the_hooks_that_a_function_has_are_used() -> None:
    def function(config: DictConfig) -> int:
        return int(config.x)

    hooks: Any = function
    hooks.imports = ["json"]
    hooks.validate = dict
    hooks.cost = lambda checked: checked["x"] * 2.0
    task = as_task(function)
    assert task.imports == ["json"]
    assert task.cost(task.validate(CONFIG)) == 2.0
    assert task.run(CONFIG, None) == 1


def test_ours_has_every_hook() -> None:
    task: Task = as_task(objective)
    for hook in HOOKS:
        assert getattr(task, hook) == getattr(objective, hook), hook


def test_what_a_wrapped_function_comes_to_import_is_known_to_who_starts_workers() -> None:
    """A sweep knows that it is tracked after its launcher was given the task function."""

    def function(config: DictConfig) -> int:
        return int(config.x)

    hooks: Any = function
    hooks.imports = ["json"]
    tracked = Tracked(function)
    leaving = LeavingResult(tracked)
    assert list(as_task(leaving).imports) == ["json"]
    tracked.turn_on()
    assert list(as_task(leaving).imports) == ["json", *IMPORTS]
