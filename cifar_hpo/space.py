"""A search space from Hydra's overrides: each `Choices` or `Interval` is a dimension, everything else is fixed.

Hydra's meaning of its syntax holds: `range(1,3)` is 1, 2. An `interval` with two whole ends gives whole numbers, both ends included.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from cifar_hpo.errors import ConfigError

log = logging.getLogger(__name__)

Value = bool | int | float | str


@dataclass(frozen=True)
class Choices:
    """Finitely many values, and how each was written."""

    texts: Mapping[Value, str]

    def text(self, value: Value) -> str:
        return self.texts[value]


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high; whole numbers where both ends are whole, drawn by their logarithm where `log`."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self, value: Value) -> str:
        return repr(value)


@dataclass(frozen=True)
class Space:
    """Overrides in the order in which they were given: by key, either a dimension or the text of a fixed override."""

    parts: Mapping[str, Choices | Interval | str]

    @classmethod
    def parse(cls, overrides: Sequence[str], params: Mapping[str, Any], config_loader: Any) -> Space:
        """From `hydra.sweeper.params` and the command line, which wins where both name a key.

        Raises Hydra's own errors for what can't be parsed, ConfigError for an interval that is none.
        """
        texts = [f"{key}={value}" for key, value in params.items()] + list(overrides)
        parts: dict[str, Choices | Interval | str] = {}
        for override in OverridesParser.create(config_loader=config_loader).parse_overrides(texts):
            parts[override.get_key_element()] = _part(override)
        return cls(parts)

    @property
    def dimensions(self) -> dict[str, Choices | Interval]:
        return {key: part for key, part in self.parts.items() if not isinstance(part, str)}

    @property
    def size(self) -> float:
        """How many cells there are."""
        return math.prod(len(part.texts) if isinstance(part, Choices) else math.inf for part in self.dimensions.values())

    @property
    def is_finite(self) -> bool:
        return self.size < math.inf

    def cells(self) -> Iterator[dict[str, Value]]:
        """Every combination, the last dimension fastest; one empty cell where nothing varies."""
        choices = [part.texts for part in self.dimensions.values() if isinstance(part, Choices)]
        for values in itertools.product(*choices):
            yield dict(zip(self.dimensions, values, strict=True))

    def corners(self) -> Iterator[dict[str, Value]]:
        """Cells that together hold each choice and each end of each interval once."""
        ends = [list(part.texts) if isinstance(part, Choices) else [part.low, part.high] for part in self.dimensions.values()]
        for place in range(max(map(len, ends), default=1)):
            yield {key: values[min(place, len(values) - 1)] for key, values in zip(self.dimensions, ends, strict=True)}

    def overrides(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """What the user would type for one configuration."""
        return tuple(part if isinstance(part, str) else f"{key}={part.text(params[key])}" for key, part in self.parts.items())


def _part(override: Override) -> Choices | Interval | str:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return str(override.input_line)
    if override.is_discrete_sweep():
        texts: dict[Value, str] = {}
        for text in override.sweep_string_iterator():
            if typed(text) in texts:
                log.warning("%s=%s stands there twice; it is tried once", key, text)
            texts.setdefault(typed(text), text)
        if not texts:
            raise ConfigError(key, f"{override.input_line} has no values")
        return Choices(texts)
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    assert sweep.start is not None
    assert sweep.end is not None
    is_log = "log" in sweep.tags
    if not sweep.start < sweep.end or (is_log and sweep.start <= 0):
        raise ConfigError(key, f"{override.input_line}: the ends must rise{', from above 0' if is_log else ''}")
    return Interval(sweep.start, sweep.end, is_log)


def typed(text: str) -> Value:
    """The number or truth value that a text means in Hydra, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text
