"""What to try next: `ListedCandidates` are configurations in an order, `SampledCandidates` come
from Optuna's sampler; each is asked for a `Candidate`, which is a running trial."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

import optuna
from optuna.trial import TrialState

from cifar_hpo.study import _optuna
from cifar_hpo.study.recovery import PAUSED_OUTCOME
from cifar_hpo.study.space import Space, Value, identity
from cifar_hpo.study.stored import StoredStudy
from cifar_hpo.study.workload import MAX_LISTED_CELLS

SKIPPED = "skipped"
"""The attribute of Optuna's trial that says why it was given up before it started."""

REPEATS = 10
"""Proposals of a sampler that were tried before, after which an untried cell is drawn instead."""

MAX_PROPOSALS = 10 * REPEATS
"""Proposals after which a sampler has nothing new, where the cells are too many to list."""


class Candidate(NamedTuple):
    """A configuration, and Optuna's trial of it, which is running."""

    trial: optuna.Trial
    params: Mapping[str, Value]


class Candidates(Protocol):
    """An order in which to try configurations."""

    def ask(self) -> Candidate | None:
        """The next one; None where there is none now."""


class ListedCandidates:
    """Configurations in the order in which they are given.

    taken: the identities of those that others have begun; it grows.
    """

    def __init__(
        self,
        stored: StoredStudy,
        configurations: Iterable[Mapping[str, Value]],
        taken: AbstractSet[str] = frozenset(),
    ) -> None:
        self._stored = stored
        self._configurations = iter(configurations)
        self._taken = taken

    def ask(self) -> Candidate | None:
        for params in self._configurations:
            if identity(params) not in self._taken:
                return Candidate(self._stored.create_trial(params), params)
        return None


class SampledCandidates:
    """What the sampler proposes, and where that was tried before, any cell that was not.

    tried: the identities of configurations that are no candidates any more. taken: those that
    others have begun; it grows.
    """

    def __init__(
        self,
        stored: StoredStudy,
        space: Space,
        tried: Iterable[str],
        taken: AbstractSet[str] = frozenset(),
    ) -> None:
        self._stored, self._space = stored, space
        self._tried = set(tried)
        self._taken = taken

    def ask(self) -> Candidate | None:
        if self._space.size <= MAX_LISTED_CELLS:
            candidate = self._propose(REPEATS) or self._draw()
        else:
            candidate = self._propose(MAX_PROPOSALS)
        if candidate:
            self._tried.add(identity(candidate.params))
        return candidate

    def _propose(self, times: int) -> Candidate | None:
        """The sampler's first proposal of so many that was not tried before."""
        study = self._stored.study
        for _ in range(times):
            trial = _optuna.ask(study, self._stored.storage, but=PAUSED_OUTCOME)
            params = self._stored.distributions.suggest(trial)
            if not self._space.holds(params):
                reason = "not in the space"  # an earlier, different grid's
            elif self._was_tried(params):
                reason = "tried before"
            else:
                return Candidate(trial, params)
            trial.set_user_attr(SKIPPED, reason)
            study.tell(trial, state=TrialState.FAIL)
        return None

    def _draw(self) -> Candidate | None:
        """Any cell that was not tried."""
        while self._shuffled_cells:
            params = self._shuffled_cells.pop()
            if not self._was_tried(params):
                return Candidate(self._stored.create_trial(params), params)
        return None

    def _was_tried(self, params: Mapping[str, Value]) -> bool:
        configuration = identity(params)
        return configuration in self._tried or configuration in self._taken

    @functools.cached_property
    def _shuffled_cells(self) -> list[dict[str, Value]]:
        """The cells that were not drawn."""
        cells = list(self._space.cells())
        random.shuffle(cells)
        return cells
