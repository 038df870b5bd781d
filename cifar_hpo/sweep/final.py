"""The final stage of a sweep: the best of a search once more, with seeds that selected nothing.

The value of the best of many is the luckiest, too. So the finalists and the base configuration are
trained again, from fresh seeds, and if asked for on more images or for longer. That is a study of
its own, NAME_final, whose cells the search gives it; the same command goes on with both.

Nuisance keys, such as the learning rate of optimizers that are compared, are those by which nothing
is compared: of each configuration without them the one at its best values is a finalist (Choi and
others, arXiv:1910.05446; Dahl and others, arXiv:2306.07179, call them so).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.types import HydraContext, TaskFunction

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.dimensions import as_written
from cifar_hpo.study.seeds import is_seed, without_seed
from cifar_hpo.study.space import Choices, Space, Value, identity
from cifar_hpo.sweep.composer import REFUSED
from cifar_hpo.sweep.plan import HydraSweeper, Plan, seed_of
from cifar_hpo.workers.jobs import HydraLauncher

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
    key, seed = seed_of(search.space, search.composer, "hydra.sweeper.final")
    while used_seeds and max(used_seeds) >= seed + FRESH:
        seed += FRESH
    overrides = _fixed(search.space, [*options["set"], key])
    overrides += [f"{name}={as_written(value)}" for name, value in options["set"].items()]
    overrides.append(f"{key}={seed + FRESH}")
    cells = [dict(finalist) for finalist in finalists]
    if options["base"] and not _has_base(search, finalists):
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
        },
    )
    return dataclasses.replace(Plan.from_command_line(stage, overrides), is_final=True)


def refuse_impossible(sweeper: HydraSweeper, search: Plan) -> None:
    """Raise before the search begins what its final stage would raise behind it.

    That is an error of Hydra's or of the task's on `set`, tried on a configuration of the search.
    """
    space, options = search.space, search.options["final"]
    for key in options["set"]:
        if key in space.dimensions:
            problem = "the search varies it, and the final stage has what was found"
            raise ConfigError(f"hydra.sweeper.final.set.{key}", problem)
    for key in search.options["nuisance"]:
        if key not in space.dimensions:
            known = ", ".join(space.dimensions) or "nothing"
            raise ConfigError("hydra.sweeper.nuisance", f"{key} does not vary; {known} do")
    cells = space.cells() if space.is_finite else space.corners()
    final_plan(sweeper, search, "final", [without_seed(next(iter(cells)))])


def final_text(search: Plan, count: int | None = None) -> str:
    """What a final stage does, as a sentence begins. count: of the finalists, where they are
    known."""
    options = search.options["final"]
    top = options["top"] if count is None else count
    who = "the best" if top == 1 else f"the {top or 'all'} best"
    if search.options["nuisance"]:
        keys = ", ".join(search.options["nuisance"])
        who = f"{top or 'all'} configurations, each at its best {keys},"
    if options["base"]:
        who += " and the base configuration"
    text = f"{who} once more, from {options['replicas']} fresh seeds each"
    changed = [f"{key}={as_written(value)}" for key, value in options["set"].items()]
    return f"{text}, with {' '.join(changed)}" if changed else text


def finalists(search: Plan, name: str) -> tuple[list[Mapping[str, Value]], list[int]]:
    """The configurations of a search that its final stage is about, the best first, and all seeds
    that selected them; its study notes that there is one.

    name: of its study. The best by their means over seeds, of those that differ in nuisance keys
    alone the first.
    """
    from cifar_hpo.analysis.comparison import compare_study
    from cifar_hpo.study.storage import open_storage
    from cifar_hpo.study.stored import FINAL_STAGE

    options, nuisance = search.options["final"], set(search.options["nuisance"])
    comparison = compare_study(name, open_storage(search.options["storage"]))
    comparison.study.set_user_attr(FINAL_STAGE, name + SUFFIX)
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


def _has_base(search: Plan, finalists: Sequence[Mapping[str, Value]]) -> bool:
    """Whether the config as it is, is one of them."""
    with contextlib.suppress(*REFUSED):  # it has no choice of a group by itself
        base = search.composer.compose_task({})
        return any(search.composer.compose_task(finalist) == base for finalist in finalists)
    return False


def _is_of(space: Space, configuration: Mapping[str, Value]) -> bool:
    """Whether a space has a configuration, with some seed where seeds vary."""
    params = dict(configuration)
    for key, part in space.dimensions.items():
        if is_seed(key):
            params[key] = next(iter(part.texts)) if isinstance(part, Choices) else part.low
    return space.holds(params)
