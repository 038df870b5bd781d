"""How much error each look at a growing study may make, so that all looks together make 5 %.

A look is a number of replicas: whoever reads the report at 3 seeds and again at 5 has looked at 3
and 5, and whoever might have, too. So nobody counts who looked when: `Looks.level` gives each
number of replicas its share of the error for ever, and a test at that number may say at that level
what it shows (alpha spending, Lan and DeMets 1983, with replicas for time).

Most studies have a plan: five seeds each, looked at when all are trained, since the report judges
no configuration of which seeds are missing. The plan has four fifths of the error, all other
numbers together the last fifth: a study that was trained as planned tests at 4 %, for some 7 % more
replicas than at 5 %, and may be continued for ever. A plan that grows, from `first` to `most`
replicas, shares its four fifths among these numbers.

Looks at one study resemble one another, so less is lost than by sharing 5 % out: the levels are
those at which simulations of 2 to 20 equal configurations crossed once in twenty or less, up to 128
replicas. Tried beside this: AdaStop (Mathieu and others, TMLR 2024; MIT licence, alive) permutes
replicas, of which three of each of two configurations give 20 orders, so that it can't say anything
at 5 % before five or six; confidence sequences hold for all numbers alike, for what the level 0.6 %
costs at each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ERROR = 0.05
"""The chance that ever, at any look, any configuration is wrongly said to be worse."""

PLANNED_SHARE = 0.8
"""Of the error, for the numbers of replicas that were planned."""

_GROWTH = 4.0
"""How the levels of a plan sink with the logarithm of its growth, and `_BEYOND` the level beside a
plan: by simulation, see above."""

_BEYOND = 0.0045


@dataclass(frozen=True)
class Looks:
    """A plan of the replicas of each configuration: from `first` to `most` of them.

    Both are the same where all are trained before anybody looks. Without any plan the defaults
    hold.
    """

    first: int = 2
    most: int = 16

    @classmethod
    def covering(cls, plans: Sequence[Looks]) -> Looks:
        """The plan of a comparison between studies, which is looked at whenever one of them is.

        plans: theirs, one or more.
        """
        return cls(min(plan.first for plan in plans), max(plan.most for plan in plans))

    def level(self, replicas: int) -> float:
        """The error that a test with so many replicas may make."""
        if self.first <= replicas <= self.most:
            growth = math.log(self.most / self.first)
            return PLANNED_SHARE * ERROR / (1 + _GROWTH * growth)
        distance = abs(math.log(replicas / (self.first if replicas < self.first else self.most)))
        return _BEYOND / (1 + distance) ** 2
