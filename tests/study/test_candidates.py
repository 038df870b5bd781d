"""What is tried next, by a list and by a sampler."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import optuna
import pytest
from support import study_options

from cifar_hpo.study import candidates
from cifar_hpo.study.candidates import REPEATS, ListedCandidates, SampledCandidates
from cifar_hpo.study.space import Space, Value, identity
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.stored import StoredStudy


def store(space: Space) -> StoredStudy:
    options = study_options("random")
    return StoredStudy.create_or_load(open_storage("memory"), "s", space, options, {})


def test_listed_configurations_come_in_their_order(space: Callable[..., Space]) -> None:
    stored = store(space("+x=1,2,3"))
    listed = ListedCandidates(stored, [{"+x": 3}, {"+x": 1}])
    asked = [listed.ask(), listed.ask()]
    assert [candidate.params for candidate in asked if candidate] == [{"+x": 3}, {"+x": 1}]
    assert listed.ask() is None
    assert [trial.params for trial in stored.trials()] == [{"+x": 3}, {"+x": 1}]


def test_a_sampler_tries_each_cell_once_and_then_nothing(space: Callable[..., Space]) -> None:
    wanted = space("+x=1,2,3", "+y=a,b")
    tried: dict[str, Value] = {"+x": 2, "+y": "a"}
    stored = store(wanted)
    sampled = SampledCandidates(stored, wanted, [identity(tried)])
    asked = [sampled.ask() for _ in range(5)]
    configurations = {identity(candidate.params) for candidate in asked if candidate}
    assert configurations == {identity(cell) for cell in wanted.cells()} - {identity(tried)}
    assert sampled.ask() is None


def test_a_cell_is_drawn_where_a_sampler_repeats_itself(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = space("+x=1,2")
    stored = store(wanted)
    monkeypatch.setattr(stored.distributions, "suggest", lambda trial: {"+x": 1})
    candidate = SampledCandidates(stored, wanted, [identity({"+x": 1})]).ask()
    assert candidate
    assert candidate.params == {"+x": 2}
    skipped = [trial.user_attrs.get("skipped") for trial in stored.trials()]
    assert skipped == ["tried before"] * REPEATS + [None]


def test_cells_to_draw_from_are_listed_once(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = space("+x=range(0,30)")
    stored = store(wanted)
    monkeypatch.setattr(stored.distributions, "suggest", lambda trial: {"+x": 0})
    listings = itertools.count()
    cells = Space.cells

    def count(space: Space) -> Iterator[dict[str, Value]]:
        next(listings)
        return cells(space)

    monkeypatch.setattr(Space, "cells", count)
    sampled = SampledCandidates(stored, wanted, [])
    drawn = [candidate.params["+x"] for candidate in iter(sampled.ask, None)]
    assert sorted(drawn) == list(range(30))
    assert next(listings) == 1


def test_a_sampler_that_only_repeats_itself_ends_where_cells_are_too_many(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = space("+x=interval(0.0,1.0)")
    stored = store(wanted)
    monkeypatch.setattr(candidates, "MAX_PROPOSALS", 3)
    monkeypatch.setattr(stored.distributions, "suggest", lambda trial: {"+x": 0.5})
    assert SampledCandidates(stored, wanted, [identity({"+x": 0.5})]).ask() is None
    assert len(stored.trials()) == 3


def test_what_an_earlier_grid_had_is_no_candidate(
    space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = space("+x=1,2")
    stored = store(wanted)
    proposals = iter([{"+x": 9}, {"+x": 1}])
    monkeypatch.setattr(stored.distributions, "suggest", lambda trial: next(proposals))
    candidate = SampledCandidates(stored, wanted, []).ask()
    assert candidate
    assert candidate.params == {"+x": 1}
    (skipped, _) = stored.trials()
    assert skipped.user_attrs == {"skipped": "not in the space"}
    assert skipped.state is optuna.trial.TrialState.FAIL
