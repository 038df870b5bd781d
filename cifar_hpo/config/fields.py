"""A `key` of a config: its type in the annotation, its meaning, unit and range beside it.

`check_values` holds values against it.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.errors import ConfigError, message_of

SIGNS = {
    "low": ("≥", operator.ge),
    "high": ("≤", operator.le),
    "above": (">", operator.gt),
    "below": ("<", operator.lt),
}


def config_error(error: OmegaConfBaseException, path: str) -> ConfigError:
    """OmegaConf's error as ours. path: where it stands, unless the error says so itself."""
    return ConfigError(error.full_key or path, message_of(error))


def key(
    meaning: str,
    *,
    default: Any = "???",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    whole: bool = False,
    words: tuple[str, ...] = (),
    listed: bool = False,
) -> Any:
    """A key of the schema, as the field of a dataclass.

    meaning: with its unit. low, high: the range, ends included; above, below: the range, ends left
    out. choices: all values that it may have. whole: where the annotation leaves the type open,
    asks for a whole number. words: what may stand in for a number. listed: whether a list of such
    values may stand for one. default: the app's own keys have
    none here, theirs stand in conf/; OmegaConf's "???" refuses a key that is missing.
    """
    limits = {
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "whole": whole,
        "words": words,
        "listed": listed,
    }
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "choices": choices, **limits}
    )


def meant(meaning: str, default: Any) -> Any:
    """A key of a free form, with its meaning."""
    return dataclasses.field(default_factory=lambda: default, metadata={"meaning": meaning})


def check_values(path: str, schema: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first value that is outside of what its key allows."""
    for field in dataclasses.fields(schema):
        if field.name in values and "choices" in field.metadata:
            _check_value(f"{path}.{field.name}", values[field.name], field)


def as_list(value: str | Sequence[str]) -> list[str]:
    """An option that may be a single name or several."""
    return [value] if isinstance(value, str) else list(value)


def without_hydra(config: DictConfig) -> DictConfig:
    """A composed config without Hydra's own part; itself where it has none."""
    if "hydra" not in config:
        return config
    names = [name for name in config if name != "hydra"]
    return OmegaConf.masked_copy(config, names)  # type: ignore[arg-type]


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined with dots; a list is one value."""
    if not isinstance(node, dict):
        return {path: node}
    values: dict[str, Any] = {}
    for name, child in node.items():
        values |= flat(child, f"{path}.{name}" if path else str(name))
    return values


def _check_value(path: str, value: Any, field: dataclasses.Field[Any]) -> None:
    if value is None and "None" in str(field.type):
        return
    limits = field.metadata
    may_be_list = limits["listed"] or "list" in str(field.type)
    if isinstance(value, list) and value and may_be_list:
        for item in value:
            _check_item(path, item, limits)
        return
    _check_item(path, value, limits)


def _check_item(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    if limits["choices"]:
        _check_choice(path, value, limits)
    elif _is_number(limits) and not (isinstance(value, str) and value in limits["words"]):
        _check_number(path, value, limits)


def _check_choice(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    choices = limits["choices"]
    if value not in choices and value != []:
        problem = f"{value!r} is none of {', '.join(choices)}"
        raise ConfigError(path, f"{problem} ({limits['meaning']})")


def _check_number(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    wanted, meaning = range_text(limits), limits["meaning"]
    kind = int if limits["whole"] else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        number = "a whole number" if limits["whole"] else "a number"
        raise ConfigError(path, f"{value!r} is not {number} {wanted} ({meaning})")
    for name, (_, fits) in SIGNS.items():
        if limits[name] is not None and not fits(value, limits[name]):
            raise ConfigError(path, f"{value!r} is out of range: must be {wanted} ({meaning})")


def _is_number(limits: Mapping[str, Any]) -> bool:
    return limits["whole"] or bool(bounds(limits))


def range_text(limits: Mapping[str, Any]) -> str:
    """A key's range, such as `≥ 0 and < 1`; empty where it has none. limits: its metadata."""
    return " and ".join(f"{sign} {limit:g}" for sign, limit in bounds(limits))


def bounds(limits: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The ends of a key's range, each with its sign."""
    ends = []
    for name, (sign, _) in SIGNS.items():
        limit = limits.get(name)
        if limit is not None:
            ends.append((sign, limit))
    return ends
