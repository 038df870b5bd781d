"""A search space from Hydra's overrides: each `Choices` or `Interval` is a dimension, everything
else is fixed.

Hydra's meaning of its syntax holds: `range(1,3)` is 1, 2. An `interval` with two whole ends gives
whole numbers, both ends included. A parameter may exist for some choices only: `optimizer.momentum`
where the optimizer has one, or as `hydra.sweeper.conditions` say.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from cifar_hpo.errors import ConfigError

log = logging.getLogger(__name__)

Value = bool | int | float | str


@dataclass(frozen=True)
class Choices:
    """Finitely many values, and how each was written; step is the distance of the whole numbers of
    a `range`, else 0.

    `text` knows others too: a study of a name may hold trials of an earlier, different grid.
    """

    texts: Mapping[Value, str]
    step: int = 0

    def text(self, value: Value) -> str:
        return self.texts.get(value, str(value))

    def has(self, value: Value) -> bool:
        return value in self.texts


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high; whole numbers where both ends are whole, drawn by their logarithm
    where `log`."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self, value: Value) -> str:
        return repr(value)

    def has(self, value: Value) -> bool:
        return (
            isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high
        )


@dataclass(frozen=True)
class Space:
    """Overrides in the order in which they were given: by key, either a dimension or the text of a
    fixed override.

    groups: the dimensions that choose among a config group's options. absent: for each combination
    of their choices, the parameters whose key does not exist then. conditions: for a parameter, the
    dimension on which it depends and the choices for which it exists.
    """

    parts: Mapping[str, Choices | Interval | str]
    groups: tuple[str, ...] = ()
    absent: Mapping[tuple[Value, ...], frozenset[str]] = field(default_factory=dict)
    conditions: Mapping[str, tuple[str, frozenset[Value]]] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        overrides: Sequence[str],
        params: Mapping[str, Any],
        config_loader: Any,
        conditions: Mapping[str, str] | None = None,
    ) -> Space:
        """From `hydra.sweeper.params` and the command line, which wins where both name a key.

        Raises Hydra's own errors for what can't be parsed, ConfigError for an interval that is none
        or a condition on nothing.
        """
        texts = [f"{key}={value}" for key, value in params.items()] + list(overrides)
        parts: dict[str, Choices | Interval | str] = {}
        for override in OverridesParser.create(config_loader=config_loader).parse_overrides(texts):
            parts[override.get_key_element()] = _part(override)
        groups = tuple(
            key
            for key, part in parts.items()
            if not isinstance(part, str) and config_loader.get_group_options(key)
        )
        depends = {}
        for key, condition in (conditions or {}).items():
            other, _, values = condition.partition("=")
            if key not in parts or isinstance(parts.get(other, ""), str):
                raise ConfigError(
                    f"hydra.sweeper.conditions.{key}",
                    f"{condition!r}: both {key} and {other} must vary",
                )
            depends[key] = (other, frozenset(typed(value) for value in values.split(",")))
        _refuse_circles(depends)
        return cls(parts, groups, conditions=depends)

    @property
    def dimensions(self) -> dict[str, Choices | Interval]:
        return {key: part for key, part in self.parts.items() if not isinstance(part, str)}

    @property
    def order(self) -> list[str]:
        """Dimensions so that each comes after those on which it depends, groups first."""
        ordered: dict[str, None] = {}

        def add(key: str) -> None:
            if key in self.conditions:
                add(self.conditions[key][0])
            ordered.setdefault(key)

        for key in sorted(
            self.dimensions, key=lambda key: (key not in self.groups, key in self.conditions)
        ):
            add(key)
        return list(ordered)

    @property
    def size(self) -> float:
        """How many cells there are, conditions not considered."""
        return math.prod(
            len(part.texts) if isinstance(part, Choices) else math.inf
            for part in self.dimensions.values()
        )

    @property
    def is_finite(self) -> bool:
        return self.size < math.inf

    def is_active(self, key: str, params: Mapping[str, Value]) -> bool:
        """Whether a parameter exists for the values of those before it."""
        if key in self.conditions:
            other, values = self.conditions[key]
            if params.get(other) not in values:
                return False
        return key in self.groups or key not in self.absent.get(
            tuple(params[group] for group in self.groups if group in params), ()
        )

    def _existing(self, cell: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of a cell that exist, in the order of the dimensions."""
        existing: dict[str, Value] = {}
        for key in self.order:  # what a parameter depends on may itself not exist
            if self.is_active(key, existing):
                existing[key] = cell[key]
        return {key: existing[key] for key in self.dimensions if key in existing}

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether these are a configuration of this space."""
        active = [key for key in self.order if self.is_active(key, params)]
        return set(active) == set(params) and all(
            self.dimensions[key].has(params[key]) for key in active
        )

    def cells(self) -> Iterator[dict[str, Value]]:
        """Every combination once, the last dimension fastest; one empty cell where nothing
        varies."""
        choices = [part.texts for part in self.dimensions.values() if isinstance(part, Choices)]
        conditional = bool(self.conditions or any(self.absent.values()))
        seen = set()
        for values in itertools.product(*choices):
            cell = dict(zip(self.dimensions, values, strict=True))
            if conditional:
                cell = self._existing(cell)
                if (identity := tuple(cell.items())) in seen:
                    continue
                seen.add(identity)
            yield cell

    def corners(self) -> Iterator[dict[str, Value]]:
        """Cells that together hold each choice and each end of each interval once."""
        ends = {
            key: list(part.texts) if isinstance(part, Choices) else [part.low, part.high]
            for key, part in self.dimensions.items()
        }
        for place in range(max(map(len, ends.values()), default=1)):
            cell = {key: values[min(place, len(values) - 1)] for key, values in ends.items()}
            yield self._existing(cell)

    def overrides(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """What the user would type for one configuration."""
        chosen = (
            (key, part)
            for key, part in self.parts.items()
            if isinstance(part, str) or key in params
        )
        return tuple(
            part if isinstance(part, str) else f"{key}={part.text(params[key])}"
            for key, part in chosen
        )


def _refuse_circles(conditions: Mapping[str, tuple[str, frozenset[Value]]]) -> None:
    """Raise ConfigError for parameters that depend on one another."""
    for key in conditions:
        chain = [key]
        while chain[-1] in conditions:
            chain.append(conditions[chain[-1]][0])
            if chain[-1] == key:
                circle = " needs ".join(chain)
                raise ConfigError(f"hydra.sweeper.conditions.{key}", f"a circle: {circle}")
            if len(chain) > len(conditions) + 1:  # it leads into a circle that is told of below
                break


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
        value = override.value()
        is_whole = (
            isinstance(value, RangeSweep)
            and all(isinstance(number, int) for number in texts)
            and len(texts) > 1
        )
        return Choices(texts, abs(int(value.step)) if is_whole else 0)  # type: ignore[union-attr]
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    assert sweep.start is not None
    assert sweep.end is not None
    is_log = "log" in sweep.tags
    if not sweep.start < sweep.end or (is_log and sweep.start <= 0):
        raise ConfigError(
            key, f"{override.input_line}: the ends must rise{', from above 0' if is_log else ''}"
        )
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
