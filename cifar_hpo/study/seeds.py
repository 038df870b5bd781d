"""Which keys are seeds: trials that differ in nothing else are one configuration."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from cifar_hpo.metrics import values_by_replica
from cifar_hpo.study.dimensions import Value

SEEDS = ("training.seed", "seed")
"""The keys of seeds: this package's own, and the one that other apps have."""

REPLICAS = "training.replicas"
"""The key of how many seeds a trial has, which count up from its own."""


def is_seed(key: str) -> bool:
    """Whether a dimension is one of seeds."""
    return key.lstrip("+") in SEEDS


def without_seed(params: Mapping[str, Value]) -> dict[str, Value]:
    """A trial's configuration, which it shares with those of other seeds."""
    return {key: value for key, value in params.items() if not is_seed(key)}


def seed_in(values: Mapping[str, Any], otherwise: Any) -> Any:
    """The seed among values by the path of their key."""
    for key, value in values.items():
        if is_seed(key):
            return value
    return otherwise


def as_seed(value: Any) -> int:
    """A seed as a number; one that is an interpolation is told apart by its text."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return zlib.crc32(str(value).encode())


def replicas_of(params: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """How many seeds a trial has; 1 where their number is an interpolation.

    config: what does not vary, by its path.
    """
    replicas = str(params.get(REPLICAS, config.get(REPLICAS, 1)))
    return int(replicas) if replicas.isdecimal() else 1


def seeds_of(params: Mapping[str, Value], config: Mapping[str, Any]) -> range:
    """The seeds of a trial, one for each replica; config as for `replicas_of`."""
    first = as_seed(seed_in(params, seed_in(config, 0)))
    return range(first, first + replicas_of(params, config))


def values_by_seed(
    metrics: Mapping[str, float], metric: str, first_seed: int, mean: float | None
) -> dict[int, float]:
    """A metric of each of a trial's replicas, whose seeds count up from the first; the mean where
    there is one replica, none where there is no mean."""
    by_replica = values_by_replica(metrics, metric)
    if by_replica:
        return {first_seed + replica: value for replica, value in by_replica.items()}
    return {} if mean is None else {first_seed: mean}
