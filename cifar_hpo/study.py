"""The only room that knows Optuna's storage: a `Study` gives the specs that are still to be tried and takes their results.

Its accounting: every planned configuration has one counted outcome, FINISHED, FAILED or PRUNED. An attempt that was
interrupted or whose parent died is no outcome; its configuration is tried again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from cifar_hpo.config import GENERATED, flat
from cifar_hpo.errors import StudyError, one_line
from cifar_hpo.space import Choices, Interval, Space, Value
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED, TrialResult, TrialSpec

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)

OUTCOME, MEANING = "outcome", "meaning"

WIDEN = """
UPDATE trial_params SET distribution_json = :new WHERE param_name = :key AND trial_id IN (
    SELECT trial_id FROM trials JOIN studies ON trials.study_id = studies.study_id WHERE study_name = :study)
"""
"""Old choices keep their places in a wider distribution, so that trials, which hold places, keep their values."""


@dataclass(frozen=True)
class Told:
    """A counted trial, as rankings show it."""

    number: int
    params: Mapping[str, Value]
    state: str
    value: float | None
    metrics: Mapping[str, float]
    error: str
    seconds: float
    run_id: str


class Study:
    """An Optuna study held by this process alone. Use as a context manager.

    Raises StudyError when the storage can't be read, another process holds the study, or it means something else.
    """

    def __init__(self, name: str, space: Space, options: Mapping[str, Any], meaning: Mapping[str, Any]) -> None:
        self.space, self.options = space, options
        self.is_grid = options["sampler"]["name"] == "grid"
        self.again: deque[TrialSpec] = deque()
        self.running: dict[int, TrialSpec] = {}
        self._asked: dict[int, optuna.Trial] = {}
        self._failures = 0
        self._lock = contextlib.ExitStack()
        self._storage = self._open_storage()
        self.name = self._free_name(name) if options["fresh"] else name
        self._hold()
        sampler = optuna.samplers.RandomSampler(seed=options["sampler"].get("seed"))
        self._study = optuna.create_study(
            study_name=self.name, storage=self._storage, sampler=sampler, direction=options["direction"], load_if_exists=True
        )
        try:
            self._agree(json.loads(json.dumps(meaning)))
            self._distributions = {key: self._distribution(key, part) for key, part in space.dimensions.items()}
            self._recover()
            self._told = self._read()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the configurations of unfinished trials back, and the study to others."""
        for number in list(self.running):
            self.tell(self.running[number], TrialResult(KILLED, error="interrupted"))
        self._lock.close()

    def _open_storage(self) -> Any:
        url = self.options["storage"] or f"sqlite:///{GENERATED}/studies.db"
        if url == "memory":
            return optuna.storages.InMemoryStorage()
        if url.startswith("sqlite:///"):
            file = Path(url.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            options: dict[str, Any] = {"connect_args": {"timeout": 60}}
        else:
            file, options = None, {"pool_pre_ping": True}
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except Exception as error:  # noqa: BLE001  SQLAlchemy's and the drivers' errors share no base
            where = file or re.sub(r"//.*@", "//***@", url)
            raise StudyError(f"hydra.sweeper.storage: {where} can't be opened ({type(error).__name__}: {one_line(error)[:120]})") from None

    def _free_name(self, name: str) -> str:
        taken = {study.study_name for study in self._storage.get_all_studies()}
        return next(one for n in range(1, len(taken) + 2) if (one := f"{name}-{n}" if n > 1 else name) not in taken)

    def _hold(self) -> None:
        """One asker for a study on SQLite, where two would be given the same trial."""
        if isinstance(self._storage, optuna.storages.InMemoryStorage) or "sqlite" not in str(self._storage.url):
            return
        import os

        path = Path(GENERATED, f".{self.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = path.with_suffix(".holder")
        try:
            self._lock.enter_context(FileLock(path, timeout=0))
        except Timeout:
            who = holder.read_text() if holder.exists() else "another process"
            raise StudyError(f"study {self.name}: {who} is working on it; wait for its end, or use hydra.sweeper.fresh=true") from None
        holder.write_text(f"process {os.getpid()}")

    def _agree(self, meaning: dict[str, Any]) -> None:
        """Continue only what means the same. A grid may gain cells."""
        before = self._study.user_attrs.get(MEANING)
        if before is None:
            self._study.set_user_attr(MEANING, meaning)
        elif before != meaning:
            one, other = flat(before), flat(meaning)
            different = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            shown = ", ".join(f"{key} {one.get(key)} → {other.get(key)}" for key in different[:5])
            hint = "choose another hydra.sweeper.study_name, or hydra.sweeper.fresh=true"
            raise StudyError(f"study {self.name} means something else ({shown}); {hint}")

    def _distribution(self, key: str, part: Choices | Interval) -> optuna.distributions.BaseDistribution:
        """Optuna's form of a dimension. Where choices are new it is told, as it takes none by itself once a study has begun."""
        if isinstance(part, Interval) and part.whole:
            return optuna.distributions.IntDistribution(int(part.low), int(part.high), log=part.log)
        if isinstance(part, Interval):
            return optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
        before: list[Value] = []
        for trial in self._study.get_trials(deepcopy=False):
            if isinstance(known := trial.distributions.get(key), optuna.distributions.CategoricalDistribution):
                before = list(known.choices)  # type: ignore[arg-type]
        distribution = optuna.distributions.CategoricalDistribution([*before, *(value for value in part.texts if value not in before)])
        if before and len(distribution.choices) > len(before) and isinstance(self._storage, optuna.storages.RDBStorage):
            changed = {"new": optuna.distributions.distribution_to_json(distribution), "key": key, "study": self.name}
            with self._storage.engine.begin() as connection:
                connection.execute(sqlalchemy.text(WIDEN), changed)
        return distribution

    def _recover(self) -> None:
        """Close what a dead parent left open: with its outcome where that was noted, else as no outcome."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            self._close(trial.number, trial.user_attrs.get(OUTCOME))

    def _close(self, number: int, outcome: Mapping[str, Any] | None) -> None:
        if outcome and outcome["value"] is not None:
            self._study.tell(number, outcome["value"])
        else:
            pruned = outcome is not None and outcome["state"] == PRUNED
            self._study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def told(self) -> list[Told]:
        """Counted trials in the order in which they ended."""
        return list(self._told)

    def _read(self) -> list[Told]:
        return [
            Told(number=trial.number, params=trial.params, **trial.user_attrs[OUTCOME])
            for trial in self._study.get_trials(deepcopy=False)
            if OUTCOME in trial.user_attrs
        ]

    def ranking(self) -> list[Told]:
        """Finished trials, the best first, then the others."""
        sign = -1 if self.options["direction"] == "maximize" else 1
        return sorted(self.told(), key=lambda one: (one.value is None, sign * (one.value or 0), one.number))

    def planned(self) -> int | None:
        """How many trials there will be in all; None where only time limits them."""
        limit: int | None = self.options["n_trials"]
        if not self.is_grid:
            return limit
        beyond = {_identity(told.params) for told in self._told} - {_identity(cell) for cell in self.space.cells()}
        return int(min(self.space.size + len(beyond), limit or math.inf))

    def specs(self) -> Iterator[TrialSpec | None]:
        """What is still to be tried; None when that depends on what is running now."""
        told = self.told()
        started, counted = time.monotonic(), len(told)
        done = {_identity(one.params) for one in told}
        cells = (cell for cell in self.space.cells() if _identity(cell) not in done) if self.is_grid else None
        while True:
            if self.options["max_failures"] and self._failures >= self.options["max_failures"]:
                return
            if self.options["timeout"] and time.monotonic() - started > self.options["timeout"]:
                return
            if self.again:
                spec = self.again.popleft()
            elif self.options["n_trials"] and counted >= self.options["n_trials"]:
                spec = None
            else:
                spec = self._ask(cells)
                counted += spec is not None
            if spec:
                self.running[spec.number] = spec
            elif not self.running:
                return
            yield spec

    def _ask(self, cells: Iterator[dict[str, Value]] | None) -> TrialSpec | None:
        if cells is not None:
            if (cell := next(cells, None)) is None:
                return None
            self._study.enqueue_trial(cell)
        trial = self._study.ask(self._distributions)
        self._asked[trial.number] = trial
        return TrialSpec(trial.number, self.space.overrides(trial.params), trial.params)

    def tell(self, spec: TrialSpec, result: TrialResult) -> bool:
        """Count a result; returns False where the trial gets another attempt instead, or a result came late."""
        if self.running.pop(spec.number, None) is None:
            return False
        if result.transient and spec.attempt < self.options["retries"]:
            self.again.append(TrialSpec(spec.number, spec.overrides, spec.params, spec.attempt + 1))
            return False
        asked = self._asked.pop(spec.number)
        if result.state == KILLED and not result.transient:
            self._close(spec.number, None)
            return False
        self._failures += result.state in (FAILED, KILLED)
        value = result.metrics.get(self.options["metric"]) if result.state == FINISHED else None
        outcome: dict[str, Any] = {"state": result.state, "value": value, "metrics": dict(result.metrics), "error": result.error}
        outcome |= {"seconds": round(result.seconds, 3), "run_id": result.run_id}
        asked.set_user_attr(OUTCOME, outcome)  # first, so that a death between the two lines loses nothing
        self._close(spec.number, outcome)
        self._told.append(Told(number=spec.number, params=spec.params, **outcome))
        return True


def _identity(params: Mapping[str, Value]) -> str:
    """The same for the same configuration, whatever the order of its keys."""
    return json.dumps(dict(params), sort_keys=True)
