"""Steps that the tests of training share: train a config, die in an epoch, compare weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cifar_hpo.config.app import Config
from cifar_hpo.data.dataset import Dataset, load_dataset
from cifar_hpo.training import trainer

ComposeConfig = Callable[..., Config]
"""The fixture `config`: overrides in, the config of a small training out."""

EpochMetrics = dict[int, dict[str, float]]
"""What `on_epoch` is told of an epoch: metrics by replica."""


class Died(BaseException):
    """Stands in for a kill: nothing in training may catch it."""


def train(
    config: Config, folder: Path | None = None
) -> tuple[list[trainer.Trained], list[EpochMetrics]]:
    """All replicas, and the metrics of each epoch."""
    return train_dataset(config, load_dataset(config.data), folder)


def train_dataset(
    config: Config, dataset: Dataset, folder: Path | None = None
) -> tuple[list[trainer.Trained], list[EpochMetrics]]:
    """The same on a dataset that is at hand."""
    epochs: list[EpochMetrics] = []

    def on_epoch(epoch: int, values: Mapping[int, Mapping[str, float]], **_: object) -> None:
        epochs.append({replica: dict(metrics) for replica, metrics in values.items()})

    trainer.set_up(config.training)
    return trainer.train(config, dataset, on_epoch, folder), epochs


def train_first(config: Config, folder: Path | None = None) -> trainer.Trained:
    """The first replica, which in most tests is the only one."""
    replicas, _ = train(config, folder)
    return replicas[0]


def train_and_die(config: Config, folder: Path, epoch: int) -> None:
    """A training that is killed when it reports an epoch, counted from 0."""
    train_dataset_and_die(config, load_dataset(config.data), folder, epoch)


def train_dataset_and_die(config: Config, dataset: Dataset, folder: Path, epoch: int) -> None:
    """The same on a dataset that is at hand."""
    last = epoch

    def on_epoch(epoch: int, values: object, **_: object) -> None:
        if epoch == last:
            raise Died

    with pytest.raises(Died):
        trainer.train(config, dataset, on_epoch, folder)


def train_again(config: Config, folder: Path) -> tuple[trainer.Trained, list[bool]]:
    """The first replica of a training that goes on, and which epochs were restored."""
    restored_epochs: list[bool] = []

    def on_epoch(epoch: int, values: object, *, restored: bool, **_: object) -> None:
        restored_epochs.append(restored)

    replicas = trainer.train(config, load_dataset(config.data), on_epoch, folder)
    return replicas[0], restored_epochs


def all_weights(trained: trainer.Trained) -> NDArray[Any]:
    """As one array (parameters,)."""
    return np.concatenate([weight.ravel() for weight in trained.weights])


def marked_for_processors(
    cases: list[tuple[str, str]],
    *marked: tuple[str, str],
    rare: tuple[tuple[str, str], ...] = (),
) -> list[Any]:
    """The cases as parameters, and those marked that .ci/run has time for on each processor.

    rare: those that it has no time for at all.
    """
    assert set(marked) | set(rare) <= set(cases)
    parameters = []
    for case in cases:
        marks = [pytest.mark.processors] if case in marked else []
        marks += [pytest.mark.long] if case in rare else []
        parameters.append(pytest.param(*case, marks=marks))
    return parameters
