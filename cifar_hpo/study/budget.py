"""When a study stops starting trials: a `Budget` of trials, seconds, failures, and of values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Budget:
    """The limits of a study, None for those that it does not have.

    n_trials: finished trials in all. timeout: seconds in which trials may start. max_failures:
    failed trials of this process. target: the value at which it stops. patience: trials without a
    better value. direction: maximize or minimize, of the value.
    """

    n_trials: int | None
    timeout: float | None
    max_failures: int | None
    target: float | None
    patience: int | None
    direction: str
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], direction: str) -> Budget:
        """From `hydra.sweeper`'s options."""
        return cls(
            options["n_trials"],
            options["timeout"],
            options["max_failures"],
            options["target"],
            options["patience"],
            direction,
        )

    def start(self) -> None:
        """Count the seconds from now on."""
        self._started = time.monotonic()

    def lengthen(self, seconds: float) -> None:
        """Do not count these seconds, in which the study was paused."""
        self._started += seconds

    def seconds_left(self) -> float | None:
        """Seconds in which trials may still start; None without a timeout."""
        if not self.timeout:
            return None
        return max(0.0, self.timeout - (time.monotonic() - self._started))

    def allows(self, trials: int) -> bool:
        """Whether there may be another trial beside so many."""
        return not self.n_trials or trials < self.n_trials

    def is_spent(self, best: float | None, since_best: int, failures: int) -> bool:
        """Whether a limit other than the number of trials is reached.

        best: value of all finished trials; None where there is none. since_best: trials that ended
        after it.
        """
        if self.has_failed_too_often(failures):
            return True
        if self.seconds_left() == 0:
            return True
        if self.target is not None and best is not None and self._reaches(best, self.target):
            return True
        return bool(self.patience) and since_best >= (self.patience or 0)

    def has_failed_too_often(self, failures: int) -> bool:
        return self.max_failures is not None and failures >= self.max_failures

    def _reaches(self, value: float, target: float) -> bool:
        return value >= target if self.direction == "maximize" else value <= target
