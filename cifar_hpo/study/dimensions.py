"""One dimension of a search space: `Choices` or an `Interval`, parsed from an override of Hydra's.

Hydra's meaning of its syntax holds: `range(1,3)` is 1, 2. An `interval` of a key that takes whole
numbers gives these, both ends included; so does `int(interval(1,3))` for any key.

A value has one spelling, whatever was typed: 0.0 is 0, and "relu" in quotes is relu.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException

from cifar_hpo.errors import ConfigError
from cifar_hpo.hydra_internals import parsed_value, range_value

log = logging.getLogger(__name__)

Value = bool | int | float | str
"""A number or a truth value; anything else is the text that an override has for it."""

MAX_CHOICES = 100_000
"""Values of one dimension that are listed; a thousand take some 0.2 MiB."""

EXACT_INTEGERS = 2**53
"""Up to here a float that is whole means one integer alone."""


@dataclass(frozen=True)
class Choices:
    """Finitely many values, and how each was written; step is the distance of the whole numbers of
    a `range`, else 0.

    `text` knows further values too: a study of a name may hold trials of an earlier, different
    grid.
    """

    texts: Mapping[Value, str]
    step: int = 0

    def text(self, value: Value) -> str:
        return self.texts.get(canonical(value), str(value))

    def has(self, value: Value) -> bool:
        """Whether it is one of them; Python takes 1 for true, which it is not here."""
        value = canonical(value)
        if value not in self.texts:
            return False
        if value not in (0, 1):
            return True
        kinds = {type(known) is bool for known in self.texts if known == value}
        return (type(value) is bool) in kinds

    @property
    def identity(self) -> str:
        """The same for the same set of values; as version 0.1 noted it where they were sorted."""
        values = sorted({canonical(value) for value in self.texts}, key=_sort_key)
        return repr(Choices({value: str(value) for value in values}))

    @property
    def identity_as_written(self) -> str:
        """What version 0.1 noted for these texts, which it kept in their order and spelling."""
        texts = {_value_in_0_1(text): text for text in self.texts.values()}
        are_whole = all(isinstance(value, int) for value in texts)
        return repr(Choices(texts, self.step if are_whole else 0))


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
        if isinstance(value, bool | str) or (self.whole and not isinstance(value, int)):
            return False
        return self.low <= value <= self.high

    @property
    def identity(self) -> str:
        """The same for the same set of numbers; ends that are not both whole are floats."""
        if self.whole:
            return repr(self)
        return repr(Interval(float(self.low), float(self.high), self.log))

    @property
    def identity_as_written(self) -> str:
        return repr(self)


Dimension = Choices | Interval


def parse_part(override: Override) -> Dimension | str:
    """A dimension, or the text of an override that does not vary.

    Raises ConfigError for what has no values, or values that can't be told apart.
    """
    if not override.is_sweep_override():
        return str(override.input_line)
    if override.is_discrete_sweep():
        return _parse_choices(override)
    return _parse_interval(override)


def whole_numbers(key: str, interval: Interval) -> Interval:
    """Those of an interval, whose key takes no others.

    Raises ConfigError where its ends are none.
    """
    low, high = interval.low, interval.high
    written = f"{key}=interval({low},{high})"
    if not float(low).is_integer() or not float(high).is_integer():
        raise ConfigError(key, f"{written}: the ends must be whole numbers")
    whole = Interval(int(low), int(high), interval.log)
    _refuse_inexact(key, written, whole)
    return whole


def canonical(value: Value) -> Value:
    """The one spelling of a value: 0.0 is 0, and a text in quotes that needs none has none."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INTEGERS:
        return int(value)
    if isinstance(value, str) and value.startswith(("'", '"')):
        with contextlib.suppress(HydraException):
            return parse_value(value)
    return value


def identity(params: Mapping[str, Value]) -> str:
    """The same for the same configuration, whatever the order of its keys and the spelling of its
    values."""
    return json.dumps({key: canonical(value) for key, value in params.items()}, sort_keys=True)


def identities(configurations: Iterable[Mapping[str, Value]]) -> set[str]:
    """The identity of each configuration."""
    return {identity(params) for params in configurations}


def parse_value(text: str) -> Value:
    """The value that an override's text means in Hydra; the text itself where it is a sweep.

    Raises Hydra's own errors for what can't be parsed.
    """
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    if override.is_sweep_override():
        return text
    return _element_value(parsed_value(override))


def parse_element(path: str, text: str) -> tuple[Override, Value, str]:
    """An override of a single value: itself, its value, and how that is written.

    path: where it stands in the config, for errors. Raises ConfigError for several values, and for
    what is no value to try; Hydra's own errors for what can't be parsed.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    if override.is_sweep_override():
        raise ConfigError(path, f"{text} is more than one value; a cell has one for each key")
    element = parsed_value(override)
    value = _element_value(element)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(path, f"{text}: no number to try")
    return override, value, Transformer.str(element)


def add_choice(path: str, texts: dict[Value, str], value: Value, text: str) -> None:
    """Add a value to a dimension's, with how it is written.

    Raises ConfigError where another value can't be told from it, as 1 from true.
    """
    for known, written in texts.items():
        if known == value and isinstance(known, bool) != isinstance(value, bool):
            raise ConfigError(path, f"{written} and {text} can't be told apart; leave one out")
    texts.setdefault(value, text)


def as_written(value: Any) -> str:
    """How an override writes a config's value: null for None, and a text as it is."""
    return value if isinstance(value, str) else Transformer.str(value)


def dimension_identity(written: str) -> str:
    """The identity of a dimension that an earlier version noted as `repr` of it."""
    try:
        call = ast.parse(written, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        fields: dict[str, Any] = {
            str(word.arg): ast.literal_eval(word.value) for word in call.keywords
        }
    except (SyntaxError, ValueError):
        return written
    kind = Interval if call.func.id == "Interval" else Choices
    return kind(**fields).identity


def _sort_key(value: Value) -> tuple[str, Value]:
    """Truth values, then numbers, then texts."""
    if isinstance(value, bool):
        return "bool", value
    return ("text", value) if isinstance(value, str) else ("number", value)


def _value_in_0_1(text: str) -> Value:
    """What version 0.1 took a text for: it kept quotes, and 0.0 beside 0."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _parse_choices(override: Override) -> Choices:
    """Raises ConfigError where there are no values, more than MAX_CHOICES, or two that can't be
    told apart."""
    key = override.get_key_element()
    texts: dict[Value, str] = {}
    written: dict[Value, Any] = {}
    for element in _elements(override):
        value, text = _element_value(element), Transformer.str(element)
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(key, f"{override.input_line}: nan is no value to try")
        if value not in texts:
            texts[value], written[value] = text, element
        elif type(element) is type(written[value]):
            log.warning("%s=%s stands there twice; it is tried once", key, text)
        else:
            problem = f"{texts[value]} and {text} can't be told apart; leave one of them out"
            raise ConfigError(key, problem)
    if not texts:
        raise ConfigError(key, f"{override.input_line} has no values")
    sweep = override.value()
    are_whole = all(isinstance(value, int) for value in texts)
    if isinstance(sweep, RangeSweep) and are_whole and len(texts) > 1:
        step = float(sweep.step)
        return Choices(texts, abs(int(step)) if step.is_integer() else 0)
    return Choices(texts)


def _elements(override: Override) -> Iterable[Any]:
    """What a discrete sweep consists of, as Hydra's parser made it.

    Hydra adds up the steps of a range of floats, whose last one may then be its end.
    """
    sweep = override.value()
    if not isinstance(sweep, RangeSweep):
        return override.sweep_iterator(transformer=Transformer.identity)
    ends = (sweep.start, sweep.stop, sweep.step)
    if not all(end is not None and math.isfinite(end) for end in ends) or not sweep.step:
        problem = f"{override.input_line}: start, stop and step must be finite, and step not 0"
        raise ConfigError(override.get_key_element(), problem)
    start, stop, step = (Decimal(str(end)) for end in ends)
    count = max(0, math.ceil((stop - start) / step))
    if count > MAX_CHOICES:
        problem = f"{override.input_line} has {count:,} values, of at most {MAX_CHOICES:,}"
        hint = "an interval has no such limit"
        raise ConfigError(override.get_key_element(), f"{problem}; {hint}")
    if all(isinstance(end, int) for end in ends):
        return override.sweep_iterator(transformer=Transformer.identity)
    values = [float(start + place * step) for place in range(count)]
    return [range_value(sweep, value) for value in values]


def _parse_interval(override: Override) -> Interval:
    """Raises ConfigError for ends that do not rise, or of which there is no logarithm."""
    key = override.get_key_element()
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not math.isfinite(high - low):
        raise ConfigError(key, f"{override.input_line}: the ends must be finite")
    is_log = "log" in sweep.tags
    if is_log and not 0 < low < high:
        raise ConfigError(key, f"{override.input_line}: the ends must rise, from above 0")
    if not low < high:
        raise ConfigError(key, f"{override.input_line}: the ends must rise")
    interval = Interval(low, high, is_log)
    _refuse_inexact(key, str(override.input_line), interval)
    return interval


def _refuse_inexact(key: str, written: str, interval: Interval) -> None:
    """Raise ConfigError for whole numbers of which a float can't be each."""
    if interval.whole and max(abs(interval.low), abs(interval.high)) > EXACT_INTEGERS:
        raise ConfigError(key, f"{written}: whole numbers must be within ±2**53")


def _element_value(element: Any) -> Value:
    """The value of what Hydra's parser makes of a text: numbers as such, all else as text."""
    if isinstance(element, bool):
        return element
    if isinstance(element, int | float):
        return canonical(element)
    if isinstance(element, QuotedString):
        return _unquoted(element)
    return Transformer.str(element)


def _unquoted(quoted: QuotedString) -> str:
    """Without quotes where the text means the same without; else in single quotes."""
    plain = Transformer.str(quoted.text)
    with contextlib.suppress(HydraException):
        (override,) = OverridesParser.create().parse_overrides([f"key={plain}"])
        if not override.is_sweep_override() and override.value() == quoted.text:
            return plain
    return QuotedString(quoted.text, Quote.single).with_quotes()
