"""Pruners that stop nothing for good: their `Rungs` say at which epochs a trial pauses, and which
of those that paused goes on.

`promotion` is the asynchronous successive halving of Li et al. (2020, arXiv:1810.05934): on each
rung the best one in `reduction_factor` of those that have come so far goes on, also when it paused
long ago. `first` is what Egele et al. (2023, arXiv:2207.14048) found hard to beat: a few epochs for
all, and the best of them to their end. Both rest on checkpoints, from which a trial goes on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from cifar_hpo.trial import PAUSING

PROMOTION, FIRST = PAUSING


class Rungs:
    """The epochs at which trials pause, and who has come to each.

    options: of the pruner. direction: maximize or minimize, of the value after an epoch.

    A trial is known here by its number from `reach` on; `pause`, `go_on` and `end` say where it
    stands.
    """

    def __init__(self, options: Mapping[str, Any], direction: str) -> None:
        self.is_first = options["name"] == FIRST
        self._options = options
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._values: dict[int, dict[int, float]] = {}  # by epoch, then by trial
        self._paused: dict[int, int] = {}  # the epoch, by trial
        self._gone_on: dict[int, int] = {}  # the epoch of the last rung that it left, by trial

    @property
    def paused(self) -> list[int]:
        """The trials that wait, by number."""
        return sorted(self._paused)

    def is_rung(self, epoch: int) -> bool:
        """Whether trials pause after so many epochs."""
        if self.is_first:
            return bool(epoch == self._options["epochs"])
        rung = self._options["min_resource"]
        while rung < epoch:
            rung *= self._options["reduction_factor"]
        return bool(rung == epoch)

    def reach(self, number: int, epoch: int, value: float) -> bool:
        """A trial has this value after so many epochs; returns whether it is to pause.

        It does not on a rung from which it has gone on, to which it comes again where it keeps no
        checkpoint.
        """
        if not self.is_rung(epoch) or epoch <= self._gone_on.get(number, 0):
            return False
        self._values.setdefault(epoch, {})[number] = value
        return True

    def pause(self, number: int, epoch: int) -> None:
        """A trial waits on a rung."""
        self._paused[number] = epoch

    def go_on(self, number: int, epoch: int) -> None:
        """A trial leaves a rung."""
        self._paused.pop(number, None)
        self._gone_on[number] = epoch

    def end(self, number: int) -> None:
        """A trial waits no more, because it has ended."""
        self._paused.pop(number, None)

    def promoted(self, running: Collection[int], *, are_all_begun: bool) -> tuple[int, int] | None:
        """The trial that deserves to go on next, and the epoch of its rung; None where none does
        yet.

        running: trials by number. are_all_begun: whether there will be no new one. `first` waits
        until all have come to its rung; of `promotion`'s one goes on at least, however few they
        are.
        """
        if self.is_first:
            reached = self._values.get(self._options["epochs"], {})
            if not are_all_begun or any(number not in reached for number in running):
                return None
        is_last = are_all_begun and not running
        for epoch in sorted(self._values, reverse=True):
            best_first = sorted(self._values[epoch].items(), key=self._rank)
            for number, _ in best_first[: self._places(len(best_first), is_last=is_last)]:
                if self._paused.get(number) == epoch:
                    return number, epoch
        return None

    def _places(self, reached: int, *, is_last: bool) -> int:
        """How many of those that have reached a rung go on from there."""
        if self.is_first:
            return int(self._options["top"])
        places: int = reached // self._options["reduction_factor"]
        return max(places, 1) if is_last else places

    def _rank(self, reached: tuple[int, float]) -> tuple[float, int]:
        number, value = reached
        return math.inf if math.isnan(value) else self._sign * value, number
