"""A key's range and type, and how a value outside of it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cifar_hpo.config.fields import check_values, flat, key, range_text
from cifar_hpo.errors import ConfigError


@dataclass
class Schema:
    whole: Any = key("a count", low=1, high=8, whole=True, listed=True)
    share: float = key("a share", low=0, below=1)
    positive: float | None = key("a rate", above=0)
    word: str = key("a word", choices=("yes", "no"))
    words: list[str] = key("several words", choices=("yes", "no"))
    mixed: Any = key("a share, or all", above=0, high=1, words=("all",))
    free: str = key("anything")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("whole", [1, 8, [1, 2, 8]]),
        ("share", [0, 0.0, 0.999]),
        ("positive", [1e-9, None, 3]),
        ("word", ["yes"]),
        ("words", [[], ["yes", "no"]]),
        ("mixed", [1, 0.5, "all"]),
        ("free", ["", 3, None]),
    ],
)
def test_values_within_the_range_pass(name: str, values: list[Any]) -> None:
    for value in values:
        check_values("part", Schema, {name: value})


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("whole", 0, "0 is out of range: must be ≥ 1 and ≤ 8 (a count)"),
        ("whole", [2, 9], "9 is out of range: must be ≥ 1 and ≤ 8 (a count)"),
        ("whole", 2.5, "2.5 is not a whole number ≥ 1 and ≤ 8 (a count)"),
        ("whole", True, "True is not a whole number ≥ 1 and ≤ 8 (a count)"),
        ("whole", None, "None is not a whole number ≥ 1 and ≤ 8 (a count)"),
        ("whole", [], "[] is not a whole number ≥ 1 and ≤ 8 (a count)"),
        ("share", 1, "1 is out of range: must be ≥ 0 and < 1 (a share)"),
        ("share", float("nan"), "nan is not a number ≥ 0 and < 1 (a share)"),
        ("positive", float("inf"), "inf is not a number > 0 (a rate)"),
        ("positive", 0, "0 is out of range: must be > 0 (a rate)"),
        ("word", "maybe", "'maybe' is none of yes, no (a word)"),
        ("words", ["yes", "maybe"], "'maybe' is none of yes, no (several words)"),
        ("mixed", "some", "'some' is not a number ≤ 1 and > 0 (a share, or all)"),
    ],
)
def test_values_outside_are_refused_with_path_range_and_meaning(
    name: str, value: Any, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_values("part", Schema, {name: value})
    assert str(refused.value) == f"part.{name}: {problem}"


def test_a_range_is_written_with_its_signs() -> None:
    fields = Schema.__dataclass_fields__
    assert range_text(fields["whole"].metadata) == "≥ 1 and ≤ 8"
    assert range_text(fields["free"].metadata) == ""


def test_nested_dicts_are_flattened_and_lists_are_one_value() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert flat(nested) == {"a.b": 1, "a.c.d": [1, 2], "e": None}
