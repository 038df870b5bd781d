"""The options of a sweep, settled and validated: `settle_options`.

What is out of range, missing or without end is refused here, before anything heavy is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from cifar_hpo.config.fields import as_list, check_values
from cifar_hpo.config.sweep import (
    EXTRAS,
    PRUNER_SCHEMAS,
    SAMPLER_SCHEMAS,
    Launcher,
    Pruner,
    Sampler,
    Sweeper,
)
from cifar_hpo.errors import ConfigError
from cifar_hpo.metrics import direction_of, without_spread
from cifar_hpo.paths import STUDY_NAME
from cifar_hpo.study.space import Space
from cifar_hpo.sweep.constraints import Constraint
from cifar_hpo.task import Task

MAX_NAME_LENGTH = 100
LIMITS = ("n_trials", "timeout", "target", "patience")
"""Options of which a sweep without an end of its own needs one."""

Options = dict[str, Any]
"""The options of `config.sweep.Sweeper` as plain values."""


def settle_options(
    options: Options, space: Space, launcher: Mapping[str, Any], task: Task
) -> Options:
    """The options with the sampler that `auto` stands for, and the directions of the metrics.

    launcher: its options, where it is ours. Raises ConfigError for the first that is wrong.
    """
    _validate_ranges(options, launcher)
    _validate_name(options["study_name"])
    options = {**options, "sampler": _settled_sampler(options, space)}
    _validate_sampler(options, space)
    _validate_end(options)
    _validate_metrics(options, task)
    options["direction"] = _settled_direction(options, task)
    _validate_directions(options)
    for text in options["constraints"]:
        Constraint.parse(text)
    return options


def _validate_ranges(options: Options, launcher: Mapping[str, Any]) -> None:
    sampler, pruner = options["sampler"], options["pruner"]
    sampler_schema = SAMPLER_SCHEMAS.get(sampler["name"], Sampler)
    pruner_schema = PRUNER_SCHEMAS.get(pruner["name"], Pruner)
    check_values("hydra.sweeper", Sweeper, options)
    check_values("hydra.sweeper.sampler", sampler_schema, sampler)
    check_values("hydra.sweeper.pruner", pruner_schema, pruner)
    if "n_workers" in launcher:
        check_values("hydra.launcher", Launcher, launcher)


def _validate_name(name: str | None) -> None:
    if name is None:
        return
    if not STUDY_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        problem = f"{name[:40]!r} is no name: up to 100 letters, digits and - _ . @ are"
        raise ConfigError("hydra.sweeper.study_name", problem)


def _settled_sampler(options: Options, space: Space) -> dict[str, Any]:
    """A grid where there is an end to it and no other budget, else TPE; unless one is named."""
    sampler: dict[str, Any] = options["sampler"]
    if sampler["name"] != "auto":
        return sampler
    is_grid = space.is_finite and not options["n_trials"]
    return {**sampler, "name": "grid" if is_grid else "tpe"}


def _validate_sampler(options: Options, space: Space) -> None:
    name = options["sampler"]["name"]
    packages = EXTRAS.get(name, ())
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        needed = f"{name} needs {' and '.join(missing)}, which is not installed"
        hint = f"pip install 'cifar_hpo[{name}]'"
        raise ConfigError("hydra.sweeper.sampler", f"{needed}; {hint}")
    if name == "grid" and not space.is_finite:
        hint = "give choices, or another sampler and hydra.sweeper.n_trials"
        raise ConfigError("hydra.sweeper.sampler", f"a grid has no intervals; {hint}")


def _validate_end(options: Options) -> None:
    is_grid = options["sampler"]["name"] == "grid"
    if not is_grid and all(options[limit] is None for limit in LIMITS):
        hint = f"say how many trials, or one of {', '.join(LIMITS[1:])}"
        raise ConfigError("hydra.sweeper.n_trials", f"this space has no end; {hint}")


def _validate_metrics(options: Options, task: Task) -> None:
    """Metrics that trials come to, and one of which a pruner gets values."""
    metrics, pruner = as_list(options["metric"]), options["pruner"]["name"]
    if not metrics:
        raise ConfigError("hydra.sweeper.metric", "none; a study compares trials by one or more")
    for name in metrics:
        if task.metrics and without_spread(name) not in task.metrics:
            problem = f"a trial has no {name}; it has {', '.join(task.metrics)}"
            raise ConfigError("hydra.sweeper.metric", problem)
    if pruner == "none":
        return
    if len(metrics) > 1:
        problem = "a trial can't be pruned by several metrics; pruner=none"
        raise ConfigError("hydra.sweeper.pruner", problem)
    if task.epoch_metrics and metrics[0] not in task.epoch_metrics:
        by_epoch = ", ".join(task.epoch_metrics)
        problem = f"{metrics[0]} has no value by epoch to prune by; {by_epoch} have, or pruner=none"
        raise ConfigError("hydra.sweeper.pruner", problem)


def _settled_direction(options: Options, task: Task) -> str | list[str]:
    """The direction that is given, else each metric's own where the task knows its metrics."""
    direction: str | list[str] | None = options["direction"]
    if direction is not None:
        return direction
    metric = options["metric"]
    directions = [direction_of(name) if task.metrics else "maximize" for name in as_list(metric)]
    return directions if isinstance(metric, list) else directions[0]


def _validate_directions(options: Options) -> None:
    metrics, directions = as_list(options["metric"]), as_list(options["direction"])
    if len(metrics) != len(directions):
        problem = f"{len(directions)} directions for {len(metrics)} metrics"
        raise ConfigError("hydra.sweeper.direction", problem)
