"""Configs of trials as Hydra composes them: a `Composer` of one space.

Composing takes Hydra some 50 ms. Where only plain values differ from a config that was composed
before, a copy of that one takes them.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cifar_hpo.config.fields import without_hydra
from cifar_hpo.study.space import Choices, Space, Value
from cifar_hpo.workers.jobs import HydraLauncher, compose

OF_JOB = re.compile(rb"\$\{\s*hydra\s*:")
"""An interpolation of Hydra's own values, of which some are of each job, such as its number."""


class _Composed(NamedTuple):
    """A config with Hydra's part and without it, pickled, which copies faster than OmegaConf."""

    whole: bytes
    task: bytes


class Composer:
    """Composes the configs of a space's trials; keeps one for each combination of groups."""

    def __init__(self, launcher: HydraLauncher, space: Space) -> None:
        self.launcher = launcher
        self.space = space
        self._composed: dict[tuple[str, ...], _Composed] = {}

    def compose(self, number: int, params: Mapping[str, Value]) -> DictConfig:
        """The config of a trial, with Hydra's own part. Raises Hydra's errors."""
        overrides = self.space.overrides(params)
        config = self._with_values(self._similar(overrides, params).whole, params)
        with read_write(config), open_dict(config):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.id = number
            config.hydra.job.num = number
            settings = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = _override_dirname(overrides, settings)
        return config

    def compose_task(self, params: Mapping[str, Value]) -> DictConfig:
        """The same without Hydra's own part, which a task function is not given."""
        overrides = self.space.overrides(params)
        return self._with_values(self._similar(overrides, params).task, params)

    def depends_on_job(self, params: Mapping[str, Value]) -> bool:
        """Whether the config has values that each job may have its own of."""
        overrides = self.space.overrides(params)
        written = "\n".join(overrides).encode()
        return bool(OF_JOB.search(written) or OF_JOB.search(self._similar(overrides, params).task))

    def forget(self) -> None:
        """Compose anew from now on, because the launcher's config has changed."""
        self._composed.clear()

    def _similar(self, overrides: Sequence[str], params: Mapping[str, Value]) -> _Composed:
        """A composed config that differs from the wanted one in plain values alone.

        Which plain keys there are belongs to it: one that a condition leaves out must not keep the
        value of another configuration.
        """
        plain = [key for key in params if self._is_plain(key)]
        others = [override for override in overrides if override.split("=", 1)[0] not in plain]
        key = (*plain, *others)
        if key not in self._composed:
            whole = compose(self.launcher, 0, overrides)
            task = without_hydra(whole)
            self._composed[key] = _Composed(pickle.dumps(whole), pickle.dumps(task))
        return self._composed[key]

    def _with_values(self, composed: bytes, params: Mapping[str, Value]) -> DictConfig:
        """A copy of a composed config with the plain values of these parameters."""
        config: DictConfig = pickle.loads(composed)  # noqa: S301  our own, from above
        texts = []
        for key, value in params.items():
            if self._is_plain(key):
                texts.append(f"{key}={self.space.dimensions[key].text(value)}")
        with read_write(config), open_dict(config):
            for override in OverridesParser.create().parse_overrides(texts):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
        return config

    def _is_plain(self, key: str) -> bool:
        """Whether a parameter's override does no more than give a key another value."""
        return key not in self.space.groups and key[0] != "~" and "@" not in key


def absent_keys(space: Space, launcher: HydraLauncher) -> dict[tuple[Value, ...], frozenset[str]]:
    """Which parameters have no key for which choices of the swept groups.

    One that never has its key is left for Hydra to refuse.
    """
    plain = [key for key in space.dimensions if key not in space.groups and key[0] not in "+~"]
    choices = []
    for group in space.groups:
        dimension = space.dimensions[group]
        if isinstance(dimension, Choices):
            choices.append(dimension.texts)
    if not choices or not plain:
        return {}
    absent = {}
    for values in itertools.product(*choices):
        chosen = dict(zip(space.groups, values, strict=True))
        config = compose(launcher, 0, space.overrides(chosen))
        absent[values] = frozenset(key for key in plain if not _has_key(config, key))
    never = frozenset.intersection(*absent.values())
    return {values: keys - never for values, keys in absent.items()}


def _has_key(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and last in node


def _override_dirname(overrides: Sequence[str], settings: DictConfig) -> str:
    """What `hydra.job.override_dirname` is for these overrides, by its own settings."""
    named = []
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key not in settings.exclude_keys:
            named.append(override)
    joined: str = settings.item_sep.join(sorted(named))
    return joined.replace("=", settings.kv_sep)
