"""A `key` of a config: its type in the annotation, its meaning, unit and range beside it;
`check_values` holds values against it."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

from cifar_hpo.errors import ConfigError

SIGNS = {
    "low": ("≥", operator.ge),
    "high": ("≤", operator.le),
    "above": (">", operator.gt),
    "below": ("<", operator.lt),
}


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
) -> Any:
    """A key of the schema: its meaning with its unit, and its range: low and high belong to it,
    above and below do not. Where the annotation leaves the type open, `whole` asks for a whole
    number and `words` may stand in for a number.

    The model's own keys have no default here, theirs stand in conf/; OmegaConf's "???" refuses a
    key that is missing.
    """
    limits = {
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "whole": whole,
        "words": words,
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
            _check_range(f"{path}.{field.name}", values[field.name], field)


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined with dots; a list is one value."""
    if not isinstance(node, dict):
        return {path: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flat(child, f"{path}.{name}" if path else str(name)).items()
    }


def _check_range(path: str, value: Any, field: dataclasses.Field[Any]) -> None:
    limits = field.metadata
    is_number = limits["whole"] or any(limits[name] is not None for name in SIGNS)
    if value is None and "None" in str(field.type):
        return
    if isinstance(value, list) and value:
        for item in value:
            _check_range(path, item, field)
    elif limits["choices"]:
        if value not in limits["choices"] and value != []:
            raise ConfigError(
                path, f"{value!r} is none of {', '.join(limits['choices'])} ({limits['meaning']})"
            )
    elif is_number and not (isinstance(value, str) and value in limits["words"]):
        wanted = " and ".join(
            f"{sign} {limits[name]:g}"
            for name, (sign, _) in SIGNS.items()
            if limits[name] is not None
        )
        kind = int if limits["whole"] else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            number = "a whole number" if limits["whole"] else "a number"
            raise ConfigError(path, f"{value!r} is not {number} {wanted} ({limits['meaning']})")
        if not all(
            fits(value, limits[name])
            for name, (_, fits) in SIGNS.items()
            if limits[name] is not None
        ):
            raise ConfigError(
                path, f"{value!r} is out of range: must be {wanted} ({limits['meaning']})"
            )
