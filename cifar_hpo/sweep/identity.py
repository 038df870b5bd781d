"""What a study is: `meaning_of` is what it rests on, `automatic_name` is made of that.

Both are stored with studies, so their form may not change: an earlier study would not be found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.config.fields import flat
from cifar_hpo.study.space import Choices, Space
from cifar_hpo.sweep.code import targets

NOT_MEANT = ("hydra", "mlflow")
"""Parts of a config that say how a study runs and where it is stored, not what it means."""

ConfigsByChoice = Mapping[str, Mapping[str, DictConfig]]
"""Configs by a group's key and the name of its choice."""

RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")
OF_CONFIG = ("oc.select", "oc.deprecated", "oc.dict.keys", "oc.dict.values")
"""Resolvers that read the config itself, which is part of the meaning as it is."""
OF_RUN = re.compile(r"\$\{\s*(?:now|hydra)\s*:[^{}]*\}")
"""Interpolations that differ from run to run or from job to job of the same study."""


def meaning_of(
    config: DictConfig,
    space: Space,
    options: Mapping[str, Any],
    defaults_before: Mapping[str, Any],
    *,
    shared: DictConfig | None = None,
    by_choice: ConfigsByChoice | None = None,
    unmeant_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """What a study means, but for its data, as what JSON can hold.

    config: of one of its cells. defaults_before: keys that studies of earlier versions do not have,
    and what those did; where a config does the same, it is the same study. shared: the config with
    nothing chosen that varies, which counts where a choice sets keys beyond its group's section.
    by_choice: the same with each choice of a group. unmeant_keys: of the config, those that say
    nothing of what is asked.
    """
    choices = {}
    if shared is not None:
        unvaried = flat(unvaried_config(shared, space, defaults_before, unmeant_keys))
        for group, configs in (by_choice or {}).items():
            changes = {}
            for choice, chosen in configs.items():
                after = flat(unvaried_config(chosen, space, defaults_before, unmeant_keys))
                of_call = _call(group, chosen, space, defaults_before, unmeant_keys)
                changes[choice] = _changes(unvaried, after) | of_call
            if any(changes.values()):
                choices[group] = changes
        if choices or space.listed:
            config = shared
    meaning: dict[str, Any] = {
        "config": unvaried_config(config, space, defaults_before, unmeant_keys),
        "keys": sorted(space.free_keys),
    }
    if choices:
        meaning["choices"] = choices
    for name in ("metric", "direction", "constraints", "conditions", "sampler", "pruner"):
        meaning[name] = options[name]
    digests = _interpolated(config, meaning["config"], space)
    if digests:
        meaning["interpolated"] = digests
    if options["sampler"]["name"] != "grid":  # a grid may gain cells
        meaning["space"] = space.identity
    return meaning


def automatic_name(space: Space, meaning: Mapping[str, Any]) -> str:
    """A study's name where the user gives none: what varies, and a hash of all that it means."""
    dimensions = space.identity
    dimensions.pop(space.seed_key, None)  # how many seeds decide is no part of the question
    return _name(space, meaning, dimensions)


def automatic_name_in_0_1(space: Space, meaning: Mapping[str, Any]) -> str:
    """The name that version 0.1 gave a study, for which a space was what had been written."""
    as_written = space.identity_as_written
    if "space" in meaning:
        meaning = {**meaning, "space": as_written}
    return _name(space, meaning, as_written)


def _name(space: Space, meaning: Mapping[str, Any], dimensions: Mapping[str, str]) -> str:
    varied = []
    for key in space.dimensions:
        varied.append(key.lstrip("+~").split(".")[-1].replace("/", "-"))
    everything = [meaning, dimensions]
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    return f"{'-'.join(varied)[:60] or 'one'}-{digest[:6]}"


def unvaried_config(
    config: DictConfig,
    space: Space,
    defaults_before: Mapping[str, Any],
    unmeant_keys: Sequence[str] = (),
    *,
    kept: str = "",
) -> dict[str, Any]:
    """The config without what varies and without where things are stored, as nested dicts.

    kept: a group whose section stays although it varies.
    """
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    for name in NOT_MEANT:
        container.pop(name, None)
    # What a listed cell leaves open has the config's own value.
    left_out = [*(key for key in space.free_keys if key != kept), *unmeant_keys]
    for key, before in defaults_before.items():
        if OmegaConf.select(config, key) == before:
            left_out.append(key)
    for key in left_out:
        _remove(container, key)
    return {str(name): value for name, value in container.items()}


def _call(
    group: str,
    config: DictConfig,
    space: Space,
    defaults_before: Mapping[str, Any],
    unmeant_keys: Sequence[str],
) -> dict[str, Any]:
    """The keys of a group's own section, but for those that vary by themselves, where it calls code
    of the user's; none of another section.

    Such as a model, of which the name alone would not tell that its file was changed.
    """
    section: Any = unvaried_config(config, space, defaults_before, unmeant_keys, kept=group)
    path = _path(group)
    for name in path:
        section = section.get(name) if isinstance(section, dict) else None
    if not any(targets(section)):
        return {}
    values = flat(section, ".".join(path))
    for key, value in values.items():
        digest = _digest(config, value)
        if digest:
            values[key] = f"{value} ({digest})"
    return values


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a choice of a group sets beyond the group's own section; None for a key that
    is gone.

    Such as an experiment's, of which the name alone would not tell that its file was changed.
    """
    keys = sorted(before.keys() | after.keys())
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def _interpolated(config: DictConfig, unvaried: dict[str, Any], space: Space) -> dict[str, str]:
    """A digest of each value that comes from elsewhere, such as `${oc.env:SEED}`, by its key.

    The meaning keeps it as it is written, and not what it was, because that may be a password.
    """
    written = flat(unvaried)
    for key, dimension in space.dimensions.items():
        if isinstance(dimension, Choices):
            written |= {f"{key}={text}": text for text in dimension.texts.values()}
    digests = {}
    for key, value in written.items():
        digest = _digest(config, value)
        if digest:
            digests[key] = digest
    return digests


def _digest(config: DictConfig, value: Any) -> str:
    """Of what a value stands for that comes from elsewhere; empty for another one."""
    text = OF_RUN.sub("", str(value))
    if not set(RESOLVER.findall(text)) - set(OF_CONFIG):
        return ""
    return hashlib.sha256(_resolved(config, text).encode()).hexdigest()[:8]


def _resolved(config: DictConfig, text: str) -> str:
    """What a text of the config stands for; itself where that can't be said."""
    try:
        return str(OmegaConf.create({"value": text}, parent=config).value)
    except OmegaConfBaseException:
        return text


def _remove(container: Mapping[Any, Any], key: str) -> None:
    """Take out what an override's key has, if it is there."""
    *parents, last = _path(key)
    node: Any = container
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)


def _path(key: str) -> list[str]:
    """Where the key of an override stands, such as `+model.extra`, or a group's section, which
    `db@backup` has at `backup`."""
    name, _, package = key.lstrip("+~").partition("@")
    return (package or name).replace("/", ".").split(".")
