"""When a study stops starting trials: a `Budget` of trials, seconds, failures, and of values."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
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

    def seconds_left(self) -> float | None:
        """Seconds in which trials may still start; None without a timeout."""
        if not self.timeout:
            return None
        return max(0.0, self.timeout - (time.monotonic() - self._started))

    def allows(self, trials: int) -> bool:
        """Whether there may be another trial beside so many."""
        return not self.n_trials or trials < self.n_trials

    def is_spent(self, values: Sequence[float | None], failures: int) -> bool:
        """Whether a limit other than the number of trials is reached.

        values: of the finished trials in the order in which they ended, None for one that has none.
        """
        if self.max_failures and failures >= self.max_failures:
            return True
        if self.seconds_left() == 0:
            return True
        gains = self._gains(values)
        if not gains:
            return False
        best = max(gains)
        if self.target is not None and best >= self._sign * self.target:
            return True
        since_best = len(gains) - 1 - gains.index(best)
        return bool(self.patience) and since_best >= (self.patience or 0)

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "maximize" else -1

    def _gains(self, values: Sequence[float | None]) -> list[float]:
        """The values, signed so that more is better; a trial without one gains nothing."""
        gains = []
        for value in values:
            gains.append(-math.inf if value is None else self._sign * value)
        return gains
