"""The final stage of a sweep: the best of a search once more, with seeds that selected nothing.

The value of the best of many is the luckiest, too. So the finalists and the base configuration are
trained again, from fresh seeds, and if asked for on more images or for longer. That is a study of
its own, NAME_final, whose cells the search gives it; the same command goes on with both.

Nuisance keys, such as the learning rate of optimizers that are compared, are those by which nothing
is compared: of each configuration without them the one at its best values is a finalist (Choi and
others, arXiv:1910.05446; Dahl and others, arXiv:2306.07179, call them so).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import OmegaConf

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.dimensions import as_written, parse_element
from cifar_hpo.study.seeds import REPLICAS, is_seed, without_seed
from cifar_hpo.study.space import Choices, Space, Value, identity
from cifar_hpo.sweep.options import MAX_NAME_LENGTH
from cifar_hpo.sweep.plan import HydraSweeper, Plan, seed_of
from cifar_hpo.trial import FAILURES
from cifar_hpo.workers.jobs import HydraLauncher

if TYPE_CHECKING:  # Optuna is loaded where a study is looked for
    import optuna

SUFFIX = "_final"
"""Follows the search's name in that of its final stage."""

FRESH = 1_000
"""The first seed of a final stage is the config's and so many more, or the next such number above
all seeds of the search."""

OF_SEARCH: dict[str, Any] = {
    "params": {},
    "conditions": {},
    "constraints": [],
    "enqueue": [],
    "warm_start": None,
    "n_trials": None,
    "timeout": None,
    "target": None,
    "patience": None,
    "sampler": {"name": "grid"},
    "pruner": {"name": "none"},
    "final": None,
    "nuisance": [],
    "fresh": False,
}
"""Options of a search that a final stage has otherwise."""

OPTION = "hydra.sweeper.final"

MAX_TRIED = 50
"""Cells of a search on which it is tried beforehand what `set` makes of them."""


class _Stage:
    """A sweeper with other options."""

    def __init__(self, sweeper: HydraSweeper, options: dict[str, Any]) -> None:
        self.options = options
        self.hydra_context: HydraContext = sweeper.hydra_context
        self.task_function: TaskFunction = sweeper.task_function
        self.launcher: HydraLauncher = sweeper.launcher


def final_plan(
    sweeper: HydraSweeper,
    search: Plan,
    name: str,
    finalists: Sequence[Mapping[str, Value]],
    used_seeds: Sequence[int] = (),
) -> Plan:
    """The plan of the final stage of a search.

    name: of the search's study. finalists: configurations of the search, without seeds; the base
    configuration comes to them, where it is asked for and is none of them. used_seeds: of the
    search. Raises ConfigError, and Hydra's errors, for what `set` makes of a config.
    """
    options = search.options["final"]
    earlier = _earlier(search, name + SUFFIX)
    key, seed = seed_of(search.space, search.composer, OPTION)
    first_seed = _first_seed(seed, used_seeds, earlier)
    overrides = _fixed(search.space, [*options["set"], key])
    for changed, value in options["set"].items():
        _, _, text = parse_element(f"{OPTION}.set.{changed}", f"{changed}={as_written(value)}")
        overrides.append(f"{changed}={text}")
    overrides.append(f"{key}={first_seed}")
    cells = [_as_cell(finalist) for finalist in finalists]
    if _takes_part(search) and not _is_base_among(search, finalists):
        cells.append({})
    stage = _Stage(
        sweeper,
        {
            **sweeper.options,
            **OF_SEARCH,
            "cells": cells,
            "study_name": name + SUFFIX,
            "metric": search.options["metric"],
            "direction": search.options["direction"],
            "replicas": options["replicas"],
            # Of its own failed trials: where it has none, it goes on as ever.
            "retry_failed": search.options["retry_failed"] and _has_failed(earlier),
        },
    )
    plan = Plan.from_command_line(stage, overrides)
    meaning = plan.meaning
    if search.composer.compose_base() is None:
        meaning = _meaning_by_search(search, meaning, options["set"])
    return dataclasses.replace(plan, is_final=True, meaning=meaning)


def _earlier(search: Plan, name: str) -> optuna.Study | None:
    """The final stage that an earlier command began; None where there is none."""
    from cifar_hpo.study.storage import latest_first, load_study, storage_if_there

    storage = storage_if_there(search.options["storage"])
    if storage is None or name not in latest_first(storage):
        return None
    return load_study(storage, name)


def _first_seed(seed: int, used_seeds: Sequence[int], earlier: optuna.Study | None) -> int:
    """The first seed of a final stage: that of the earlier one, unless the search has come to use
    its seeds since; else FRESH above the config's, or more if the search uses such."""
    from cifar_hpo.study.stored import meaning_of

    known = meaning_of(earlier.user_attrs).get("first_seed") if earlier else None
    if known is not None and not any(known <= used < known + FRESH for used in used_seeds):
        return int(known)
    first = seed + FRESH
    while used_seeds and max(used_seeds) >= first:
        first += FRESH
    return first


def _has_failed(earlier: optuna.Study | None) -> bool:
    """Whether any trial of it failed for good."""
    from cifar_hpo.study.ranking import finished_trials

    if earlier is None:
        return False
    trials = finished_trials(earlier.get_trials(deepcopy=False), earlier.user_attrs)
    return any(trial.state in FAILURES for trial in trials)


def refuse_impossible(sweeper: HydraSweeper, search: Plan) -> None:
    """Raise before the search begins what its final stage would raise behind it.

    That are errors of Hydra's or of the task's on `set`, tried on configurations of the search, a
    name without room for the final stage's, and a study of that name that means something else.
    """
    space, options = search.space, search.options["final"]
    for key in options["set"]:
        if key in space.dimensions:
            problem = "the search varies it, and the final stage has what was found"
            raise ConfigError(f"{OPTION}.set.{key}", problem)
        if is_seed(key):
            raise ConfigError(f"{OPTION}.set.{key}", "the final stage has fresh seeds of its own")
    if REPLICAS in space.dimensions:
        raise ConfigError(OPTION, f"the search varies {REPLICAS}, and the final stage its seeds")
    for key in search.options["nuisance"]:
        if key not in space.dimensions:
            known = ", ".join(space.dimensions) or "nothing"
            raise ConfigError("hydra.sweeper.nuisance", f"{key} does not vary; {known} do")
    if len(search.name + SUFFIX) > MAX_NAME_LENGTH:
        room = MAX_NAME_LENGTH - len(SUFFIX)
        problem = f"{search.name[:40]!r} has more than {room} letters; its final stage adds some"
        raise ConfigError("hydra.sweeper.study_name", f"{problem}, {SUFFIX}")
    _refuse_base(search)
    plan = final_plan(sweeper, search, search.name, _some_of_each_group(space))
    if not search.options["fresh"]:
        _refuse_another_meaning(plan)


def _some_of_each_group(space: Space) -> list[Mapping[str, Value]]:
    """Configurations that together have every combination of groups' choices, up to MAX_TRIED; of
    a space with intervals those at its ends."""
    if not space.is_finite:
        return [without_seed(cell) for cell in space.corners()]
    cells: list[Mapping[str, Value]] = []
    for chosen in itertools.islice(space.combinations_of_groups(), MAX_TRIED):
        cells += [without_seed(cell) for cell in itertools.islice(space.cells(chosen), 1)]
    return cells


def _refuse_another_meaning(plan: Plan) -> None:
    """Raise StudyError where there is a study of the final stage's name that is of something else.

    Its images are looked at when it begins.
    """
    from cifar_hpo.study.stored import meaning_of, refuse_differences

    earlier = _earlier(plan, plan.name)
    stored = meaning_of(earlier.user_attrs) if earlier else None
    wanted = json.loads(json.dumps(dict(plan.meaning)))
    if stored:
        refuse_differences(plan.name, {**stored, "data": []}, {**wanted, "data": []})


def _takes_part(search: Plan) -> bool:
    """Whether the config as it is takes part: where nobody says, if it is one that can run."""
    base = search.options["final"]["base"]
    return not _lacking(search) if base is None else bool(base)


def _lacking(search: Plan) -> str:
    """What the config as it is lacks of the keys that vary; empty where it has all."""
    base = search.composer.compose_base()
    for key in [*search.space.groups, *search.space.dimensions]:
        path = key.lstrip("+~").partition("@")[0].replace("/", ".")
        if base is None or key[0] in "+~" or OmegaConf.is_missing(base, path):
            return key
    return ""


def _refuse_base(search: Plan) -> None:
    """Raise ConfigError where the base configuration is asked for and can't be composed."""
    if search.options["final"]["base"] and search.composer.compose_base() is None:
        problem = f"the config as it is lacks a choice of {_lacking(search)}"
        raise ConfigError(f"{OPTION}.base", f"{problem}; base: false leaves it out")


def _as_cell(finalist: Mapping[str, Value]) -> dict[str, Value]:
    """As an option of a sweep has it, whose interpolations are resolved when it is read."""
    cell = {}
    for key, value in finalist.items():
        cell[key] = value.replace("${", "\\${") if isinstance(value, str) else value
    return cell


def _meaning_by_search(
    search: Plan, meaning: Mapping[str, Any], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """What a final stage means whose base configuration is none: the search with what changed, for
    its own would change with the finalists."""
    config = OmegaConf.create(search.meaning["config"])
    for key, value in changed.items():
        OmegaConf.update(config, key, value)
    shared = {**meaning, "config": OmegaConf.to_container(config)}
    shared.pop("choices", None)
    if "choices" in search.meaning:
        shared["choices"] = search.meaning["choices"]
    return shared


def final_text(search: Plan, count: int | None = None) -> str:
    """What a final stage does, as a sentence begins. count: of the finalists, where they are
    known."""
    options = search.options["final"]
    top = options["top"] if count is None else count
    who = "the best" if top == 1 else f"the {top or 'all'} best"
    if search.options["nuisance"]:
        keys = ", ".join(search.options["nuisance"])
        who = f"{top or 'all'} configurations, each at its best {keys},"
    if _takes_part(search):
        who += " and the base configuration"
    text = f"{who} once more, from {options['replicas']} fresh seeds each"
    changed = [f"{key}={as_written(value)}" for key, value in options["set"].items()]
    return f"{text}, with {' '.join(changed)}" if changed else text


def note_final(search: Plan, name: str) -> None:
    """Note with a search's study that it has a final stage."""
    from cifar_hpo.study.storage import load_study, open_storage
    from cifar_hpo.study.stored import FINAL_STAGE

    study = load_study(open_storage(search.options["storage"]), name)
    study.set_user_attr(FINAL_STAGE, name + SUFFIX)


def finalists(search: Plan, name: str) -> tuple[list[Mapping[str, Value]], list[int]]:
    """The configurations of a search that its final stage is about, the best first, and all seeds
    that selected them; none where no trial has a value.

    name: of its study. The best by their means over seeds, of those that differ in nuisance keys
    alone the first.
    """
    from cifar_hpo.analysis.comparison import compare_study
    from cifar_hpo.study.storage import open_storage

    options, nuisance = search.options["final"], set(search.options["nuisance"])
    comparison = compare_study(name, open_storage(search.options["storage"]))
    best: dict[str, Mapping[str, Value]] = {}
    seeds: set[int] = set()
    for configuration in comparison.finished:
        seeds.update(configuration.values)
        params = configuration.params
        if _is_of(search.space, params):
            compared = {key: value for key, value in params.items() if key not in nuisance}
            best.setdefault(identity(compared), params)
    return list(best.values())[: options["top"]], sorted(seeds)


def _fixed(space: Space, without: Sequence[str]) -> list[str]:
    """The overrides of a search that vary nothing, but for some keys."""
    left_out = {key.lstrip("+") for key in without}
    fixed = []
    for key, part in space.parts.items():
        if isinstance(part, str) and key.lstrip("+") not in left_out:
            fixed.append(part)
    return fixed


def _is_base_among(search: Plan, finalists: Sequence[Mapping[str, Value]]) -> bool:
    """Whether the config as it is, is one of them."""
    base = search.composer.compose_base()
    return any(search.composer.compose_task(finalist) == base for finalist in finalists)


def _is_of(space: Space, configuration: Mapping[str, Value]) -> bool:
    """Whether a space has a configuration, with some seed where seeds vary."""
    params = dict(configuration)
    for key, part in space.dimensions.items():
        if is_seed(key):
            params[key] = next(iter(part.texts)) if isinstance(part, Choices) else part.low
    return space.holds(params)
