"""In which order a grid's cells are tried: `grid_cells` gives them as they are asked for.

`Numbering` finds a cell by its number, so that a draw need not list a large grid.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cifar_hpo.study.space import Space, Value, identity

LONGEST, RANDOM, GIVEN = "longest", "random", "given"
"""The choices of hydra.sweeper.order."""

Cell = Mapping[str, Value]
"""A configuration of a grid, or a part of one."""


class Order(NamedTuple):
    """How to order a grid's cells.

    name: of the order. seed: of all that is drawn. cost: of a cell beside others; None where that
    is not known of all.
    """

    name: str
    seed: int
    cost: Callable[[Cell], float] | None


def grid_cells(space: Space, order: Order) -> Iterator[Cell]:
    """All cells of a grid; where the longest are to come first and costs are not known, as in the
    space."""
    if order.name == RANDOM:
        yield from shuffled_cells(space, order.seed)
    elif order.name == LONGEST and order.cost:
        yield from _longest_first(space.cells(), order.cost)
    else:
        yield from space.cells()


def drawn_cells(
    space: Space, order: Order, count: int, is_wanted: Callable[[Cell], bool]
) -> tuple[list[Cell], Iterator[Cell]]:
    """So many cells drawn over a whole grid, in their order, and the others as they would follow.

    is_wanted: whether a cell may be drawn.
    """
    shuffled = filter(is_wanted, shuffled_cells(space, order.seed))
    drawn = list(itertools.islice(shuffled, count))
    if order.name == LONGEST and order.cost:
        drawn = _longest_first(drawn, order.cost)
    elif order.name != RANDOM:
        drawn.sort(key=Numbering(space).place)
    return drawn, shuffled


def enqueued_cells(space: Space, wishes: Sequence[Cell]) -> Iterator[Cell]:
    """The cells that have what was asked for, wish after wish, each once."""
    for place, wish in enumerate(wishes):
        for cell in space.cells(wish):
            if not is_enqueued(cell, wishes[:place]):
                yield cell


def is_enqueued(cell: Cell, wishes: Sequence[Cell]) -> bool:
    """Whether a cell has what one of the wishes asks for."""
    return any(wish.items() <= cell.items() for wish in wishes)


def _longest_first(cells: Iterable[Cell], cost: Callable[[Cell], float]) -> list[Cell]:
    return sorted(cells, key=lambda cell: -cost(cell))


def shuffled_cells(space: Space, seed: int) -> Iterator[Cell]:
    """All cells of a finite space in a random order, the same for the same seed."""
    numbering = Numbering(space)
    for number in shuffled_numbers(space.n_cells, seed):
        yield numbering.cell(number)


def shuffled_numbers(count: int, seed: int) -> Iterator[int]:
    """0 to count in a random order; the first of very many are drawn at once.

    The shuffle of Fisher and Yates, of which only what has moved is kept.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    moved: dict[int, int] = {}
    for place in range(count):
        drawn = rng.randrange(place, count)
        yield moved.pop(drawn, drawn)
        here = moved.pop(place, place)
        if drawn != place:
            moved[drawn] = here


class Numbering:
    """The cells of a finite space by number, and their places in its order."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._blocks = list(space.blocks())
        self._starts = [block.start for block in self._blocks]
        self._values = {key: list(space.choices(key)) for key in space.free_keys}
        self._places: dict[str, dict[Value, int]] = {}
        for key, values in self._values.items():
            self._places[key] = {value: place for place, value in enumerate(values)}
        self._listed = {identity(cell): place for place, cell in enumerate(space.listed)}

    def cell(self, number: int) -> Cell:
        """A cell by a number from 0 to `Space.n_cells`; each has one, found without the others."""
        block = self._blocks[bisect.bisect_right(self._starts, number) - 1]
        number -= block.start
        cell = dict(block.chosen)
        for key in block.others:
            number, place = divmod(number, len(self._values[key]))
            cell[key] = self._values[key][place]
        return {key: cell[key] for key in self._space.dimensions if key in cell}

    def place(self, cell: Cell) -> tuple[int, ...]:
        """Sorts cells as `Space.cells` has them."""
        places = [self._listed.get(identity(self._space.listed_part(cell)), 0)]
        for key in self._space.nesting:
            places.append(self._places[key][cell[key]] if key in cell else 0)
        return tuple(places)
