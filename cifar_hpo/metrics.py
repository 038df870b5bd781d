"""The metrics of a trial by name: `ReplicaMetrics` alone knows how those of replicas are spelled.

In flat form, which is how they are stored and logged, `val_accuracy` is the mean over replicas,
`val_accuracy_std` its sample standard deviation, and `replica_0/val_accuracy` one replica's own.
With a single replica there is the plain name alone. `val_accuracy_best` is the best over the
epochs, of each replica by itself, before any mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

SPREAD = "_std"
BEST = "_best"
VALIDATION = "val_"
"""Begins the names of metrics on the validation images."""
TEST = "test_"
"""Begins those on the test images, which are scored once, at the end."""

ERRORS = ("mae", "mse", "rmse")
"""Mean errors by their short names, words of a metric's name."""

OF_A_REPLICA = re.compile(r"replica_(\d+)/(.+)")

NOT_IN_A_NAME = re.compile(r"[^\w. -]")
"""What MLflow does not take in the name of a metric, and the slash, which makes groups there."""

NOT_IN_A_KEY = re.compile(r"[^\w. :/-]")
"""What MLflow takes in no name of a metric or param."""

MAX_CLASS_NAME = 200
"""Characters of a class's name in that of a metric, of which MLflow takes 250."""

SECONDS = "train_seconds"
"""Adds up over replicas where other metrics have a mean: it is what the trial took."""

SIZES = ("parameters", "epochs", SECONDS)
"""Metrics that tell nothing of how good a model is."""


@dataclass(frozen=True)
class ReplicaMetrics:
    """What each replica came to, by its number from 0; all have the same names."""

    by_replica: Mapping[int, Mapping[str, float]]

    @classmethod
    def from_list(cls, metrics: Sequence[Mapping[str, float]]) -> ReplicaMetrics:
        """Those of all replicas of a trial, in their order."""
        return cls(dict(enumerate(metrics)))

    @property
    def names(self) -> list[str]:
        """The names of the metrics, in the order of the first replica."""
        return list(next(iter(self.by_replica.values())))

    @property
    def scores(self) -> list[str]:
        """The metrics that differ by seed and tell how good a model is, such as losses."""
        return [name for name in self.names if name not in SIZES]

    def mean(self) -> dict[str, float]:
        """Each metric's mean over the replicas that are here."""
        return {name: fmean(self._values(name)) for name in self.names}

    def spread(self, names: Iterable[str]) -> dict[str, float]:
        """The sample standard deviation of some metrics; needs two replicas."""
        return {spread_name(name): stdev(self._values(name)) for name in names}

    def per_replica(self, names: Iterable[str] | None = None) -> dict[str, float]:
        """Each replica's own metrics, all of them unless some are named."""
        selected = self.names if names is None else list(names)
        own = {}
        for replica, metrics in self.by_replica.items():
            for name in selected:
                own[replica_name(replica, name)] = metrics[name]
        return own

    def epoch(self, replicas: int) -> dict[str, float]:
        """What is logged of an epoch, flat: means, and with several replicas each one's own.

        replicas: how many the trial has. Where they train one after the other an epoch is one
        replica's alone, which has no mean.
        """
        flat = {}
        if len(self.by_replica) == replicas:
            flat.update(self.mean())
        if replicas > 1:
            flat.update(self.per_replica())
        return flat

    def summary(self) -> dict[str, float]:
        """What a trial came to, flat: the means, and seconds added up.

        With several replicas also the spread of each score, and each replica's own scores.
        """
        flat = self.mean()
        if SECONDS in flat:
            flat[SECONDS] = sum(self._values(SECONDS))
        if len(self.by_replica) > 1:
            flat.update(self.spread(self.scores))
            flat.update(self.per_replica(self.scores))
        return flat

    def _values(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.by_replica.values()]


def direction_of(name: str, own: Mapping[str, str] | None = None) -> str:
    """Whether less of a metric is better: `minimize` or `maximize`.

    Accuracies are the better the higher; losses, sizes, seconds and spreads the lower. own: the
    directions of further metrics by the names that they have on training images.
    """
    if is_spread(name):
        return "minimize"
    if own and on_training_images(name) in own:
        return own[on_training_images(name)]
    return "maximize" if "accuracy" in name else "minimize"


def likely_direction(name: str) -> str:
    """The direction of a metric of which nobody knows more than its name: less of a loss and of an
    error is better, more of anything else."""
    lower = name.lower()
    words = re.split(r"[\W_]+", lower)
    is_error = "loss" in lower or "error" in lower or any(word in ERRORS for word in words)
    return "minimize" if is_error else "maximize"


def replica_name(replica: int, name: str) -> str:
    """The name under which one replica's metric is stored."""
    return f"replica_{replica}/{name}"


def spread_name(name: str) -> str:
    """The name under which a metric's standard deviation over replicas is stored."""
    return name + SPREAD


def is_spread(name: str) -> bool:
    """Whether this is the name of a standard deviation over replicas."""
    return name.endswith(SPREAD)


def without_spread(name: str) -> str:
    """The metric of which this name is the spread; the name itself where it is none."""
    return name.removesuffix(SPREAD)


def best_name(name: str) -> str:
    """The name under which a metric's best value over the epochs is stored."""
    return name + BEST


def is_best(name: str) -> bool:
    """Whether this is the name of a best value over epochs."""
    return name.endswith(BEST)


def without_best(name: str) -> str:
    """The metric of which this name is the best value; the name itself where it is none."""
    return name.removesuffix(BEST)


def on_training_images(name: str) -> str:
    """The name that a metric has on training images, be this its best value or its spread on
    others."""
    name = without_best(without_spread(name))
    return name.removeprefix(VALIDATION).removeprefix(TEST)


def best_over_epochs(
    history: Sequence[Mapping[str, float]], own: Mapping[str, str] | None = None
) -> dict[str, float]:
    """The best value of each validation metric, under its own name.

    history: one or more epochs. own: as `direction_of` takes it.
    """
    best = {}
    for name in history[0]:
        if name.startswith(VALIDATION):
            values = [metrics[name] for metrics in history]
            is_higher_better = direction_of(name, own) == "maximize"
            best[best_name(name)] = max(values) if is_higher_better else min(values)
    return best


def values_by_replica(flat: Mapping[str, float], name: str) -> dict[int, float]:
    """A metric of each replica, by number; empty where there is one replica."""
    return {replica: flat[stored] for replica, stored in stored_names(flat, name).items()}


def stored_names(flat: Iterable[str], name: str) -> dict[int, str]:
    """The names under which a metric of each replica is stored, by the replica's number."""
    names = {}
    for stored in flat:
        match = OF_A_REPLICA.fullmatch(stored)
        if match and match[2] == name:
            names[int(match[1])] = stored
    return dict(sorted(names.items()))


def class_metrics(metric: str, by_class: Mapping[str, float]) -> dict[str, float]:
    """A metric of each class under a name that MLflow takes, `test_accuracy/cat`.

    What it does not take in a class's name is a `_` there. Where two classes would have one name,
    the later one has the next free number behind it.
    """
    metrics: dict[str, float] = {}
    for name, value in by_class.items():
        shown = NOT_IN_A_NAME.sub("_", name)[:MAX_CLASS_NAME]
        if not shown.strip("."):  # a path of its own
            shown = "_" * max(len(shown), 1)
        free, number = f"{metric}/{shown}", 1
        while free in metrics:
            number += 1
            free = f"{metric}/{shown}_{number}"
        metrics[free] = value
    return metrics


def metric_name(name: str) -> str:
    """A metric's name as MLflow takes it, with a `_` for each sign that it does not."""
    return NOT_IN_A_KEY.sub("_", name)


def param_name(key: str) -> str:
    """The key of an override, such as `+model.depth`, as the name of a param in MLflow."""
    return NOT_IN_A_KEY.sub("_", key.lstrip("+~"))
