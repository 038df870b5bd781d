"""A search space from Hydra's overrides: a `Space` has dimensions and fixed overrides; a cell is
one combination of choices.

A parameter may exist for some choices only: `optimizer.momentum` where the optimizer has one, or as
`hydra.sweeper.conditions` say. Of the keys in `hydra.sweeper.cells` only the listed combinations
exist.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from cifar_hpo.errors import ConfigError
from cifar_hpo.study import listed_cells
from cifar_hpo.study.dimensions import (
    Choices,
    Dimension,
    Interval,
    Value,
    as_written,
    canonical,
    identities,
    identity,
    parse_part,
    parse_value,
    whole_numbers,
)

__all__ = ["Choices", "Interval", "Space", "Value", "identities", "identity"]


class Block(NamedTuple):
    """Cells that differ in nothing but the values of some dimensions, each with each.

    start: how many cells come before them. chosen: what they have in common.
    """

    start: int
    size: int
    chosen: Mapping[str, Value]
    others: Sequence[str]


@dataclass(frozen=True)
class Space:
    """Overrides in the order in which they were given: by key, either a dimension or the text of a
    fixed override.

    groups: the dimensions that choose among a config group's options. absent: for each combination
    of their choices, None where a group is not chosen, the parameters whose key does not exist
    then. conditions: for a parameter, the dimension on which it depends and the choices for which
    it exists. listed: combinations of some dimensions' values, of which no others exist; one may do
    without some of these dimensions. seed_key: the dimension of seeds that are tried as far as they
    decide; empty where there is none.
    """

    parts: Mapping[str, Dimension | str]
    groups: tuple[str, ...] = ()
    absent: Mapping[tuple[Value | None, ...], frozenset[str]] = field(default_factory=dict)
    conditions: Mapping[str, tuple[str, frozenset[Value]]] = field(default_factory=dict)
    listed: Sequence[Mapping[str, Value]] = ()
    seed_key: str = ""

    @classmethod
    def parse(
        cls,
        overrides: Sequence[str],
        params: Mapping[str, Any],
        config_loader: Any,
        conditions: Mapping[str, str] | None = None,
        *,
        cells: Sequence[Mapping[str, Any]] = (),
    ) -> Space:
        """From `hydra.sweeper.params` and the command line, which wins where both name a key.

        config_loader: says which groups there are. cells: `hydra.sweeper.cells`, each of which is
        tried with all that varies beside them.
        Raises Hydra's own errors for what can't be parsed, ConfigError for an interval that is
        none, a condition on nothing, or a key of a cell that is given elsewhere, too.
        """
        texts = [f"{key}={as_written(value)}" for key, value in params.items()]
        parser = OverridesParser.create(config_loader=config_loader)
        parts: dict[str, Dimension | str] = {}
        names = {}
        for override in parser.parse_overrides([*texts, *overrides]):
            key = override.get_key_element()
            if override.is_hydra_override():
                problem = "a sweep varies the app's own keys, not Hydra's"
                raise ConfigError(f"hydra.sweeper.params.{key}", problem)
            parts[key] = parse_part(override)
            names[key] = override.key_or_group
        listed, choices = listed_cells.parse(cells, parts, names)
        parts = {**choices, **parts}
        groups = []
        for key, part in parts.items():
            if not isinstance(part, str) and config_loader.get_group_options(names[key], None):
                groups.append(key)
        depends = _parse_conditions(conditions or {}, parts)
        for key in depends.keys() & choices.keys():
            problem = f"{key} is of {listed_cells.PATH}, and exists where a cell has it"
            raise ConfigError(f"hydra.sweeper.conditions.{key}", problem)
        return cls(parts, tuple(groups), conditions=depends, listed=listed)

    def with_seeds(self, key: str, seeds: Sequence[int]) -> Space:
        """The same with these seeds of each configuration, which are tried as far as they
        decide."""
        parts = {name: part for name, part in self.parts.items() if name != key}
        choices = Choices({seed: str(seed) for seed in seeds})
        return dataclasses.replace(self, parts={**parts, key: choices}, seed_key=key)

    def without_seeds(self) -> Space:
        """The same with configurations for its cells, which have no seed."""
        parts = {name: part for name, part in self.parts.items() if name != self.seed_key}
        return dataclasses.replace(self, parts=parts, seed_key="")

    @property
    def first_seed(self) -> dict[str, Value]:
        """What a configuration's first cell has beside it; empty where no seeds are added."""
        if not self.seed_key:
            return {}
        return {self.seed_key: next(iter(self.choices(self.seed_key)))}

    def first_cells(self) -> Iterator[dict[str, Value]]:
        """The cells; of those that differ in their seed alone the first."""
        return self.cells(self.first_seed)

    def with_whole_numbers(self, keys: Collection[str]) -> Space:
        """The same with intervals of whole numbers for these keys, which take no others.

        Raises ConfigError for one whose ends are none.
        """
        parts = dict(self.parts)
        for key, part in parts.items():
            if isinstance(part, Interval) and key.lstrip("+") in keys:
                parts[key] = whole_numbers(key, part)
        return dataclasses.replace(self, parts=parts)

    @functools.cached_property
    def dimensions(self) -> dict[str, Dimension]:
        return {key: part for key, part in self.parts.items() if not isinstance(part, str)}

    @functools.cached_property
    def listed_keys(self) -> frozenset[str]:
        """The dimensions of which only listed combinations exist."""
        return frozenset().union(*self.listed)

    @property
    def free_keys(self) -> list[str]:
        """The other dimensions, which vary by themselves."""
        return [key for key in self.dimensions if key not in self.listed_keys]

    @property
    def identity(self) -> dict[str, str]:
        """The same for the same set of cells, whatever the order and the spelling of values."""
        known = {key: self.dimensions[key].identity for key in sorted(self.free_keys)}
        if self.listed:
            known[listed_cells.PATH] = repr(sorted(identities(self.listed)))
        return known

    @property
    def identity_as_written(self) -> dict[str, str]:
        """What version 0.1 had as a space's identity, which names its studies."""
        return {key: self.dimensions[key].identity_as_written for key in sorted(self.dimensions)}

    @functools.cached_property
    def order(self) -> list[str]:
        """Dimensions so that each comes after those on which it depends, groups first."""
        ordered: list[str] = []
        first = sorted(
            self.dimensions, key=lambda key: (key not in self.groups, key in self.conditions)
        )
        for key in first:
            for needed in self._needed_by(key):
                if needed not in ordered:
                    ordered.append(needed)
        return ordered

    def _needed_by(self, key: str) -> list[str]:
        """A parameter behind those on which it depends, the first of the chain first."""
        chain = [key]
        while chain[0] in self.conditions:
            chain.insert(0, self.conditions[chain[0]][0])
        return chain

    @functools.cached_property
    def nesting(self) -> list[str]:
        """Dimensions as they were given, but each behind those that decide whether it exists."""
        sometimes_absent = frozenset().union(*self.absent.values())
        nesting: dict[str, None] = {}
        for key in self.dimensions:
            if key in sometimes_absent:
                for group in self.groups:
                    nesting |= dict.fromkeys(self._needed_by(group))
            nesting |= dict.fromkeys(self._needed_by(key))
        return [key for key in nesting if key not in self.listed_keys]

    @functools.cached_property
    def size(self) -> float:
        """How many cells there are, conditions not considered."""
        size: float = max(1, len(self.listed))
        for key in self.free_keys:
            part = self.dimensions[key]
            size *= len(part.texts) if isinstance(part, Choices) else math.inf
        return size

    @property
    def is_finite(self) -> bool:
        return self.size < math.inf

    def is_active(self, key: str, params: Mapping[str, Value]) -> bool:
        """Whether a parameter exists for the values of those before it; a listed one, whether it is
        among these."""
        if key in self.listed_keys:
            return key in params
        if key in self.conditions:
            needed, values = self.conditions[key]
            if needed not in params or canonical(params[needed]) not in values:
                return False
        if key in self.groups:
            return True
        return key not in self.absent.get(self.choices_of_groups(params), ())

    def choices_of_groups(self, params: Mapping[str, Value]) -> tuple[Value | None, ...]:
        """What these choose of each group; None where they do not."""
        chosen = []
        for group in self.groups:
            chosen.append(canonical(params[group]) if group in params else None)
        return tuple(chosen)

    def listed_part(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """What these have of listed dimensions."""
        return {key: value for key, value in params.items() if key in self.listed_keys}

    def combinations_of_groups(self) -> Iterator[dict[str, Value]]:
        """Every combination of groups' choices that cells may have, once."""
        options: list[Iterable[Value | None]] = []
        free = []
        for key in self.free_keys:
            part = self.dimensions[key]
            if key in self.groups and isinstance(part, Choices):
                free.append(key)
                options.append([*part.texts, None] if key in self.conditions else part.texts)
        starts: dict[tuple[Value | None, ...], dict[str, Value]] = {}
        for cell in self.listed or ({},):
            start = {key: value for key, value in cell.items() if key in self.groups}
            starts[self.choices_of_groups(start)] = start
        for start in starts.values():
            for values in itertools.product(*options):
                free_choices = dict(zip(free, values, strict=True))
                chosen = {key: value for key, value in free_choices.items() if value is not None}
                chosen = {**start, **chosen}
                if all(self._is_settled(key, chosen) for key in free):
                    yield chosen

    def _is_settled(self, group: str, chosen: Mapping[str, Value]) -> bool:
        """Whether a group is chosen just where it exists, as far as other groups decide that."""
        needed, _ = self.conditions.get(group, ("", frozenset()))
        return needed not in self.groups or (group in chosen) == self.is_active(group, chosen)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether these are a configuration of this space."""
        active = [key for key in self.order if self.is_active(key, params)]
        if set(active) != set(params) or not self._is_listed(params):
            return False
        return all(self.dimensions[key].has(params[key]) for key in active)

    @functools.cached_property
    def n_cells(self) -> int:
        """How many cells there are; only of a finite space. Counted without listing them."""
        return sum(block.size for block in self.blocks())

    @property
    def n_configurations(self) -> int:
        """The same, those counted as one that differ in their seed alone."""
        return self.n_cells // (len(self.choices(self.seed_key)) if self.seed_key else 1)

    def cells(self, given: Mapping[str, Value] | None = None) -> Iterator[dict[str, Value]]:
        """Every combination of what exists once, the last dimension fastest; one empty cell where
        nothing varies. They are made as they are asked for.

        given: values that the cells are to have.
        """
        wanted = {key: canonical(value) for key, value in (given or {}).items()}
        for start in self.listed or ({},):
            if any(start.get(key) != value for key, value in self.listed_part(wanted).items()):
                continue
            for branch in self._branches(self.nesting, wanted, start):
                yield {key: branch[key] for key in self.dimensions if key in branch}

    def corners(self) -> Iterator[dict[str, Value]]:
        """Cells that together hold each choice and each end of each interval once."""
        ends: dict[str, list[Value]] = {}
        for key, part in self.dimensions.items():
            ends[key] = list(part.texts) if isinstance(part, Choices) else [part.low, part.high]
        longest = max(map(len, ends.values()), default=1)
        for place in range(longest):
            cell = {}
            for key, values in ends.items():
                cell[key] = values[min(place, len(values) - 1)]
            yield self._active_part(cell)

    def overrides(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """What the user would type for one configuration."""
        overrides = []
        for key, part in self.parts.items():
            if isinstance(part, str):
                overrides.append(part)
            elif key in params:
                overrides.append(f"{key}={part.text(params[key])}")
        return tuple(overrides)

    def choices(self, key: str) -> Mapping[Value, str]:
        """A dimension's values, each with its text."""
        part = self.dimensions[key]
        assert isinstance(part, Choices)
        return part.texts

    def blocks(self) -> Iterator[Block]:
        """All cells: what decides whether others exist is gone through, the others multiply."""
        deciding = {needed for needed, _ in self.conditions.values()}
        if any(self.absent.values()):
            deciding.update(self.groups)
        nesting = [key for key in self.nesting if key in deciding]
        free = [key for key in self.nesting if key not in deciding]
        start = 0
        for cell in self.listed or ({},):
            for chosen in self._branches(nesting, {}, cell):
                others = [key for key in free if self.is_active(key, chosen)]
                size = math.prod(len(self.choices(key)) for key in others)
                yield Block(start, size, chosen, others)
                start += size

    def _is_listed(self, params: Mapping[str, Value]) -> bool:
        return not self.listed or identity(self.listed_part(params)) in self._listed_identities

    @functools.cached_property
    def _listed_identities(self) -> set[str]:
        return identities(self.listed)

    def _branches(
        self,
        keys: Sequence[str],
        given: Mapping[str, Value],
        chosen: Mapping[str, Value] | None = None,
    ) -> Iterator[Mapping[str, Value]]:
        """Every choice of these dimensions, of those that exist beside what was chosen before.

        keys: each behind those that decide whether it exists. given: values that are to be chosen.
        """
        chosen = chosen or {}
        if not keys:
            yield chosen
            return
        key, rest = keys[0], keys[1:]
        if not self.is_active(key, chosen):
            if key not in given:
                yield from self._branches(rest, given, chosen)
            return
        for value in [given[key]] if key in given else self.choices(key):
            yield from self._branches(rest, given, {**chosen, key: value})

    def _active_part(self, combination: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of a combination that exist, in the order of the dimensions."""
        active: dict[str, Value] = {}
        for key in self.order:  # what a parameter depends on may itself not exist
            if self.is_active(key, active):
                active[key] = combination[key]
        return {key: active[key] for key in self.dimensions if key in active}


def _parse_conditions(
    conditions: Mapping[str, str], parts: Mapping[str, Dimension | str]
) -> dict[str, tuple[str, frozenset[Value]]]:
    """Each conditional parameter, with what it depends on and the choices for which it exists.

    Raises ConfigError where one of the two does not vary, or parameters depend on one another.
    """
    parsed = {}
    for key, condition in conditions.items():
        needed, _, values = condition.partition("=")
        if key not in parts or isinstance(parts.get(needed, ""), str):
            raise ConfigError(
                f"hydra.sweeper.conditions.{key}",
                f"{condition!r}: both {key} and {needed} must vary",
            )
        choices = frozenset(map(parse_value, values.split(",")))
        _refuse_unknown_choices(key, condition, choices, parts[needed])
        parsed[key] = (needed, choices)
    _refuse_circles(parsed)
    return parsed


def _refuse_unknown_choices(
    key: str, condition: str, choices: frozenset[Value], needed: Dimension | str
) -> None:
    """Raise ConfigError for a condition on what can't be: its parameter would never exist."""
    if isinstance(needed, str):
        return
    unknown = sorted(str(choice) for choice in choices if not needed.has(choice))
    if unknown:
        problem = f"{condition!r}: {', '.join(unknown)} can't be, so {key} would not exist then"
        raise ConfigError(f"hydra.sweeper.conditions.{key}", problem)


def _refuse_circles(conditions: Mapping[str, tuple[str, frozenset[Value]]]) -> None:
    """Raise ConfigError for parameters that depend on one another."""
    for key in conditions:
        chain = [key]
        while chain[-1] in conditions:
            chain.append(conditions[chain[-1]][0])
            if chain[-1] == key:
                circle = " needs ".join(chain)
                raise ConfigError(f"hydra.sweeper.conditions.{key}", f"a circle: {circle}")
            if len(chain) > len(conditions) + 1:  # it leads into a circle of which it is no part
                break
