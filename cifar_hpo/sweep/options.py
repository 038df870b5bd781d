"""The options of a sweep: `validate_forms` says whether they are of the right form,
`settle_options` settles and validates them.

What is out of range, missing or without end is refused here, before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpo.config.fields import as_list, check_values
from cifar_hpo.config.sweep import (
    EXTRAS,
    OF_HYDRA_OPTUNA_SWEEPER,
    PRUNER_SCHEMAS,
    SAMPLER_SCHEMAS,
    Final,
    Pruner,
    Replicas,
    Sampler,
    Sweeper,
    launcher_schema,
)
from cifar_hpo.errors import ConfigError
from cifar_hpo.metrics import direction_of, likely_direction, without_spread
from cifar_hpo.paths import IN_MEMORY, STUDY_NAME
from cifar_hpo.study import listed_cells
from cifar_hpo.study.space import Space
from cifar_hpo.sweep.constraints import Constraint
from cifar_hpo.task import OwnMetric, Task
from cifar_hpo.trial import PAUSING

log = logging.getLogger(__name__)

MAX_NAME_LENGTH = 100
VALUE = "value"
"""What a number is called that a task returns."""

LIMITS = ("n_trials", "timeout", "target", "patience")
"""Options of which a sweep without an end of its own needs one."""

DEFAULT_TOP = 3
"""Configurations of a search in its final stage."""

CONFIGURATIONS = "[{model.filters: 8}]"

Options = dict[str, Any]
"""The options of `config.sweep.Sweeper` as plain values."""


def without_foreign_keys(options: Options) -> Options:
    """The options without the keys of another sweeper that schemas take.

    Raises ConfigError where one of them is given, with what to write in its place.
    """
    own = dict(options)
    for path, instead in OF_HYDRA_OPTUNA_SWEEPER.items():
        part, _, key = path.rpartition(".")
        if part and not isinstance(own[part], dict):
            continue
        given = dict(own[part]) if part else own
        if given.pop(key, None) is not None:
            raise ConfigError(f"hydra.sweeper.{path}", f"there is no such option; {instead}")
        if part:
            own[part] = given
    return own


def validate_forms(options: Options) -> None:
    """Raise ConfigError for the first option that is a list where a text belongs, or the like."""
    _refuse_unknown("hydra.sweeper", options, Sweeper)
    for part, schemas in (("sampler", SAMPLER_SCHEMAS), ("pruner", PRUNER_SCHEMAS)):
        _validate_choice_of_group(part, options[part], schemas)
    for name in ("metric", "direction"):
        _validate_names(name, options[name])
    example = "write {optimizer.momentum: 'optimizer=sgd'}"
    for key, condition in _dict_of("conditions", options["conditions"], example).items():
        needed, sign, _ = condition.partition("=") if isinstance(condition, str) else ("", "", "")
        if not needed or not sign:
            problem = f"{condition!r} is no condition; {example}"
            raise ConfigError(f"hydra.sweeper.conditions.{key}", problem)
    _dict_of("params", options["params"], "write {model.filters: '4,8'}")
    _validate_configurations(options)
    for text in _list_of("constraints", options["constraints"], "write ['parameters <= 2000000']"):
        if not isinstance(text, str):
            raise ConfigError("hydra.sweeper.constraints", f"{text!r} is no constraint")
    _validate_form_of_replicas(options["replicas"])
    _validate_form_of_final(options["final"])
    for key in _list_of("nuisance", options["nuisance"], "write [optimizer.learning_rate]"):
        if not isinstance(key, str):
            raise ConfigError("hydra.sweeper.nuisance", f"{key!r} is no key")
    target = options["target"]
    if target is not None and not math.isfinite(target):
        raise ConfigError("hydra.sweeper.target", f"{target!r} is never reached; give a number")


def _validate_form_of_replicas(given: Any) -> None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return
    if not isinstance(given, dict):
        problem = f"{given!r} is no number of seeds; write {{least: 2, most: 16}}, or 5"
        raise ConfigError("hydra.sweeper.replicas", problem)
    _refuse_unknown("hydra.sweeper.replicas", given, Replicas)


def _validate_form_of_final(given: Any) -> None:
    if given is None:
        return
    path, example = "hydra.sweeper.final", "write {top: 3, replicas: 5}"
    if not isinstance(given, dict):
        raise ConfigError(path, f"{given!r} is no mapping; {example}")
    _refuse_unknown(path, given, Final)
    if not isinstance(given.get("set", {}), dict):
        problem = f"{given['set']!r} is no mapping; write {{training: {{epochs: 30}}}}"
        raise ConfigError(f"{path}.set", problem)
    if not isinstance(given.get("base"), bool | None):
        raise ConfigError(f"{path}.base", f"{given['base']!r} is neither true nor false")


def _validate_configurations(options: Options) -> None:
    """Lists of configurations; an empty cell is the config as it is."""
    for option in ("enqueue", "cells"):
        path = f"hydra.sweeper.{option}"
        for given in _list_of(option, options[option], f"write {CONFIGURATIONS}"):
            is_cell = option == "cells" and given == {}
            if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
                raise ConfigError(path, f"{given!r} is no configuration; write {CONFIGURATIONS}")
            if not given and not is_cell:
                raise ConfigError(path, f"{given!r} is no configuration; write {CONFIGURATIONS}")


def _validate_choice_of_group(part: str, given: Any, schemas: Mapping[str, type]) -> None:
    """A sampler or pruner is chosen as a group, whose options then lie beneath it."""
    path = f"hydra.sweeper.{part}"
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str):
        choice = given if isinstance(given, str) and given != "???" else "NAME"
        problem = f"{given!r} is none; choose one by hydra/sweeper/{part}={choice}"
        raise ConfigError(path, problem)
    _refuse_unknown(path, given, schemas.get(name, Sampler if part == "sampler" else Pruner))


def _refuse_unknown(path: str, given: Mapping[str, Any], schema: type) -> None:
    known = {field.name for field in dataclasses.fields(schema)}
    for key in given:
        if key not in known:
            raise ConfigError(f"{path}.{key}", "there is no such option; see --help")


def _validate_names(option: str, given: Any) -> None:
    """A text or a list of different texts; null stands for the task's own."""
    names = given if isinstance(given, list) else [given]
    for name in names:
        is_default = given is None
        if not is_default and (not isinstance(name, str) or not name):
            raise ConfigError(f"hydra.sweeper.{option}", f"{name!r} is no {option}; give its name")
    if option == "metric" and len(set(names)) < len(names):
        raise ConfigError("hydra.sweeper.metric", f"{', '.join(names)}: one stands there twice")


def _dict_of(option: str, given: Any, hint: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f"hydra.sweeper.{option}", f"{given!r} is no mapping; {hint}")
    return given


def _list_of(option: str, given: Any, hint: str) -> list[Any]:
    if not isinstance(given, list):
        raise ConfigError(f"hydra.sweeper.{option}", f"{given!r} is no list; {hint}")
    return given


def settle_options(
    options: Options, space: Space, launcher: Mapping[str, Any], task: Task
) -> Options:
    """The options with the sampler that `auto` stands for, and what a number is called that a task
    returns; metrics and their directions are left for `settle_metrics`.

    launcher: its options, where it is ours. Raises ConfigError for the first that is wrong.
    """
    _validate_ranges(options, launcher)
    _validate_name(options["study_name"])
    options = {**options, "sampler": _settled_sampler(options, space)}
    options["metric"] = _settled_metric(options, task)
    options["replicas"] = _settled_replicas(options)
    options["final"] = _settled_final(options)
    _validate_sampler(options, space)
    _validate_end(options)
    _validate_pausing(options, launcher)
    for text in options["constraints"]:
        Constraint.parse(text)
    return options


def settle_metrics(
    options: Options, task: Task, own_metrics: Sequence[Mapping[str, OwnMetric]] = ({},)
) -> Options:
    """The options with the directions of their metrics.

    own_metrics: what configurations have beside the task's metrics, for each of which it is known.
    Raises ConfigError for metrics that trials do not come to, and directions that are not theirs.
    """
    metrics = as_list(options["metric"])
    if not metrics:
        raise ConfigError("hydra.sweeper.metric", "none; a study compares trials by one or more")
    for own in own_metrics:
        _validate_metrics(metrics, task, own)
        _validate_pruner(options, task, own)
    directions = _own_directions(metrics, task, own_metrics)
    options = {**options, "direction": _settled_direction(options, directions)}
    _validate_directions(options)
    if task.metrics:
        _warn_of_directions(options, directions)
    return options


def _validate_ranges(options: Options, launcher: Mapping[str, Any]) -> None:
    sampler, pruner = options["sampler"], options["pruner"]
    sampler_schema = SAMPLER_SCHEMAS.get(sampler["name"], Sampler)
    pruner_schema = PRUNER_SCHEMAS.get(pruner["name"], Pruner)
    check_values("hydra.sweeper", Sweeper, options)
    check_values("hydra.sweeper.sampler", sampler_schema, sampler)
    check_values("hydra.sweeper.pruner", pruner_schema, pruner)
    schema = launcher_schema(launcher)
    if schema:
        _refuse_unknown("hydra.launcher", launcher, schema)
        check_values("hydra.launcher", schema, launcher)


def _settled_replicas(options: Options) -> dict[str, int] | None:
    """The least and the most seeds of a configuration; None where nobody asks for any.

    Raises ConfigError where they are out of range, or the sweep has no verdict to come to.
    """
    given, path = options["replicas"], "hydra.sweeper.replicas"
    if given is None:
        return None
    asked = {"least": given, "most": given} if isinstance(given, int) else given
    replicas = {**dataclasses.asdict(Replicas()), **asked}
    check_values(path, Replicas, replicas)
    if replicas["least"] > replicas["most"]:
        problem = f"least is {replicas['least']}, more than most, {replicas['most']}"
        raise ConfigError(path, problem)
    if options["sampler"]["name"] != "grid":
        problem = f"a grid's configurations have seeds; {options['sampler']['name']} draws others"
        raise ConfigError(path, f"{problem}; list them in a study of their own")
    if isinstance(options["metric"], list) and len(options["metric"]) > 1:
        raise ConfigError(path, "none is the best by several metrics; give one")
    if options["pruner"]["name"] != "none":
        problem = "a configuration is judged by seeds that all came to their end"
        raise ConfigError(path, f"{problem}; hydra/sweeper/pruner=none")
    return replicas


def _settled_final(options: Options) -> dict[str, Any] | None:
    """The final stage with all that is not said; None where there is none.

    Raises ConfigError where there can't be one.
    """
    given, path = options["final"], "hydra.sweeper.final"
    if given is None and not options["nuisance"]:
        return None
    has_nuisance = bool(options["nuisance"])
    final = {**dataclasses.asdict(Final()), **(given or {})}
    check_values(path, Final, final)
    if final["top"] is None and not has_nuisance:
        final["top"] = DEFAULT_TOP
    if final["base"] is None and has_nuisance:
        final["base"] = False
    final["set"] = _without_nesting(final["set"])
    if isinstance(options["metric"], list) and len(options["metric"]) > 1:
        raise ConfigError(path, "none is the best by several metrics; give one")
    if options["storage"] == IN_MEMORY:
        problem = "a study in memory is gone before it"
        raise ConfigError(path, f"{problem}; leave out hydra.sweeper.storage")
    return final


def _without_nesting(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their whole keys: {training: {epochs: 30}} is {training.epochs: 30}, and a command
    can override it. What comes later counts."""
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            within = _without_nesting(value)
            flat |= {f"{key}.{rest}": inner for rest, inner in within.items()}
        else:
            flat[key] = value
    return flat


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
    needs_grid = bool(space.listed or options["replicas"])
    is_grid = space.is_finite and (not options["n_trials"] or needs_grid)
    return {**sampler, "name": "grid" if is_grid else "tpe"}


def _validate_sampler(options: Options, space: Space) -> None:
    name = options["sampler"]["name"]
    packages = EXTRAS.get(name, ())
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        needed = f"{name} needs {' and '.join(missing)}, which is not installed"
        hint = f"pip install 'cifar_hpo[{name}]'"
        raise ConfigError("hydra.sweeper.sampler", f"{needed}; {hint}")
    if space.listed and (name != "grid" or not space.is_finite):
        wrong = (
            "intervals" if name in ("grid", "tpe") and not space.is_finite else f"sampler={name}"
        )
        hint = "list them, or make them the files of a group and choose among these"
        raise ConfigError(listed_cells.PATH, f"cells are a grid, which has no {wrong}; {hint}")
    if name == "grid" and not space.is_finite:
        hint = "give choices, or another sampler and hydra.sweeper.n_trials"
        raise ConfigError("hydra.sweeper.sampler", f"a grid has no intervals; {hint}")


def _validate_end(options: Options) -> None:
    is_grid = options["sampler"]["name"] == "grid"
    if not is_grid and all(options[limit] is None for limit in LIMITS):
        hint = f"say how many trials, or one of {', '.join(LIMITS[1:])}"
        raise ConfigError("hydra.sweeper.n_trials", f"this space has no end; {hint}")


def knows_metrics(options: Options, task: Task) -> bool:
    """Whether each configuration has all metrics of a study; true also where a task can't say."""
    names = as_list(options["metric"])
    return not task.metrics or all(without_spread(name) in task.metrics for name in names)


def _validate_metrics(
    metrics: Sequence[str], task: Task, own_metrics: Mapping[str, OwnMetric]
) -> None:
    """Raise ConfigError for one that trials of a configuration do not come to."""
    known = [*own_metrics, *task.metrics]
    for name in metrics:
        if task.metrics and without_spread(name) not in known:
            problem = f"a trial has no {name}; it has {', '.join(dict.fromkeys(known))}"
            raise ConfigError("hydra.sweeper.metric", problem)


def _validate_pruner(options: Options, task: Task, own_metrics: Mapping[str, OwnMetric]) -> None:
    """Raise ConfigError where a pruner would get no values."""
    metrics = as_list(options["metric"])
    if options["pruner"]["name"] == "none":
        return
    if len(metrics) > 1:
        problem = "a trial can't be pruned by several metrics; hydra/sweeper/pruner=none"
        raise ConfigError("hydra.sweeper.pruner", problem)
    own = [name for name, metric in own_metrics.items() if metric.by_epoch]
    known = list(dict.fromkeys([*own, *task.epoch_metrics]))
    if task.epoch_metrics and metrics[0] not in known:
        by_epoch = ", ".join(known)
        problem = f"{metrics[0]} has no value by epoch to prune by; {by_epoch} have"
        raise ConfigError("hydra.sweeper.pruner", f"{problem}, or hydra/sweeper/pruner=none")


def _validate_pausing(options: Options, launcher: Mapping[str, Any]) -> None:
    """Raise ConfigError where trials could not pause and go on as their pruner has it."""
    name = options["pruner"]["name"]
    if name in PAUSING and launcher_schema(launcher) is None:
        problem = f"{name} lets trials pause, which other launchers can't"
        hint = "hydra/launcher=workers, or hydra/sweeper/pruner=asha"
        raise ConfigError("hydra.sweeper.pruner", f"{problem}; {hint}")


def _settled_metric(options: Options, task: Task) -> str | list[str] | None:
    """The metric that is given, else what a number is called that a task returns; for several
    directions as many of these. None where the task knows its metrics, and says which."""
    metric: str | list[str] | None = options["metric"]
    if metric is not None or task.metrics:
        return metric
    direction = options["direction"]
    if isinstance(direction, list) and len(direction) > 1:
        return [f"{VALUE}_{place}" for place in range(len(direction))]
    return VALUE


def _own_directions(
    metrics: Sequence[str], task: Task, own_metrics: Sequence[Mapping[str, OwnMetric]]
) -> list[str]:
    """The direction that each metric has by itself."""
    own: dict[str, str] = {}
    for of_configuration in reversed(own_metrics):  # the first one's count
        own |= {name: metric.direction for name, metric in of_configuration.items()}
    directions = []
    for name in metrics:
        if name in own and name not in task.metrics:
            directions.append(own[name])
        else:
            directions.append(direction_of(name) if task.metrics else likely_direction(name))
    return directions


def _settled_direction(options: Options, own: Sequence[str]) -> str | list[str]:
    """The direction that is given, else each metric's own."""
    direction: str | list[str] | None = options["direction"]
    if direction is not None:
        return direction
    return list(own) if isinstance(options["metric"], list) else own[0]


def _validate_directions(options: Options) -> None:
    metrics, directions = as_list(options["metric"]), as_list(options["direction"])
    if len(metrics) != len(directions):
        problem = f"{len(directions)} directions for {len(metrics)} metrics"
        raise ConfigError("hydra.sweeper.direction", problem)


def _warn_of_directions(options: Options, own: Sequence[str]) -> None:
    """Say where a metric is to go the other way than it does by itself."""
    metrics, directions = as_list(options["metric"]), as_list(options["direction"])
    for name, direction, own_direction in zip(metrics, directions, own, strict=True):
        if direction != own_direction:
            told = f"{direction} {name}, as you say; its own direction is {own_direction}"
            log.warning("hydra.sweeper.direction: %s", told)
