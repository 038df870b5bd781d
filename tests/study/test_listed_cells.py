"""Cells that are listed one by one: which there are, and what no list can be."""

from __future__ import annotations

from typing import Any

import pytest
from support import config_loader, parse_space

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.space import Space

BASE_AND_TWO: list[dict[str, Any]] = [
    {},
    {"model.filters": 8},
    {"model.filters": 4, "optimizer": "sgd"},
]


def listed(*cells: dict[str, Any], overrides: tuple[str, ...] = (), **conditions: str) -> Space:
    return Space.parse(overrides, {}, config_loader(), conditions, cells=cells)


def test_listed_cells_are_all_that_there_are() -> None:
    space = listed(*BASE_AND_TWO)
    assert list(space.cells()) == BASE_AND_TWO
    assert space.n_cells == space.size == 3
    assert space.groups == ("optimizer",)
    overrides = [space.overrides(cell) for cell in space.cells()]
    assert overrides == [(), ("model.filters=8",), ("model.filters=4", "optimizer=sgd")]


def test_what_is_swept_beside_them_multiplies() -> None:
    space = listed(*BASE_AND_TWO, overrides=("training.epochs=1,2", "training.seed=3"))
    cells = list(space.cells())
    assert len(cells) == space.n_cells == 6
    assert cells[:3] == [
        {"training.epochs": 1},
        {"training.epochs": 2},
        {"model.filters": 8, "training.epochs": 1},
    ]
    assert space.overrides(cells[0]) == ("training.epochs=1", "training.seed=3")
    assert all(map(space.holds, cells))


@pytest.mark.parametrize(
    "params",
    [
        {"model.filters": 4, "training.epochs": 1},
        {"model.filters": 8, "optimizer": "sgd", "training.epochs": 1},
        {"model.filters": 8},
        {"optimizer": "sgd", "training.epochs": 1},
        {"model.filters": 8, "training.epochs": 3},
    ],
)
def test_other_combinations_are_not_held(params: dict[str, Any]) -> None:
    assert not listed(*BASE_AND_TWO, overrides=("training.epochs=1,2",)).holds(params)


def test_cells_with_a_given_value_are_those_that_have_it() -> None:
    space = listed(*BASE_AND_TWO, overrides=("training.epochs=1,2",))
    assert list(space.cells({"model.filters": 8})) == [
        {"model.filters": 8, "training.epochs": 1},
        {"model.filters": 8, "training.epochs": 2},
    ]
    assert len(list(space.cells({"training.epochs": 2}))) == 3


def test_the_set_of_cells_is_their_identity_however_they_are_written() -> None:
    first = listed({"model.filters": 8, "model.dropout": 0.0}, {"optimizer": "sgd"})
    again = listed({"optimizer": "'sgd'"}, {"model.dropout": 0, "model.filters": 8})
    other = listed({"model.filters": 8}, {"model.dropout": 0.0, "optimizer": "sgd"})
    assert first.identity == again.identity
    assert first.identity != other.identity


def test_a_cell_that_stands_there_twice_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    assert listed({"model.dropout": 0}, {"model.dropout": 0.0}).n_cells == 1
    assert "hydra.sweeper.cells[1] stands there twice" in caplog.text


def test_values_are_texts_lists_and_null_as_an_override_has_them() -> None:
    space = listed({"model.filters": [2, 4]}, {"data.train_size": None}, {"+x": True})
    assert [space.overrides(cell) for cell in space.cells()] == [
        ("model.filters=[2,4]",),
        ("data.train_size=null",),
        ("+x=True",),
    ]


@pytest.mark.parametrize(
    ("cells", "overrides", "words"),
    [
        ([{"model.filters": "4,8"}], (), r"cells\[0\]\.model\.filters: .* more than one value"),
        ([{"model.dropout": "interval(0,1)"}], (), "more than one value"),
        ([{}, {"model.filters": 4}], ("model.filters=8",), r"cells\[1\]\.model\.filters: given"),
        ([{"+x": 4}], ("x=8,9",), "given or swept beside"),
        ([{"hydra.job.name": "a"}], (), "not Hydra's"),
        ([{"model.dropout": float("nan")}], (), "no number to try"),
        ([{"model.residual": True}, {"model.residual": 1}], (), "can't be told apart"),
    ],
)
def test_what_no_cell_can_be_is_refused(
    cells: list[dict[str, Any]], overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        listed(*cells, overrides=overrides)


def test_a_key_of_the_cells_needs_no_condition() -> None:
    with pytest.raises(ConfigError, match="exists where a cell has it"):
        listed({"model.filters": 4}, overrides=("+a=1,2",), **{"model.filters": "+a=1"})


def test_a_parameter_exists_for_the_listed_choices_of_groups_that_have_it() -> None:
    space = listed({"optimizer": "adam"}, {"optimizer": "sgd"}, {})
    assert list(space.combinations_of_groups()) == [{"optimizer": "adam"}, {"optimizer": "sgd"}, {}]


def test_combinations_of_groups_may_leave_out_one_that_is_conditional() -> None:
    space = parse_space("+a=1,2", "model=base,wide", "optimizer=adam,sgd", optimizer="model=wide")
    combinations = [space.choices_of_groups(each) for each in space.combinations_of_groups()]
    assert combinations == [("base", None), ("wide", "adam"), ("wide", "sgd")]
