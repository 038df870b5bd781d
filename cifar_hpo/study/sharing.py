"""Which trials of a study are whose: `Alone` where this process has them all, `Shared` where
several commands work on one study in a database server, on as many hosts.

One command after another changes the study: that is a turn. Whoever runs a trial is its holder and
renews its lease as long as the process lives; who has not for LEASE seconds loses the trial to the
others. Time is the database's: no two hosts need to agree on it. The leases are Optuna's
heartbeats.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.database import Database
from cifar_hpo.errors import StudyError, named_line
from cifar_hpo.owner import host_of, is_gone, owner
from cifar_hpo.redaction import redacted
from cifar_hpo.study import _optuna
from cifar_hpo.study.turns import Turn

RENEWAL = 5
"""Seconds after which leases are renewed."""

LEASE = 30
"""Seconds after which a lease that was not renewed has expired."""

SECOND_LOOK = 15.0
"""Seconds in which a lease must stay expired: when a database comes back that was away, all leases
are old until their holders have renewed them, which may take RENEWAL and a new connection."""

EXPIRY_INTERVAL = 1.0
"""Seconds between two questions for expired leases, for which a database looks at all trials."""

HOLDER = "holder"
"""The attribute of Optuna's trial that says who runs it; none where nobody does yet."""

log = logging.getLogger(__name__)


class Sharing(Protocol):
    """What a study asks of whoever knows which of its trials are whose.

    is_shared: whether others may work on it.
    """

    is_shared: bool

    def turn(self) -> AbstractContextManager[None]:
        """In which nobody else changes the study."""

    def check(self) -> None:
        """Raise TurnLost unless the turn has lasted until now."""

    def hold(self, trial: optuna.Trial) -> None:
        """This process runs a trial from now on; in a turn."""

    def let_go(self, number: int) -> None:
        """This process does not run a trial any more."""

    def holds(self, number: int) -> bool:
        """Whether a trial is still this process's; in a turn."""

    def look(self) -> list[FrozenTrial]:
        """The trials of others that have ended since the last look."""

    def lost(self) -> list[int]:
        """The trials that this process held and another has been given, since the last call."""

    def abandoned(self) -> Iterator[FrozenTrial]:
        """Unfinished trials that nobody runs, as of the last look; in a turn."""

    def others(self) -> list[FrozenTrial]:
        """The trials that have begun and not ended and are not this process's, as of the last
        look."""

    def is_anyone_at_work(self) -> bool:
        """Whether one of them is running, or was when its process died."""

    def elsewhere(self) -> dict[int, str]:
        """Those of them that others run, by number, and the host of each."""

    def refuse_others(self) -> None:
        """Raise StudyError while others run trials of the study; in a turn."""

    def close(self) -> None:
        """Hold nothing any more."""


class Alone:
    """All trials are this process's."""

    is_shared = False

    def turn(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def check(self) -> None: ...

    def hold(self, trial: optuna.Trial) -> None: ...

    def let_go(self, number: int) -> None: ...

    def holds(self, number: int) -> bool:  # noqa: ARG002
        return True

    def look(self) -> list[FrozenTrial]:
        return []

    def lost(self) -> list[int]:
        return []

    def abandoned(self) -> Iterator[FrozenTrial]:
        return iter(())

    def others(self) -> list[FrozenTrial]:
        return []

    def is_anyone_at_work(self) -> bool:
        return False

    def elsewhere(self) -> dict[int, str]:
        return {}

    def refuse_others(self) -> None: ...

    def close(self) -> None: ...


class Shared:
    """Others may work on the study, too."""

    is_shared = True

    def __init__(self, storage: BaseStorage, database: Database, study: str) -> None:
        self._storage = storage
        self._study = study
        self._turn = Turn(database, study)
        self._me = owner()
        self._held: dict[int, int] = {}  # ids by number
        self._lost: list[int] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewal: threading.Thread | None = None
        self._unfinished: dict[int, FrozenTrial] = {}  # by id
        self._last_id = -1
        self._expired: dict[int, float] = {}  # when it was first seen, by number
        self._asked = -EXPIRY_INTERVAL

    def turn(self) -> AbstractContextManager[None]:
        return self._turn

    def check(self) -> None:
        self._turn.check()

    def hold(self, trial: optuna.Trial) -> None:
        trial_id = _optuna.id_of(trial)
        # The lease first: a holder without one would never lose it.
        _optuna.renew_lease(self._storage, trial_id)
        trial.set_user_attr(HOLDER, self._me)
        with self._lock:
            self._held[trial.number] = trial_id
        if self._renewal is None:
            self._renewal = threading.Thread(target=self._renew, name="leases", daemon=True)
            self._renewal.start()

    def let_go(self, number: int) -> None:
        with self._lock:
            self._held.pop(number, None)

    def holds(self, number: int) -> bool:
        trial_id = self._held.get(number)
        if trial_id is None:
            return False
        trial = self._storage.get_trial(trial_id)
        return trial.state is TrialState.RUNNING and trial.user_attrs.get(HOLDER) == self._me

    def look(self) -> list[FrozenTrial]:
        changed = _optuna.changed_trials(
            self._storage, self._study, self._changed_ids(), self._last_id
        )
        ended = []
        for trial_id, trial in sorted(changed.items()):
            self._last_id = max(self._last_id, trial_id)
            if not trial.state.is_finished():
                self._unfinished[trial_id] = trial
                # Whoever has it now has a lease of its own, whose expiry is asked for anew.
                self._expired.pop(trial.number, None)
                self._lose(trial)
                continue
            self._unfinished.pop(trial_id, None)
            was_held = trial.number in self._held
            self.let_go(trial.number)
            is_told = was_held and trial.user_attrs.get(HOLDER) == self._me
            if was_held and not is_told:
                self._lost.append(trial.number)
            if not is_told:
                ended.append(trial)
        return ended

    def lost(self) -> list[int]:
        lost, self._lost = self._lost, []
        return lost

    def is_anyone_at_work(self) -> bool:
        return any(trial.state is TrialState.RUNNING for trial in self.others())

    def abandoned(self) -> Iterator[FrozenTrial]:
        self._note_expired()
        for trial in self.others():
            if trial.state is TrialState.WAITING or self._is_abandoned(trial):
                # Its holder may have begun another attempt since it was read.
                yield self._storage.get_trial(_optuna.id_of(trial))

    def others(self) -> list[FrozenTrial]:
        others = []
        for trial in list(self._unfinished.values()):  # a copy: another thread shows what goes on
            has_begun = trial.state is TrialState.RUNNING or bool(trial.params)
            if has_begun and trial.number not in self._held:
                others.append(trial)
        return others

    def elsewhere(self) -> dict[int, str]:
        hosts = {}
        for trial in self.others():
            if trial.state is TrialState.RUNNING and not self._is_abandoned(trial):
                hosts[trial.number] = host_of(trial.user_attrs[HOLDER])
        return hosts

    def refuse_others(self) -> None:
        self.look()
        self._note_expired()
        if self._expired:
            time.sleep(SECOND_LOOK)
            self.look()
            self._note_expired()
        for number, host in self.elsewhere().items():
            problem = f"trial {number} runs on {host}"
            raise StudyError(f"study {self._study}: {problem}; wait for its end, or end it")

    def close(self) -> None:
        self._ended.set()
        with self._lock:
            self._held.clear()
        if self._renewal is not None:
            self._renewal.join(RENEWAL)  # it may wait for a database that is away
        self._turn.close()
        _optuna.disconnect(self._storage)

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether nobody runs a running trial: it has no holder, because its process died in its
        turn, or one that is known to be dead, or one whose lease has expired."""
        holder = trial.user_attrs.get(HOLDER)
        if holder is None or is_gone(holder):
            return True
        since = self._expired.get(trial.number)
        return since is not None and time.monotonic() - since >= SECOND_LOOK

    def _note_expired(self) -> None:
        """See which leases of others have expired, and since when."""
        now = time.monotonic()
        if now - self._asked < EXPIRY_INTERVAL:
            return
        self._asked = now
        running = [trial for trial in self.others() if trial.state is TrialState.RUNNING]
        if not running:
            self._expired = {}
            return
        expired = _optuna.expired_leases(self._storage, self._study)
        numbers = [trial.number for trial in running if trial.number in expired]
        self._expired = {number: self._expired.get(number, now) for number in numbers}

    def _changed_ids(self) -> set[int]:
        """Which unfinished trials are not any more as they were read."""
        states = _optuna.states(self._storage, set(self._unfinished), HOLDER)
        changed = set()
        for trial_id, trial in self._unfinished.items():
            if states.get(trial_id) != (trial.state, trial.user_attrs.get(HOLDER)):
                changed.add(trial_id)
        return changed

    def _lose(self, trial: FrozenTrial) -> None:
        """Renew a lease no more that another process has taken, which this one was too slow to
        renew."""
        is_mine = trial.user_attrs.get(HOLDER) == self._me
        if trial.number in self._held and not is_mine:
            log.warning("trial %d was given to another process meanwhile", trial.number)
            self.let_go(trial.number)
            self._lost.append(trial.number)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            try:
                self._renew_all()
            except Exception as error:  # noqa: BLE001  of whichever driver; the next may succeed
                log.warning("a lease was not renewed: %s", redacted(named_line(error)))

    def _renew_all(self) -> None:
        """Renew the leases of what this process still holds; another's are its own affair."""
        with self._lock:
            held = set(self._held.values())
        for trial_id, (_, holder) in _optuna.states(self._storage, held, HOLDER).items():
            if holder == self._me:
                _optuna.renew_lease(self._storage, trial_id)


@contextlib.contextmanager
def others_kept_out(storage: BaseStorage, database: Database, study: str) -> Iterator[None]:
    """A turn in which nobody runs a trial of a study. Raises StudyError where somebody does."""
    shared = Shared(storage, database, study)
    try:
        with shared.turn():
            shared.refuse_others()
            yield
    finally:
        shared.close()


def sharing(storage: BaseStorage, database: Database | None, study: str) -> Sharing:
    """By where a study is. database: the server that it is in; None for a file or memory."""
    return Alone() if database is None else Shared(storage, database, study)
