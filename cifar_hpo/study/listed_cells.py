"""The cells of `hydra.sweeper.cells`: combinations that a user lists, one by one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.dimensions import (
    Choices,
    Dimension,
    Value,
    add_choice,
    as_written,
    identity,
    parse_element,
)

log = logging.getLogger(__name__)

PATH = "hydra.sweeper.cells"


def parse(
    cells: Sequence[Mapping[str, Any]],
    parts: Mapping[str, Dimension | str],
    names: dict[str, str],
) -> tuple[list[dict[str, Value]], dict[str, Choices]]:
    """The listed cells, each once, and the choices that each of their keys has in them.

    parts: what is given elsewhere. names: takes the key or group of each override. Raises
    ConfigError for what is no single value, and for a key that is given elsewhere, too.
    """
    elsewhere = {key.lstrip("+") for key in parts}
    listed: dict[str, dict[str, Value]] = {}
    texts: dict[str, dict[Value, str]] = {}
    for place, given in enumerate(cells):
        cell: dict[str, Value] = {}
        for written_key, written in given.items():
            path = f"{PATH}[{place}].{written_key}"
            override, value, text = parse_element(path, f"{written_key}={as_written(written)}")
            key = override.get_key_element()
            if override.is_hydra_override():
                raise ConfigError(path, "a sweep varies the app's own keys, not Hydra's")
            if key.lstrip("+") in elsewhere:
                raise ConfigError(
                    path, "given or swept beside the cells, too; leave one of them out"
                )
            add_choice(path, texts.setdefault(key, {}), value, text)
            names[key] = override.key_or_group
            cell[key] = value
        if identity(cell) in listed:
            log.warning("%s[%d] stands there twice; it is tried once", PATH, place)
        listed.setdefault(identity(cell), cell)
    return list(listed.values()), {key: Choices(values) for key, values in texts.items()}
