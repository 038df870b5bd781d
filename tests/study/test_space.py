"""Search spaces: their cells, in which order, and what is no cell."""

from __future__ import annotations

import itertools
import tracemalloc
from random import Random

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import given, settings
from hypothesis import strategies as st
from support import config_loader, parse_space

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.dimensions import Choices, Value, canonical, parse_value
from cifar_hpo.study.space import Space, identity

BRIEF = settings(max_examples=50, deadline=None, database=None)


@pytest.fixture
def loader() -> ConfigLoaderImpl:
    return config_loader()


def test_cells_come_in_the_order_of_nested_loops(loader: ConfigLoaderImpl) -> None:
    space = Space.parse(
        ["optimizer=adam,sgd", "training.epochs=3", "optimizer.learning_rate=1e-3,1e-2"], {}, loader
    )
    assert [space.overrides(cell) for cell in space.cells()] == [
        ("optimizer=adam", "training.epochs=3", "optimizer.learning_rate=0.001"),
        ("optimizer=adam", "training.epochs=3", "optimizer.learning_rate=0.01"),
        ("optimizer=sgd", "training.epochs=3", "optimizer.learning_rate=0.001"),
        ("optimizer=sgd", "training.epochs=3", "optimizer.learning_rate=0.01"),
    ]


def test_nothing_swept_is_one_cell(loader: ConfigLoaderImpl) -> None:
    space = Space.parse(["training.epochs=3", "~model.dropout"], {}, loader)
    assert [space.overrides(cell) for cell in space.cells()] == [
        ("training.epochs=3", "~model.dropout")
    ]


def test_the_command_line_wins_over_params_from_a_file(loader: ConfigLoaderImpl) -> None:
    space = Space.parse(["model.filters=2"], {"model.filters": "4,8", "model.depth": "2,3"}, loader)
    assert [space.overrides(cell) for cell in space.cells()] == [
        ("model.filters=2", "model.depth=2"),
        ("model.filters=2", "model.depth=3"),
    ]


CHAIN = ["+a=1,2", "+b=1,2", "+c=1,2"]


@pytest.mark.parametrize("order", [("+a", "+b"), ("+b", "+a")])
def test_what_a_parameter_needs_may_itself_need_another(
    order: tuple[str, ...], loader: ConfigLoaderImpl
) -> None:
    needs = {"+a": "+b=2", "+b": "+c=2"}
    space = Space.parse(CHAIN, {}, loader, {key: needs[key] for key in order})
    assert space.order == ["+c", "+b", "+a"]
    cells = list(space.cells())
    assert cells == [
        {"+c": 1},
        {"+b": 1, "+c": 2},
        {"+a": 1, "+b": 2, "+c": 2},
        {"+a": 2, "+b": 2, "+c": 2},
    ]
    assert all(space.holds(cell) for cell in [*cells, *space.corners()])
    assert not space.holds({"+a": 1, "+c": 1})


@pytest.mark.parametrize(
    "conditions",
    [
        {"+a": "+a=1"},
        {"+a": "+b=1", "+b": "+a=1"},
        {"+a": "+b=1", "+b": "+c=1", "+c": "+b=1"},
    ],
)
def test_parameters_that_need_one_another_are_refused(
    conditions: dict[str, str], loader: ConfigLoaderImpl
) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.conditions\.\+\w: a circle: .* needs "):
        Space.parse(CHAIN, {}, loader, conditions)


@pytest.mark.parametrize("condition", ["+b=3", "+b=1,two", "+b="])
def test_a_condition_on_a_choice_that_can_t_be_is_refused(
    condition: str, loader: ConfigLoaderImpl
) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.conditions\.\+a: .* can't be, so \+a"):
        Space.parse(CHAIN, {}, loader, {"+a": condition})


KEYS = ["+a", "+b", "+c", "+d"]
CHOICES_AS_WRITTEN = {
    "1,2": ["1", "2"],
    "0,0.5,2": ["0", "0.5", "2"],
    "choice(a)": ["a"],
    "a,b,true": ["a", "b", "true"],
}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Up to four dimensions, some of which need a choice of another, but never in a circle."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
    overrides = []
    choices = {}
    for key in draw(st.permutations(keys)):
        written = draw(st.sampled_from(sorted(CHOICES_AS_WRITTEN)))
        overrides.append(f"{key}={written}")
        choices[key] = CHOICES_AS_WRITTEN[written]
    conditions = {}
    for place, key in enumerate(keys[1:]):
        needed = draw(st.none() | st.sampled_from(keys[: place + 1]))
        if needed:
            values = draw(st.lists(st.sampled_from(choices[needed]), min_size=1, unique=True))
            conditions[key] = f"{needed}={','.join(values)}"
    return parse_space(*overrides, **conditions)


@BRIEF
@given(spaces())
def test_order_has_each_dimension_once_behind_what_it_needs(space: Space) -> None:
    assert sorted(space.order) == sorted(space.dimensions)
    for key, (needed, _) in space.conditions.items():
        assert space.order.index(needed) < space.order.index(key)


@BRIEF
@given(spaces())
def test_every_cell_is_held_and_comes_once(space: Space) -> None:
    cells = list(space.cells())
    assert cells
    assert len(cells) == space.n_cells <= space.size
    assert all(space.holds(cell) for cell in [*cells, *space.corners()])
    assert len({identity(cell) for cell in cells}) == len(cells)
    assert len({space.overrides(cell) for cell in cells}) == len(cells)
    for cell in cells:
        for key in space.dimensions:
            assert (key in cell) is space.is_active(key, cell)


@BRIEF
@given(spaces(), st.sampled_from(KEYS), st.sampled_from([0.0, 1, 2.0, "a", "'a'"]))
def test_cells_with_a_given_value_are_those_that_have_it(
    space: Space, key: str, value: Value
) -> None:
    if key not in space.dimensions or not space.dimensions[key].has(value):
        return
    wanted = {key: canonical(value)}
    cells = [cell for cell in space.cells() if wanted.items() <= cell.items()]
    assert list(space.cells({key: value})) == cells


WIDE = [f"+x{place}=range(0,8)" for place in range(8)]


@pytest.mark.parametrize("flag_first", [True, False])
def test_cells_of_a_huge_space_come_at_once_and_are_counted(flag_first: bool) -> None:
    """8**8 cells, with conditions that let most of them be the same, and with none."""
    needs = {f"+x{place}": "+flag=on" for place in range(8)}
    flag = "+flag=off,on"
    conditional = parse_space(*([flag, *WIDE] if flag_first else [*WIDE, flag]), **needs)
    tracemalloc.start()
    try:
        assert parse_space(*WIDE).n_cells == 8**8
        assert len(list(itertools.islice(parse_space(*WIDE).cells(), 1000))) == 1000
        assert conditional.n_cells == 8**8 + 1
        first = list(itertools.islice(conditional.cells(), 3))
        assert first[0] == {"+flag": "off"}
        assert len({identity(cell) for cell in first}) == 3
        assert list(conditional.cells({"+flag": "off"})) == first[:1]
        assert list(conditional.cells({"+flag": "off", "+x0": 1})) == []
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@BRIEF
@given(spaces(), st.sampled_from(KEYS))
def test_what_is_no_cell_is_not_held(space: Space, key: str) -> None:
    for cell in space.cells():
        assert not space.holds(cell | {key: "elsewhere"})
        if key in cell:
            assert not space.holds({name: cell[name] for name in cell if name != key})


@BRIEF
@given(spaces())
def test_the_overrides_of_a_cell_mean_the_cell(space: Space) -> None:
    for cell in space.cells():
        again: dict[str, Value] = {}
        for override in space.overrides(cell):
            key, _, text = override.partition("=")
            again[key] = parse_value(text)
        assert identity(again) == identity(cell)


@BRIEF
@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(-1000, 1000)),
    st.randoms(use_true_random=False),
)
def test_a_configuration_is_the_same_in_any_order_and_as_floats(
    params: dict[str, int], random: Random
) -> None:
    keys = list(params)
    random.shuffle(keys)
    assert identity({key: float(params[key]) for key in keys}) == identity(params)


def test_a_configuration_is_the_same_with_quotes_that_it_does_not_need() -> None:
    assert identity({"+x": '"relu"'}) == identity({"+x": "relu"})
    assert identity({"+x": "'1'"}) != identity({"+x": 1})
    assert Choices({"relu": "relu"}).has('"relu"')


def test_zero_is_not_tried_again_as_a_float() -> None:
    cells = list(parse_space("+x=0.0,0.5").cells())
    assert cells == [{"+x": 0}, {"+x": 0.5}]
    assert parse_space("+x=0.0,0.5").overrides(cells[0]) == ("+x=0.0",)
