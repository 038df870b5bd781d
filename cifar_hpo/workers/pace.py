"""How fast a trial trains: a `Pace` takes in its progress and says how long it will go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cifar_hpo.trial import Progress


@dataclass(frozen=True)
class _Mark:
    """An epoch that was done, and when, in seconds of the monotonic clock."""

    moment: float
    epoch: int


@dataclass
class Pace:
    """A trial's epochs as they were timed here; those of an earlier attempt are left out.

    started: when the trial was given to its worker. progress: its latest. values: the metric after
    each epoch that had one.
    """

    started: float
    progress: Progress = field(default_factory=lambda: Progress(0, 0))
    values: list[float] = field(default_factory=list)
    _first: _Mark | None = None
    _latest: _Mark | None = None

    def note(self, progress: Progress) -> None:
        """Take in how the trial goes, and when it said so."""
        now = time.monotonic()
        if progress.epoch == 0:
            self._first = _Mark(now, 0)  # what came before the training is no part of an epoch
        elif progress.epoch > self.progress.epoch:
            self._note_epoch(now, progress)
        if progress.value is not None:
            self.values.append(progress.value)
        self.progress = progress

    def skip(self, seconds: float) -> None:
        """Do not count these latest seconds, in which the trial waited."""
        self.started += seconds
        for name in ("_first", "_latest"):
            mark = getattr(self, name)
            if mark is not None:
                setattr(self, name, _Mark(mark.moment + seconds, mark.epoch))

    def _note_epoch(self, now: float, progress: Progress) -> None:
        first = self._first or _Mark(self.started, 0)
        if self._latest is None:
            first = _Mark(first.moment, progress.restored)
        elif first.epoch == progress.restored:
            first = self._latest  # a first epoch takes longer, so the next ones count
        self._first = first
        self._latest = _Mark(now, progress.epoch)

    @property
    def seconds_per_epoch(self) -> float | None:
        """By the epochs that were done here; None before the first."""
        first, latest = self._first, self._latest
        if first is None or latest is None or latest.epoch <= first.epoch:
            return None
        return (latest.moment - first.moment) / (latest.epoch - first.epoch)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the trial will go on; None before its first epoch here is done."""
        seconds, latest, epochs = self.seconds_per_epoch, self._latest, self.progress.epochs
        if seconds is None or latest is None or not epochs:
            return None
        since = time.monotonic() - latest.moment
        return max(0.0, seconds * (epochs - latest.epoch) - since)
