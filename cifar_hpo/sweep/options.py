"""The options of a sweep, settled and validated: `settle_options`.

What is out of range, missing or without end is refused here, before anything heavy is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpo.config.fields import check_values
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
from cifar_hpo.metrics import without_spread
from cifar_hpo.study.space import Space
from cifar_hpo.sweep.constraints import Constraint

STUDY_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
LIMITS = ("n_trials", "timeout", "target", "patience")
"""Options of which a sweep without an end of its own needs one."""

Options = dict[str, Any]
"""The options of `config.sweep.Sweeper` as plain values."""


def settle_options(
    options: Options, space: Space, launcher: Mapping[str, Any], metrics: Sequence[str]
) -> Options:
    """The options with the sampler that `auto` stands for.

    launcher: its options, where it is ours. metrics: those that a trial comes to; empty where
    nobody can say. Raises ConfigError for the first that is wrong.
    """
    _validate_ranges(options, launcher)
    _validate_name(options["study_name"])
    options = {**options, "sampler": _settled_sampler(options, space)}
    _validate_sampler(options, space)
    _validate_end(options)
    _validate_metrics(options, metrics)
    for text in options["constraints"]:
        Constraint.parse(text)
    return options


def listed(value: Any) -> list[Any]:
    """One or several, as a list."""
    return list(value) if isinstance(value, list) else [value]


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
    if name is not None and not STUDY_NAME.fullmatch(name):
        problem = f"{name[:40]!r} is no name: up to 100 letters, digits and - _ . are"
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
    if not is_grid and not any(options[limit] for limit in LIMITS):
        hint = f"say how many trials, or one of {', '.join(LIMITS[1:])}"
        raise ConfigError("hydra.sweeper.n_trials", f"this space has no end; {hint}")


def _validate_metrics(options: Options, known: Sequence[str]) -> None:
    """Metrics that are measured, a direction for each, and one to prune by."""
    metrics, directions = listed(options["metric"]), listed(options["direction"])
    for name in metrics:
        if known and without_spread(name) not in known:
            problem = f"a trial has no {name}; it has {', '.join(known)}"
            raise ConfigError("hydra.sweeper.metric", problem)
    if len(metrics) != len(directions):
        problem = f"{len(directions)} directions for {len(metrics)} metrics"
        raise ConfigError("hydra.sweeper.direction", problem)
    if len(metrics) > 1 and options["pruner"]["name"] != "none":
        problem = "a trial can't be pruned by several metrics; pruner=none"
        raise ConfigError("hydra.sweeper.pruner", problem)
