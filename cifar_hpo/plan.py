"""What a sweep is about to do, checked before anything heavy is imported or started: a `Plan`."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from cifar_hpo.config import Launcher, Sampler, Sweeper, check_values
from cifar_hpo.errors import ConfigError
from cifar_hpo.space import Space
from cifar_hpo.workers import compose

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
CHECKED = 2000
"""Cells of a grid that are composed and checked beforehand; one costs some 50 ms, the rest are checked as they come."""


@dataclass(frozen=True)
class Plan:
    """A search space with all that its trials share.

    base: the composed config of one cell. meaning: what the study's identity rests on, beside its space.
    """

    space: Space
    options: Mapping[str, Any]
    launcher: Any
    task: TaskFunction
    base: DictConfig
    meaning: Mapping[str, Any]

    @classmethod
    def of(cls, sweeper: Any, arguments: Sequence[str]) -> Plan:
        """Parse, compose, check, and prepare the data; every wrong cell is found here.

        Raises Hydra's errors for what can't be composed, and what the task's `check` and `prepare` raise.
        """
        loader = sweeper.hydra_context.config_loader
        options: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(sweeper.options), resolve=True)  # type: ignore[assignment]
        check_values("hydra.sweeper", Sweeper, options)
        check_values("hydra.sweeper.sampler", Sampler, options["sampler"])
        if "n_workers" in (launcher_options := getattr(sweeper.launcher, "options", {})):
            check_values("hydra.launcher", Launcher, launcher_options)
        space = Space.parse(arguments, options["params"], loader)
        _check_budget(space, options)
        cells = list(itertools.islice(space.cells() if space.is_finite else space.corners(), CHECKED))
        task = sweeper.task_function
        configs = [compose(sweeper, 0, space.overrides(cell)) for cell in cells]
        for config in configs:
            check(task, config)
        by_data = {repr(config.get("data")): config for config in configs}
        prepared = sorted(str(task.prepare(config)) for config in by_data.values()) if hasattr(task, "prepare") else []
        meaning = {"config": _unvaried(configs[0], space), "data": prepared, "keys": sorted(space.dimensions)}
        meaning |= {name: options[name] for name in ("metric", "direction")}
        return cls(space, options, sweeper.launcher, task, configs[0], meaning)

    @property
    def name(self) -> str:
        """The study's name: the one given, else what varies and a hash of everything that fixes the meaning, the space included."""
        if self.options["study_name"]:
            return str(self.options["study_name"])
        varied = "-".join(key.lstrip("+~").split(".")[-1].replace("/", "-") for key in self.space.dimensions) or "one"
        everything = [self.meaning, {key: repr(part) for key, part in sorted(self.space.dimensions.items())}]
        digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
        return f"{varied[:60]}-{digest[:6]}"

    def again(self, params: Mapping[str, Any]) -> list[str]:
        """The arguments that train one configuration as a single run."""
        name = self.base.hydra.job.config_name
        chosen = [] if name == "config" else ["-cn", name, "hydra.mode=RUN"]
        return [*chosen, *self.space.overrides(params)]

    def best(self, ranking: Sequence[Any]) -> dict[str, Any] | None:
        """The best configuration of a ranking, with what trains it again."""
        if not ranking or ranking[0].value is None:
            return None
        return {"trial": ranking[0].number, "value": ranking[0].value, "overrides": self.again(ranking[0].params)}

    def name_folder(self, study: str) -> None:
        """Let `hydra.sweep.dir`, which may name the study, point to this study's folder, and keep the sweep's config there."""
        config = self.launcher.config
        if OmegaConf.select(config, "hydra.sweeper.study_name") != study:
            with open_dict(config):
                config.hydra.sweeper.study_name = study
            config.hydra.overrides.hydra.append(f"hydra.sweeper.study_name={study}")
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")


def check(task: TaskFunction, config: DictConfig) -> None:
    """Hold a composed config against what the task expects, where it says so."""
    if hasattr(task, "check"):
        task.check(config)


def _check_budget(space: Space, options: dict[str, Any]) -> None:
    """Settle the sampler, and refuse a name that is none and a sweep that has no end."""
    sampler, name = options["sampler"], options["study_name"]
    if name is not None and not NAME.fullmatch(name):
        raise ConfigError("hydra.sweeper.study_name", f"{name[:40]!r} is no name: up to 100 letters, digits and - _ . are")
    if sampler["name"] == "auto":
        sampler["name"] = "grid" if space.is_finite and not options["n_trials"] else "random"
    if sampler["name"] == "grid" and not space.is_finite:
        raise ConfigError("hydra.sweeper.sampler", "a grid has no intervals; give choices, or sampler=random and n_trials")
    if sampler["name"] != "grid" and not (options["n_trials"] or options["timeout"]):
        raise ConfigError("hydra.sweeper.n_trials", "this space has no end; say how many trials, or hydra.sweeper.timeout")


def _unvaried(config: DictConfig, space: Space) -> Any:
    """The config without what varies and without where things are stored, as nested dicts."""
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    for name in ("hydra", "mlflow"):
        container.pop(name, None)
    for key in space.dimensions:
        *folders, last = key.lstrip("+~").split("@")[0].replace("/", ".").split(".")
        node: Any = container
        for folder in folders:
            node = node.get(folder, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node.pop(last, None)
    return container
