"""A composed config as dataclasses, its values converted but their ranges not yet looked at:
`to_typed`. A section that calls code of the user's is a `Call` by then. Nothing heavy is
imported."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo import paths
from cifar_hpo.config.app import (
    CALLABLE,
    DATA_SOURCES,
    FUNCTION,
    OPTIMIZERS,
    OWN_WITH_FUNCTION,
    Config,
)
from cifar_hpo.config.fields import config_error
from cifar_hpo.errors import ConfigError
from cifar_hpo.trust import TARGET, Call


def without_function(config: DictConfig) -> tuple[DictConfig, Call | None]:
    """The config with data's own keys alone where it names a function, and the call of that.

    All other keys of data are arguments. Raises ConfigError for values that can't be resolved.
    """
    given = config.get("data")
    if not isinstance(given, DictConfig) or TARGET not in given:
        if OmegaConf.select(config, "data.source") == FUNCTION:
            problem = "missing; data=function needs the dotted name of your function"
            raise ConfigError(f"data.{TARGET}", problem)
        return config, None
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)  # others may point to arguments
        data: Any = OmegaConf.to_container(given, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise config_error(error, "data") from None
    if data.get("source") in DATA_SOURCES:  # of a file that it builds on
        del data["source"]
    own = _data_defaults() | {"source": FUNCTION}
    for name in OWN_WITH_FUNCTION:
        if name in data:
            own[name] = data.pop(name)
    return OmegaConf.create(values | {"data": own}), Call.parse(data)


@functools.cache
def _data_defaults() -> dict[str, Any]:
    """The keys of data with their values where nobody says."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(paths.CONF / "data" / "auto.yaml"))
    return dict(defaults)


def to_typed(config: DictConfig) -> Config:
    """The config as dataclasses, its optimizer's by the optimizer's name.

    Raises ConfigError for keys that there are not, and for values of another type.
    """
    if not isinstance(config.get("optimizer"), DictConfig):
        problem = (
            "missing, or no group's choice; let a config begin with `defaults: [config, _self_]`"
        )
        raise ConfigError("optimizer", problem)
    name = OmegaConf.select(config, "optimizer.name")
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise ConfigError("optimizer.name", f"{name!r} is none of {', '.join(OPTIMIZERS)}")
    called = _calls(config)
    nothing: dict[str, Any] = dict.fromkeys(called)
    schema = dataclasses.replace(Config(optimizer=OPTIMIZERS[name]()), **nothing)
    if called:
        others = [section for section in config if section not in called]
        config = OmegaConf.masked_copy(config, others)  # type: ignore[arg-type]
    return dataclasses.replace(_merged(schema, config), **called)


def _calls(config: DictConfig) -> dict[str, Any]:
    """The sections that are calls to code of the user's."""
    called = {}
    for name in CALLABLE:
        section = config.get(name)
        if isinstance(section, DictConfig) and TARGET in section:
            node: Any = OmegaConf.to_container(section, resolve=True, throw_on_missing=True)
            called[name] = Call.parse(node)
    return called


def _merged(schema: Config, config: DictConfig) -> Config:
    """The sections of a config, all but those that are None in the schema, as dataclasses."""
    with contextlib.suppress(OmegaConfBaseException, TypeError):
        return _by_value(schema, config)
    try:  # for what is wrong with it
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config))
    except OmegaConfBaseException as error:
        raise config_error(error, "config") from None
    assert isinstance(typed, Config)
    return typed


def _by_value(schema: Config, config: DictConfig) -> Config:
    """The same with each value converted once in a process: OmegaConf takes some 8 ms for all of
    them, and a grid has thousands of configs that differ in few.

    Raises TypeError for keys that are not the schema's, OmegaConf's errors for other values.
    """
    sections: Any = OmegaConf.to_container(config, resolve=True)
    kinds = {name: type(section) for name, section in vars(schema).items() if section is not None}
    if sections.keys() != kinds.keys():
        raise TypeError(schema)
    typed = {}
    for section, kind in kinds.items():
        values = sections[section]
        _same_keys(kind, values)
        typed[section] = kind(**{name: _converted(kind, name, values[name]) for name in values})
    return dataclasses.replace(schema, **typed)


def _same_keys(schema: type, values: Any) -> None:
    names = {field.name for field in dataclasses.fields(schema) if "meaning" in field.metadata}
    if not isinstance(values, dict) or values.keys() != names:
        raise TypeError(schema)


_known_values: dict[tuple[type, str, str], Any] = {}
"""By schema, key and what was written, since 1 and true are equal."""


def _converted(schema: type, name: str, value: Any) -> Any:
    """A value as the type of its key has it. Raises OmegaConf's errors."""
    written = (schema, name, repr(value))
    if written not in _known_values:
        merged = OmegaConf.merge(OmegaConf.structured(schema), {name: value})
        values: Any = OmegaConf.to_container(merged)
        _known_values[written] = values[name]
    return copy.copy(_known_values[written])
