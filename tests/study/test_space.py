"""Hydra's sweep syntax and what it becomes."""

from __future__ import annotations

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins

from cifar_hpo.errors import ConfigError
from cifar_hpo.paths import CONF
from cifar_hpo.study.space import Choices, Interval, Space


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    Plugins.instance()
    return ConfigLoaderImpl(config_search_path=create_config_search_path(f"file://{CONF}"))


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
    "x=interval(1,10)": (Interval(1, 10, log=False), True),
    "x=tag(log,interval(1e-4,1e-1))": (Interval(1e-4, 1e-1, log=True), False),
}


@pytest.mark.parametrize("override", INTERVALS)
def test_intervals(override: str, loader: ConfigLoaderImpl) -> None:
    space = Space.parse([override], {}, loader)
    expected, whole = INTERVALS[override]
    assert space.dimensions == {"x": expected}
    assert expected.whole is whole
    assert not space.is_finite


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


@pytest.mark.parametrize(
    "override", ["x=interval(1,1)", "x=interval(2,1)", "x=tag(log,interval(0,1))", "x=range(3,3)"]
)
def test_an_empty_dimension_is_refused(override: str, loader: ConfigLoaderImpl) -> None:
    with pytest.raises(ConfigError, match=r"^x: "):
        Space.parse([override], {}, loader)


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
