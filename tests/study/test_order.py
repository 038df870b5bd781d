"""In which order a grid's cells are tried, and which are drawn where not all are."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from support import config_loader, parse_space

from cifar_hpo.study.order import (
    GIVEN,
    LONGEST,
    RANDOM,
    Cell,
    Numbering,
    Order,
    drawn_cells,
    enqueued_cells,
    grid_cells,
    shuffled_cells,
    shuffled_numbers,
)
from cifar_hpo.study.space import Space, identities, identity


def spaces() -> list[Space]:
    """A grid, one with a parameter that some cells do without, and one with listed cells."""
    listed = [{"model.filters": 4}, {}, {"model.depth": 2, "model.filters": 8}]
    return [
        parse_space("model.filters=4,8,16", "model.depth=2,3", "training.epochs=1"),
        parse_space("+a=1,2", "+b=1,2,3", "+c=1,2", **{"+b": "+a=2"}),
        Space.parse(["training.epochs=1,2,3"], {}, config_loader(), cells=listed),
    ]


@pytest.mark.parametrize("space", spaces())
def test_each_cell_has_one_number(space: Space) -> None:
    numbering = Numbering(space)
    numbered = [numbering.cell(number) for number in range(space.n_cells)]
    assert len(numbered) == len(identities(numbered))
    assert identities(numbered) == identities(space.cells())


@pytest.mark.parametrize("space", spaces())
def test_places_sort_cells_as_they_are_given(space: Space) -> None:
    cells = list(space.cells())
    shuffled = list(shuffled_cells(space, 0))
    assert shuffled != cells
    assert sorted(shuffled, key=Numbering(space).place) == cells


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_shuffle_has_each_number_once(count: int) -> None:
    assert sorted(shuffled_numbers(count, 5)) == list(range(count))


def test_each_shuffle_is_as_likely_as_any_other() -> None:
    seen = Counter(tuple(shuffled_numbers(3, seed)) for seed in range(6000))
    assert len(seen) == 6
    assert all(850 < count < 1150 for count in seen.values()), seen


def test_a_few_cells_of_a_huge_grid_are_drawn_at_once() -> None:
    space = parse_space(*(f"+k{number}=range(0,100)" for number in range(8)))
    cells = list(itertools.islice(shuffled_cells(space, 0), 5))
    assert len(identities(cells)) == 5
    assert cells == list(itertools.islice(shuffled_cells(space, 0), 5)), "by the seed"
    assert cells != list(itertools.islice(shuffled_cells(space, 1), 5))


def by_filters(cell: Cell) -> float:
    filters = cell["model.filters"]
    assert isinstance(filters, int)
    return filters


def test_a_grid_begins_with_the_longest_the_first_or_any() -> None:
    space = parse_space("model.filters=8,4,16")

    def filters(name: str, seed: int = 0) -> list[float]:
        order = Order(name, seed, by_filters)
        return [by_filters(cell) for cell in grid_cells(space, order)]

    assert filters(LONGEST) == [16, 8, 4]
    assert filters(GIVEN) == [8, 4, 16]
    assert {tuple(filters(RANDOM, seed)) for seed in range(40)} == set(
        itertools.permutations([4, 8, 16])
    )


def test_a_grid_of_unknown_costs_is_tried_as_it_is_given() -> None:
    space = parse_space("model.filters=8,4,16")
    assert list(grid_cells(space, Order(LONGEST, 0, None))) == list(space.cells())


@pytest.mark.parametrize("name", [LONGEST, GIVEN, RANDOM])
def test_a_part_of_a_grid_is_drawn_over_the_whole_and_then_ordered(name: str) -> None:
    space = parse_space("model.filters=range(0,100)")
    drawn, others = drawn_cells(space, Order(name, 3, by_filters), 10, lambda cell: True)
    filters = [by_filters(cell) for cell in drawn]
    assert min(filters) < 40
    assert max(filters) > 60
    expected = {LONGEST: sorted(filters, reverse=True), GIVEN: sorted(filters), RANDOM: filters}
    assert filters == expected[name]
    assert identities([*drawn, *others]) == identities(space.cells()), "the others follow"


def test_what_was_tried_is_not_drawn_again() -> None:
    space = parse_space("model.filters=range(0,20)")
    order = Order(GIVEN, 0, None)
    first, _ = drawn_cells(space, order, 8, lambda cell: True)
    tried = identities(first)
    second, others = drawn_cells(space, order, 8, lambda cell: identity(cell) not in tried)
    assert not identities(second) & tried
    assert len(list(others)) == 4


def test_enqueued_cells_come_wish_after_wish_each_once() -> None:
    space = parse_space("model.filters=4,8", "model.depth=2,3")
    wishes: list[Cell] = [{"model.depth": 3}, {"model.filters": 8}]
    assert list(enqueued_cells(space, wishes)) == [
        {"model.filters": 4, "model.depth": 3},
        {"model.filters": 8, "model.depth": 3},
        {"model.filters": 8, "model.depth": 2},
    ]
