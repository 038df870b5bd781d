"""Configs of trials as Hydra composes them: a `Composer` of one space. `KnownGroups` says which
groups there are.

Composing takes Hydra some 50 ms. It composes each combination of groups once; a copy of that takes
the plain values of a trial.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.config.fields import without_hydra
from cifar_hpo.errors import UserError
from cifar_hpo.hydra_internals import hydra_overrides
from cifar_hpo.study.space import Choices, Interval, Space, Value, identity
from cifar_hpo.task import Task
from cifar_hpo.workers.jobs import HydraLauncher, compose

OF_JOB = re.compile(rb"\$\{\s*hydra\s*:")
"""An interpolation of Hydra's own values, of which some are of each job, such as its number."""


REFUSED = (HydraException, OmegaConfBaseException, UserError)
"""What is raised for what is no config."""


class _Composed(NamedTuple):
    """A config with Hydra's part and without it, pickled, which copies faster than OmegaConf."""

    whole: bytes
    task: bytes


class KnownGroups:
    """The options of config groups, as far as the command line's search path leads."""

    def __init__(self, launcher: HydraLauncher) -> None:
        self._loader = launcher.hydra_context.config_loader
        self._config_name = launcher.config.hydra.job.config_name
        self._overrides = hydra_overrides(launcher.config.hydra)

    def get_group_options(
        self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG
    ) -> list[str]:
        """As Hydra's loader has it, which by itself does not follow hydra.searchpath."""
        return self._loader.get_group_options(
            group_name, results_filter, self._config_name, self._overrides
        )


class Composer:
    """Composes the configs of a space's trials; keeps one for each combination of groups."""

    def __init__(self, launcher: HydraLauncher, space: Space) -> None:
        self.launcher = launcher
        self.space = space
        self._composed: dict[tuple[str, ...], _Composed] = {}

    def compose(self, number: int, params: Mapping[str, Value]) -> DictConfig:
        """The config of a trial, with Hydra's own part. Raises Hydra's errors."""
        overrides = self.space.overrides(params)
        config = self._with_values(self._groups(params).whole, params)
        with read_write(config), open_dict(config):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            if not OmegaConf.is_interpolation(config.hydra.job, "override_dirname"):
                settings = config.hydra.job.config.override_dirname
                config.hydra.job.override_dirname = _override_dirname(overrides, settings)
        return config

    def compose_task(self, params: Mapping[str, Value]) -> DictConfig:
        """The same without Hydra's own part, which a task function is not given."""
        return self._with_values(self._groups(params).task, params)

    def compose_groups(self, params: Mapping[str, Value]) -> DictConfig:
        """The same with the choices of groups alone, the plain values of these left out."""
        config: DictConfig = pickle.loads(self._groups(params).task)  # noqa: S301  our own
        return config

    def compose_shared(self) -> DictConfig | None:
        """What all trials share: the same with nothing that varies.

        Where that is no config, since a group has no choice by itself or a fixed override is for
        some choices only, with one choice of each group, the same in whichever order they are
        given; None where that is none either.
        """
        base = self.compose_base()
        if base is not None:
            return base
        combinations = self.space.combinations_of_groups()
        with contextlib.suppress(*REFUSED):
            return self.compose_groups(min(combinations, key=identity, default={}))
        return None

    def compose_base(self) -> DictConfig | None:
        """The config as it is, with nothing that varies; None where that is none."""
        with contextlib.suppress(*REFUSED):
            return self.compose_groups({})
        return None

    def compose_choices(self) -> dict[str, dict[str, DictConfig]]:
        """The same with each choice of a group alone, by group and choice; without those that are
        no config by themselves."""
        composed: dict[str, dict[str, DictConfig]] = {}
        for group in self.space.groups:
            dimension = self.space.dimensions[group]
            for choice in dimension.texts if isinstance(dimension, Choices) else ():
                with contextlib.suppress(*REFUSED):
                    config = self.compose_groups({group: choice})
                    composed.setdefault(group, {})[str(choice)] = config
        return composed

    def depends_on_job(self, params: Mapping[str, Value]) -> bool:
        """Whether the config has values that each job may have its own of."""
        overrides = self.space.overrides(params)
        written = "\n".join(overrides).encode()
        return bool(OF_JOB.search(written) or OF_JOB.search(self._groups(params).task))

    def forget(self) -> None:
        """Compose anew from now on, because the launcher's config has changed."""
        self._composed.clear()

    def _groups(self, params: Mapping[str, Value]) -> _Composed:
        """Composed with all but plain values."""
        overrides = []
        for key, part in self.space.parts.items():
            if isinstance(part, str):
                overrides.append(part)
            elif key in params and not self._is_plain(key):
                overrides.append(f"{key}={part.text(params[key])}")
        known = tuple(overrides)
        if known not in self._composed:
            whole = compose(self.launcher, 0, overrides)
            task = without_hydra(whole)
            self._composed[known] = _Composed(pickle.dumps(whole), pickle.dumps(task))
        return self._composed[known]

    def _with_values(self, composed: bytes, params: Mapping[str, Value]) -> DictConfig:
        """A copy of a composed config with the plain values of these parameters."""
        config: DictConfig = pickle.loads(composed)  # noqa: S301  our own, from above
        with read_write(config), open_dict(config):
            for key in filter(self._is_plain, params):
                text = self.space.dimensions[key].text(params[key])
                path, value = _parsed(f"{key}={text}")
                is_new = key.startswith("+")
                if _has_key(config, path) is is_new and not key.startswith("++"):
                    # Hydra refuses it in its own words, unless it knows better.
                    whole = compose(self.launcher, 0, self.space.overrides(params))
                    return whole if "hydra" in config else without_hydra(whole)
                OmegaConf.update(config, path, value, merge=False)
        return config

    def _is_plain(self, key: str) -> bool:
        """Whether a parameter's override does no more than give a key another value."""
        return key not in self.space.groups and key[0] != "~" and "@" not in key


@functools.lru_cache(maxsize=10_000)
def _parsed(override: str) -> tuple[str, Any]:
    """The path of a key and its value, as Hydra parses them, which takes it half a millisecond."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed.key_or_group, parsed.value()


def absent_keys(composer: Composer) -> dict[tuple[Value | None, ...], frozenset[str]]:
    """Which parameters of a space have no key for which choices of its groups.

    One that never has its key is left for Hydra to refuse.
    """
    space = composer.space
    plain = [key for key in space.free_keys if key not in space.groups and key[0] not in "+~"]
    if not space.groups or not plain:
        return {}
    absent = {}
    for chosen in space.combinations_of_groups():
        config = composer.compose_groups(chosen)
        missing = frozenset(key for key in plain if not _has_key(config, key))
        absent[space.choices_of_groups(chosen)] = missing
    never = frozenset.intersection(*absent.values())
    return {values: keys - never for values, keys in absent.items()}


def whole_keys(composer: Composer, task: Task) -> set[str]:
    """The keys that with some choice of groups take whole numbers alone; none where there is no
    interval."""
    space = composer.space
    keys: set[str] = set()
    if any(isinstance(dimension, Interval) for dimension in space.dimensions.values()):
        for chosen in space.combinations_of_groups():
            with contextlib.suppress(*REFUSED):  # it is told where all are composed
                keys.update(task.whole_keys(composer.compose_groups(chosen)))
    return keys


def _has_key(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    # Asked itself, a node denies a key whose value is missing.
    return isinstance(node, DictConfig) and last in list(node.keys())


def _override_dirname(overrides: Sequence[str], settings: DictConfig) -> str:
    """What `hydra.job.override_dirname` is for these overrides, by its own settings."""
    named = []
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key not in settings.exclude_keys:
            named.append(override)
    joined: str = settings.item_sep.join(sorted(named))
    return joined.replace("=", settings.kv_sep)
