"""What a sweep is about to do, checked before anything heavy is imported or started: a `Plan`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

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
from cifar_hpo.study.ranking import identity
from cifar_hpo.study.space import Choices, Space, Value
from cifar_hpo.workers.pool import compose

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
CONSTRAINT = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*([\d.eE+_-]+)\s*")
CHECKED = 2000
"""Cells of a grid that are composed and checked beforehand; the rest are checked as they come."""


@dataclass(frozen=True)
class Plan:
    """A search space with all that its trials share.

    base: the composed config of one cell. meaning: what the study's identity rests on. data: a
    config for each source of data and each size of its batches. remarks: what the task has to say
    of its configurations. costs: of a grid's cells, by their identity, where the task knows what
    they cost.
    """

    space: Space
    options: Mapping[str, Any]
    launcher: Any
    task: TaskFunction
    base: DictConfig
    meaning: Mapping[str, Any]
    data: tuple[DictConfig, ...] = ()
    remarks: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    _composed: dict[tuple[str, ...], tuple[bytes, bytes]] = field(default_factory=dict)

    @classmethod
    def from_command_line(cls, sweeper: Any, arguments: Sequence[str]) -> Plan:
        """Parse, compose and check; every wrong cell is found here, before anything heavy is
        imported.

        Raises Hydra's errors for what can't be composed, and what the task's `check` raises.
        """
        options: dict[str, Any] = OmegaConf.to_container(
            OmegaConf.create(sweeper.options), resolve=True
        )  # type: ignore[assignment]
        space = Space.parse(
            arguments, options["params"], sweeper.hydra_context.config_loader, options["conditions"]
        )
        _check_options(
            space,
            options,
            getattr(sweeper.launcher, "options", {}),
            getattr(sweeper.task_function, "metrics", ()),
        )
        space = dataclasses.replace(space, absent=_absent(space, sweeper))
        plan = cls(space, options, sweeper.launcher, sweeper.task_function, OmegaConf.create(), {})
        cells = list(
            itertools.islice(space.cells() if space.is_finite else space.corners(), CHECKED)
        )
        configs = [plan.compose(0, cell, task_only=True) for cell in cells]
        checked = [plan.check(config) for config in configs]
        meaning: dict[str, Any] = {
            "config": _unvaried(configs[0], space, getattr(plan.task, "later", {})),
            "keys": sorted(space.dimensions),
        }
        meaning |= {
            name: options[name] for name in ("metric", "direction", "constraints", "conditions")
        }
        meaning |= {"sampler": options["sampler"], "pruner": options["pruner"]}
        if options["sampler"]["name"] != "grid":  # a grid may gain cells
            meaning["space"] = {key: repr(part) for key, part in space.dimensions.items()}
        data = {
            (repr(config.get("data")), OmegaConf.select(config, "training.batch_size")): config
            for config in configs
        }
        remark = getattr(plan.task, "remarks", None)
        remarks = (
            dict.fromkeys(sentence for one in checked for sentence in remark(one)) if remark else {}
        )
        cost = getattr(plan.task, "cost", None)
        costs = (
            {identity(cell): cost(one) for cell, one in zip(cells, checked, strict=True)}
            if cost
            else {}
        )
        base = plan.compose(0, cells[0])
        return dataclasses.replace(
            plan,
            base=base,
            meaning=meaning,
            data=tuple(data.values()),
            remarks=tuple(remarks),
            costs=costs,
        )

    def prepared(self) -> Plan:
        """With the data at hand, which is part of the meaning. Raises what the task's `prepare`
        raises."""
        task: Any = self.task
        identified = (
            sorted({str(task.prepare(config)) for config in self.data})
            if hasattr(task, "prepare")
            else []
        )
        for remark in self.remarks:
            log.warning(remark)
        return dataclasses.replace(self, meaning={**self.meaning, "data": identified})

    @property
    def name(self) -> str:
        """The study's name: the one given, else what varies and a hash of everything that fixes the
        meaning, the space included."""
        if self.options["study_name"]:
            return str(self.options["study_name"])
        varied = (
            "-".join(
                key.lstrip("+~").split(".")[-1].replace("/", "-") for key in self.space.dimensions
            )
            or "one"
        )
        everything = [
            self.meaning,
            {key: repr(part) for key, part in sorted(self.space.dimensions.items())},
        ]
        digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
        return f"{varied[:60]}-{digest[:6]}"

    @property
    def n_trials(self) -> int | None:
        """The most trials that it can have, counted up to CHECKED; None where no one can say."""
        limits = [self.options["n_trials"]] if self.options["n_trials"] else []
        if self.options["sampler"]["name"] == "grid":
            limits.append(len(list(itertools.islice(self.space.cells(), CHECKED))))
        return min(limits, default=None)

    @property
    def prunes(self) -> bool:
        return bool(self.options["pruner"]["name"] != "none")

    def compose(
        self, number: int, params: Mapping[str, Value], *, task_only: bool = False
    ) -> DictConfig:
        """The config of a trial, as Hydra composes it; without its `hydra` part where that is not
        wanted.

        Composing takes Hydra some 50 ms; where only plain values differ from a config that it has
        composed, a copy takes them.
        """
        overrides = self.space.overrides(params)
        values = {
            key: self.space.dimensions[key].text(value)
            for key, value in params.items()
            if self._is_plain(key)
        }
        # Which plain keys there are belongs to it: one that a condition leaves out must not keep
        # the value of another configuration.
        rest = (
            *values,
            *(override for override in overrides if override.split("=", 1)[0] not in values),
        )
        if rest not in self._composed:
            whole = compose(self.launcher, number, overrides)
            task = OmegaConf.masked_copy(whole, [str(name) for name in whole if name != "hydra"])
            self._composed[rest] = (pickle.dumps(whole), pickle.dumps(task))
        config: DictConfig = pickle.loads(self._composed[rest][task_only])  # noqa: S301  our own, three lines above
        with read_write(config), open_dict(config):
            for override in OverridesParser.create().parse_overrides(
                [f"{key}={text}" for key, text in values.items()]
            ):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
            if not task_only:
                config.hydra.overrides.task = list(overrides)
                config.hydra.job.id = config.hydra.job.num = number
                settings = config.hydra.job.config.override_dirname
                named = sorted(
                    override
                    for override in overrides
                    if override.split("=")[0].lstrip("+~") not in settings.exclude_keys
                )
                config.hydra.job.override_dirname = settings.item_sep.join(named).replace(
                    "=", settings.kv_sep
                )
        return config

    def _is_plain(self, key: str) -> bool:
        return key not in self.space.groups and key[0] != "~" and "@" not in key

    def check(self, config: DictConfig) -> Any:
        """Hold a composed config against what the task expects, where it says so; returns what the
        task makes of it, if anything."""
        checked = self.task.check(config) if hasattr(self.task, "check") else None
        return config if checked is None else checked

    def broken_constraint(self, config: DictConfig) -> str:
        """The first constraint that a configuration does not fulfil, before it is trained; empty
        where it fulfils all."""
        for text in self.options["constraints"]:
            name, sign, limit = CONSTRAINT.fullmatch(text).groups()  # type: ignore[union-attr]
            task: Any = self.task
            measures = task.measure(config) if hasattr(task, "measure") else {}
            value = measures.get(name, OmegaConf.select(config, name))
            if not isinstance(value, int | float):
                raise ConfigError(
                    "hydra.sweeper.constraints",
                    f"{text!r}: {name} is no number of this configuration",
                )
            fulfilled = {
                "<=": value <= float(limit),
                ">=": value >= float(limit),
                "<": value < float(limit),
                ">": value > float(limit),
            }
            if not fulfilled[sign]:
                return f"{name} is {value:g}, against {text!r}"
        return ""

    def rerun_arguments(self, params: Mapping[str, Any]) -> list[str]:
        """The arguments that train one configuration as a single run."""
        name = self.base.hydra.job.config_name
        chosen = [] if name == "config" else ["-cn", name, "hydra.mode=RUN"]
        return [*chosen, *self.space.overrides(params)]

    def best(self, ranking: Sequence[Any]) -> dict[str, Any] | None:
        """The best configuration of a ranking, with what trains it again."""
        if not ranking or ranking[0].value is None:
            return None
        return {
            "trial": ranking[0].number,
            "value": ranking[0].value,
            "overrides": self.rerun_arguments(ranking[0].params),
        }

    def name_folder(self, study: str) -> None:
        """Let `hydra.sweep.dir`, which may name the study, point to this study's folder, and keep
        the sweep's config there."""
        config = self.launcher.config
        if OmegaConf.select(config, "hydra.sweeper.study_name") != study:
            with open_dict(config):
                config.hydra.sweeper.study_name = study
            config.hydra.overrides.hydra.append(f"hydra.sweeper.study_name={study}")
            self._composed.clear()
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")


def _check_options(
    space: Space, options: dict[str, Any], launcher: Mapping[str, Any], measured: Sequence[str]
) -> None:
    """Settle the sampler, and refuse what is out of range, missing or without end."""
    sampler, pruner, name = options["sampler"], options["pruner"], options["study_name"]
    check_values("hydra.sweeper", Sweeper, options)
    check_values("hydra.sweeper.sampler", SAMPLER_SCHEMAS.get(sampler["name"], Sampler), sampler)
    check_values("hydra.sweeper.pruner", PRUNER_SCHEMAS.get(pruner["name"], Pruner), pruner)
    if "n_workers" in launcher:
        check_values("hydra.launcher", Launcher, launcher)
    if name is not None and not NAME.fullmatch(name):
        raise ConfigError(
            "hydra.sweeper.study_name",
            f"{name[:40]!r} is no name: up to 100 letters, digits and - _ . are",
        )
    if sampler["name"] == "auto":
        sampler["name"] = "grid" if space.is_finite and not options["n_trials"] else "tpe"
    if missing := [
        package
        for package in EXTRAS.get(sampler["name"], ())
        if not importlib.util.find_spec(package)
    ]:
        hint = f"pip install 'cifar_hpo[{sampler['name']}]'"
        raise ConfigError(
            "hydra.sweeper.sampler",
            f"{sampler['name']} needs {' and '.join(missing)}, which is not installed; {hint}",
        )
    if sampler["name"] == "grid" and not space.is_finite:
        raise ConfigError(
            "hydra.sweeper.sampler",
            "a grid has no intervals; give choices, or another sampler and hydra.sweeper.n_trials",
        )
    _check_objective(options, measured)


def _check_objective(options: Mapping[str, Any], measured: Sequence[str]) -> None:
    """A sweep needs an end, metrics that are measured, a direction for each, one to prune by, and
    constraints that can be read."""
    limits = ("n_trials", "timeout", "target", "patience")
    if options["sampler"]["name"] != "grid" and not any(options[limit] for limit in limits):
        raise ConfigError(
            "hydra.sweeper.n_trials",
            f"this space has no end; say how many trials, or one of {', '.join(limits[1:])}",
        )
    metrics, directions = (
        options[key] if isinstance(options[key], list) else [options[key]]
        for key in ("metric", "direction")
    )
    if unknown := [
        name for name in metrics if measured and name.removesuffix("_std") not in measured
    ]:
        raise ConfigError(
            "hydra.sweeper.metric", f"a trial has no {unknown[0]}; it has {', '.join(measured)}"
        )
    if len(metrics) != len(directions):
        raise ConfigError(
            "hydra.sweeper.direction", f"{len(directions)} directions for {len(metrics)} metrics"
        )
    if len(metrics) > 1 and options["pruner"]["name"] != "none":
        raise ConfigError(
            "hydra.sweeper.pruner", "a trial can't be pruned by several metrics; pruner=none"
        )
    for text in options["constraints"]:
        if not CONSTRAINT.fullmatch(text):
            raise ConfigError(
                "hydra.sweeper.constraints", f"{text!r} is not like 'parameters <= 2000000'"
            )


def _absent(space: Space, sweeper: Any) -> dict[tuple[Value, ...], frozenset[str]]:
    """Which parameters have no key for which choices of the swept groups; one that never has its
    key is left for Hydra to refuse."""
    plain = [key for key in space.dimensions if key not in space.groups and key[0] not in "+~"]
    choices = [
        part.texts for key in space.groups if isinstance(part := space.dimensions[key], Choices)
    ]
    if not choices or not plain:
        return {}
    absent = {}
    for values in itertools.product(*choices):
        chosen = dict(zip(space.groups, values, strict=True))
        config = compose(sweeper.launcher, 0, space.overrides(chosen))
        absent[values] = frozenset(key for key in plain if not _exists(config, key))
    never = frozenset.intersection(*absent.values())
    return {values: keys - never for values, keys in absent.items()}


def _exists(config: DictConfig, key: str) -> bool:
    folder, _, last = key.rpartition(".")
    node = OmegaConf.select(config, folder) if folder else config
    return isinstance(node, DictConfig) and last in node


def _unvaried(config: DictConfig, space: Space, later: Mapping[str, Any]) -> Any:
    """The config without what varies and without where things are stored, as nested dicts.

    later: keys that studies of earlier versions do not have, and what these did; where a config
    does the same, it is the same study.
    """
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    for name in ("hydra", "mlflow"):
        container.pop(name, None)
    unsaid = [key for key, value in later.items() if OmegaConf.select(config, key) == value]
    for key in [*space.dimensions, *unsaid]:
        *folders, last = key.lstrip("+~").split("@")[0].replace("/", ".").split(".")
        node: Any = container
        for folder in folders:
            node = node.get(folder, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node.pop(last, None)
    return container
