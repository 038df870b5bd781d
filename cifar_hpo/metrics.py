"""The metrics of a trial by name: `ReplicaMetrics` alone knows how those of replicas are spelled.

In flat form, which is how they are stored and logged, `val_accuracy` is the mean over replicas,
`val_accuracy_std` its sample standard deviation, and `replica_0/val_accuracy` one replica's own.
With a single replica there is the plain name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

SPREAD = "_std"
OF_A_REPLICA = re.compile(r"replica_(\d+)/(.+)")


@dataclass(frozen=True)
class ReplicaMetrics:
    """What each replica came to, by its number from 0; all have the same names."""

    by_replica: Mapping[int, Mapping[str, float]]

    def mean(self) -> dict[str, float]:
        """Each metric's mean over the replicas that are here."""
        names = next(iter(self.by_replica.values()))
        return {name: fmean(one[name] for one in self.by_replica.values()) for name in names}

    def spread(self, names: Iterable[str]) -> dict[str, float]:
        """The sample standard deviation of some metrics; needs two replicas."""
        replicas = self.by_replica.values()
        return {spread_name(name): stdev(one[name] for one in replicas) for name in names}

    def each(self, names: Iterable[str] | None = None) -> dict[str, float]:
        """Each replica's own metrics, all of them unless some are named."""
        own = {}
        for replica, metrics in self.by_replica.items():
            for name in metrics if names is None else names:
                own[replica_name(replica, name)] = metrics[name]
        return own


def replica_name(replica: int, name: str) -> str:
    """The name under which one replica's metric is stored."""
    return f"replica_{replica}/{name}"


def spread_name(name: str) -> str:
    """The name under which a metric's standard deviation over replicas is stored."""
    return name + SPREAD


def without_spread(name: str) -> str:
    """The metric of which this name is the spread; the name itself where it is none."""
    return name.removesuffix(SPREAD)


def values_by_replica(flat: Mapping[str, float], name: str) -> dict[int, float]:
    """A metric of each replica, by number; empty where there is one replica."""
    return {replica: flat[stored] for replica, stored in stored_names(flat, name).items()}


def stored_names(flat: Iterable[str], name: str) -> dict[int, str]:
    """The names under which a metric of each replica is stored, by the replica's number."""
    found = {}
    for stored in flat:
        match = OF_A_REPLICA.fullmatch(stored)
        if match and match[2] == name:
            found[int(match[1])] = stored
    return dict(sorted(found.items()))
