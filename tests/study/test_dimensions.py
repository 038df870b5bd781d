"""Hydra's sweep syntax for one key, and what it becomes."""

from __future__ import annotations

import string
from random import Random
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st
from support import config_loader, parse_space

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.dimensions import (
    Choices,
    Interval,
    Value,
    canonical,
    dimension_identity,
    parse_value,
)
from cifar_hpo.study.space import Space

BRIEF = settings(max_examples=100, deadline=None, database=None)
COMPOSED = settings(BRIEF, max_examples=30)  # Hydra takes 0.03 s for a space


@pytest.fixture
def loader() -> ConfigLoaderImpl:
    return config_loader()


CHOICES = {
    "model.filters=4,8,16": [4, 8, 16],
    "model.filters=choice(4,8)": [4, 8],
    "model.filters=range(1,3)": [1, 2],
    "model.filters=range(4,17,4)": [4, 8, 12, 16],
    "model.filters=[4,8],[4,8,16]": ["[4,8]", "[4,8,16]"],
    "model.batch_norm=true,false": [True, False],
    "optimizer=adam,sgd": ["adam", "sgd"],
    "optimizer=glob(ada*)": ["adam", "adamw"],
    "optimizer.learning_rate=1e-3,1e-2": [0.001, 0.01],
    "model.filters=shuffle(4,4)": [4],
    "model.filters=4,8,4": [4, 8],
    "+extra=a,b": ["a", "b"],
}


@pytest.mark.parametrize("override", CHOICES)
def test_choices(override: str, loader: ConfigLoaderImpl) -> None:
    (part,) = Space.parse([override], {}, loader).dimensions.values()
    assert isinstance(part, Choices)
    assert list(part.texts) == CHOICES[override]


INTERVALS = {
    "x=interval(0.1,1)": (Interval(0.1, 1, log=False), False),
    "x=interval(1,10)": (Interval(1.0, 10.0, log=False), False),
    "x=int(interval(1,10))": (Interval(1, 10, log=False), True),
    "x=tag(log,interval(1e-4,1e-1))": (Interval(1e-4, 1e-1, log=True), False),
}


@pytest.mark.parametrize("override", INTERVALS)
def test_intervals(override: str, loader: ConfigLoaderImpl) -> None:
    space = Space.parse([override], {}, loader)
    expected, whole = INTERVALS[override]
    assert space.dimensions == {"x": expected}
    (dimension,) = space.dimensions.values()
    assert isinstance(dimension, Interval)
    assert dimension.whole is whole
    assert not space.is_finite


@pytest.mark.parametrize(
    "override", ["x=interval(1,1)", "x=interval(2,1)", "x=tag(log,interval(0,1))", "x=range(3,3)"]
)
def test_an_empty_dimension_is_refused(override: str, loader: ConfigLoaderImpl) -> None:
    with pytest.raises(ConfigError, match=r"^x: "):
        Space.parse([override], {}, loader)


integers = st.integers(-1000, 1000)
floats = st.floats(-1e6, 1e6, allow_nan=False)
words = st.text(string.ascii_letters + string.digits + "_- /.@'\"\\,[]{}()=:$%", max_size=6)
values: st.SearchStrategy[Value] = st.booleans() | integers | floats | words


def written(value: Value) -> str:
    """A value as a user writes it, who puts every text in quotes."""
    if not isinstance(value, str):
        return str(value)
    return QuotedString(value, Quote.double).with_quotes()


def is_expressible(value: Value) -> bool:
    """Hydra takes `$` and what follows for an interpolation."""
    return not isinstance(value, str) or "${" not in value


def meaning_of(text: str) -> Any:
    """What Hydra gives a config for an override's text, with its type."""
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    value = override.value()
    return type(value), value


@BRIEF
@given(values.filter(is_expressible))
def test_parse_and_print_are_inverse(value: Value) -> None:
    text = written(value)
    parsed = parse_value(text)
    printed = Choices({parsed: text}).text(parsed)
    assert parse_value(printed) == parsed
    assert parse_value(str(parsed)) == parsed
    assert canonical(parsed) == parsed
    if isinstance(value, str):
        assert meaning_of(str(parsed)) == (str, value)
    else:
        assert parsed == value


@COMPOSED
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=5, unique=True),
    st.randoms(use_true_random=False),
)
def test_the_same_set_of_values_is_the_same_however_it_is_written(
    numbers: list[int], random: Random
) -> None:
    expected = parse_space("+x=" + ",".join(map(str, sorted(numbers)))).identity
    random.shuffle(numbers)
    listed = ",".join(map(str, numbers))
    spellings = [listed, f"choice({listed})", f"shuffle({listed})", f"sort({listed},reverse=true)"]
    spellings.append(",".join(f"{number}.0" for number in numbers))
    spellings.append(",".join([*map(str, numbers), str(numbers[0])]))
    for spelling in spellings:
        assert parse_space(f"+x={spelling}").identity == expected, spelling


@COMPOSED
@given(st.integers(-5, 5), st.integers(2, 6), st.integers(1, 4))
def test_a_range_is_its_numbers(start: int, count: int, step: int) -> None:
    stop = start + count * step
    listed = ",".join(map(str, range(start, stop, step)))
    identity_of_range = parse_space(f"+x=range({start},{stop},{step})").identity
    assert identity_of_range == parse_space(f"+x={listed}").identity
    assert identity_of_range != parse_space(f"+x={listed},{stop}").identity


SAME = [
    ("+x=0,0.5", "+x=0.0,0.5"),
    ('+x="relu",elu', "+x=elu,relu"),
    ("+x='relu',elu", '+x="relu","elu"'),
    ("+x=true,false", "+x=False,True"),
    ("+x='1',a", '+x=a,"1"'),
    ("+x=interval(0,0.5)", "+x=interval(0.0,0.5)"),
    ("+x=interval(0,5.0)", "+x=interval(0.0,5.0)"),
]
DIFFERENT = [
    ("+x=1,a", "+x='1',a"),
    ("+x=true,a", "+x='true',a"),
    ("+x=interval(1,5)", "+x=tag(log,interval(1,5))"),
    ("+x=1,2", "+x=1,2,3"),
    ("+x=1,2", "+y=1,2"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_spelling_is_no_part_of_a_space(first: str, second: str) -> None:
    assert parse_space(first).identity == parse_space(second).identity


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_other_values_are_another_space(first: str, second: str) -> None:
    assert parse_space(first).identity != parse_space(second).identity


NOTED_BY_0_1 = {
    "optimizer=adam,sgd": "Choices(texts={'adam': 'adam', 'sgd': 'sgd'}, step=0)",
    "optimizer=sgd,adam": "Choices(texts={'sgd': 'sgd', 'adam': 'adam'}, step=0)",
    "model.filters=range(4,13,4)": "Choices(texts={4: '4', 8: '8', 12: '12'}, step=4)",
    "model.dropout=0.0,0.5": "Choices(texts={0.0: '0.0', 0.5: '0.5'}, step=0)",
    "model.dropout=range(0.0,3.0)": "Choices(texts={0.0: '0.0', 1.0: '1.0', 2.0: '2.0'}, step=0)",
    'model.activation="relu",elu': "Choices(texts={'\"relu\"': '\"relu\"', 'elu': 'elu'}, step=0)",
    "model.batch_norm=true,false": "Choices(texts={True: 'True', False: 'False'}, step=0)",
    "model.filters=[4,8],[8]": "Choices(texts={'[4,8]': '[4,8]', '[8]': '[8]'}, step=0)",
    "model.dropout=interval(0,0.5)": "Interval(low=0.0, high=0.5, log=False)",
    "model.dropout=tag(log,interval(1e-4,1e-1))": "Interval(low=0.0001, high=0.1, log=True)",
}


@pytest.mark.parametrize("override", NOTED_BY_0_1)
def test_what_version_0_1_noted_is_known(override: str) -> None:
    space = parse_space(override)
    (noted,) = space.identity_as_written.values()
    assert noted == NOTED_BY_0_1[override]
    (identity_now,) = space.identity.values()
    assert dimension_identity(noted) == identity_now
    assert dimension_identity(identity_now) == identity_now


def test_where_values_were_sorted_version_0_1_noted_the_same() -> None:
    for override in ("optimizer=adam,sgd", "model.filters=4,8,16", "+x=interval(0,0.5)"):
        space = parse_space(override)
        assert space.identity == space.identity_as_written


def test_an_interval_of_whole_numbers_is_another_than_one_of_floats() -> None:
    whole, real = Interval(0, 5, log=False), Interval(0.0, 5.0, log=False)
    assert whole.identity != real.identity
    assert Interval(0, 5.0, log=False).identity == real.identity
    for interval in (whole, real):
        assert dimension_identity(interval.identity) == interval.identity


@pytest.mark.parametrize("values", ["true,1", "1,true", "false,0", "1,1.0", "0.0,0", "1e2,100"])
def test_values_that_python_takes_for_equal_are_refused(values: str) -> None:
    with pytest.raises(ConfigError, match=r"^\+x: .* can't be told apart"):
        parse_space(f"+x={values}")


def test_a_truth_value_is_no_number_of_a_space() -> None:
    numbers, truths = parse_space("+x=0,1"), parse_space("+x=false,true")
    assert numbers.holds({"+x": 1})
    assert truths.holds({"+x": True})
    assert not numbers.holds({"+x": True})
    assert not truths.holds({"+x": 1})


def test_a_text_is_no_number_and_null_is_a_value() -> None:
    (dimension,) = parse_space("+x='1',1,null,'null'").dimensions.values()
    assert isinstance(dimension, Choices)
    assert list(dimension.texts.values()) == ["'1'", "1", "null", "'null'"]
    assert [meaning_of(text)[1] for text in dimension.texts.values()] == ["1", 1, None, "null"]


RANGES = {
    "range(0.1,0.4,0.1)": [0.1, 0.2, 0.3],
    "range(0.1,0.35,0.1)": [0.1, 0.2, 0.3],
    "range(0,1,0.25)": [0, 0.25, 0.5, 0.75],
    "range(0.3,0,-0.1)": [0.3, 0.2, 0.1],
    "range(1e-3,4e-3,1e-3)": [0.001, 0.002, 0.003],
    "range(5,1,-2)": [5, 3],
}


@pytest.mark.parametrize("text", RANGES)
def test_a_range_of_floats_has_its_steps_and_not_its_end(text: str) -> None:
    (dimension,) = parse_space(f"+x={text}").dimensions.values()
    assert isinstance(dimension, Choices)
    assert list(dimension.texts) == RANGES[text]


@pytest.mark.parametrize(
    "text",
    [
        *("range(0,1000000000)", "range(0,1,1e-9)", "range(1,5,0)", "range(0,inf)"),
        *("range(nan,1)", "interval(nan,1)", "interval(0,inf)", "int(interval(0,1e300))", "nan,1"),
    ],
)
def test_what_has_no_end_or_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^\+x: "):
        parse_space(f"+x={text}")


@pytest.mark.parametrize("text", ["interval(8,64)", "tag(log,interval(8.0,64))"])
def test_an_interval_of_a_key_of_whole_numbers_has_these(
    text: str, loader: ConfigLoaderImpl
) -> None:
    space = Space.parse([f"x={text}"], {}, loader).with_whole_numbers(["x"])
    (dimension,) = space.dimensions.values()
    assert isinstance(dimension, Interval)
    assert dimension.whole
    assert [type(value) for value in (dimension.low, dimension.high)] == [int, int]
    (floats,) = Space.parse([f"x={text}"], {}, loader).dimensions.values()
    assert isinstance(floats, Interval)
    assert not floats.whole


def test_values_of_params_are_written_as_overrides(loader: ConfigLoaderImpl) -> None:
    params = {"a": None, "b": True, "c": [4, None], "d": "null,3", "e": 0.5}
    space = Space.parse([], params, loader)
    assert space.overrides({"d": "null"}) == ("a=null", "b=True", "c=[4,null]", "d=null", "e=0.5")


@pytest.mark.parametrize("range_of", ["0,16000000", "0,1,1e-9", "16000000"])
def test_a_range_that_would_fill_the_memory_is_refused_at_once(
    range_of: str, loader: ConfigLoaderImpl
) -> None:
    with pytest.raises(ConfigError, match=r"^\+x: .* values, of at most 100,000; an interval"):
        Space.parse([f"+x=range({range_of})"], {}, loader)
