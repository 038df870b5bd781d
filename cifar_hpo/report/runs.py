"""What the report reads of MLflow's runs: `StoredRuns`, opened by `open_runs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.new_images import new_images_interval
from cifar_hpo.analysis.separation import TOP_K
from cifar_hpo.analysis.variances import moderated
from cifar_hpo.console import PLAIN
from cifar_hpo.errors import StudyError
from cifar_hpo.report.tables import note

if TYPE_CHECKING:
    from numpy.typing import NDArray

Curves = Mapping[int, Sequence[tuple[int, float]]]
"""Epoch and value, for each replica."""


class StoredRuns(Protocol):
    """The runs of an MLflow store; `tracking.reader` has the one implementation."""

    def curves(self, run_id: str, metric: str) -> Curves:
        """A metric after each epoch."""

    def running(self, parent: str, metric: str) -> Sequence[tuple[str, Sequence[float]]]:
        """Names of a study's runs that are at work, and their values so far. Raises StudyError
        where the store can't be read."""

    def classifies(self, run_id: str) -> bool:
        """Whether a run's model tells classes apart; True also where nobody can say."""

    def confusion(self, run_id: str) -> tuple[NDArray[Any], Sequence[str]]:
        """Test images by true (rows) and predicted class, (c, c), and the classes' names."""

    def predictions(self, run_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The class that each test image was taken for, and with what probability; both (n,)."""

    def correct(self, run_id: str) -> NDArray[Any] | None:
        """Whether each replica recognised each test image, (replica, n); None where a run does not
        say."""

    def attach(self, run_id: str, folder: Path, note: str) -> None:
        """Add a report's files and its summary to a run. Raises StudyError where it can't."""


def open_runs(
    comparison: Comparison, tracking_uri: str | None, console: Console
) -> StoredRuns | None:
    """The runs in the store given, else in the one that the study was logged to.

    None where there is no store or it does not have the study, which is said: there is a report
    without it too.
    """
    if not comparison.run_id and not tracking_uri:
        return None
    from cifar_hpo.tracking.reader import RunReader

    try:
        reader = RunReader(tracking_uri or comparison.tracking_uri)
        if comparison.run_id:
            reader.check_run(comparison.run_id)
    except StudyError as error:
        console.print(f"without curves and images: {error}", style="yellow", **PLAIN)
        return None
    return reader


def with_new_images(comparison: Comparison, runs: StoredRuns | None) -> Comparison:
    """The same with the first configurations' intervals for new images, where their runs hold all
    replicas' answers."""
    complete = comparison.complete[:TOP_K]
    if runs is None or not any(one.test_accuracies for one in complete):
        return comparison
    variances = moderated([one.test_accuracies for one in complete])
    intervals = {}
    for configuration, variance in zip(complete, variances, strict=True):
        correct = _answers(configuration, runs)
        if variance is not None and correct is not None:
            intervals[configuration.name] = new_images_interval(correct, variance)
    configurations = []
    for configuration in comparison.configurations:
        interval = intervals.get(configuration.name)
        configurations.append(dataclasses.replace(configuration, new_images=interval))
    return dataclasses.replace(comparison, configurations=configurations)


def with_new_images_if_there(comparison: Comparison, tracking_uri: str | None) -> Comparison:
    """The same from the store given, else from the one that the study was logged to; nothing is
    said where it is not there, and MLflow points where it did before."""
    if not comparison.run_id and not tracking_uri:
        return comparison
    from cifar_hpo.tracking.reader import runs_read

    try:
        with runs_read(tracking_uri or comparison.tracking_uri) as runs:
            if comparison.run_id:
                runs.check_run(comparison.run_id)
            return with_new_images(comparison, runs)
    except StudyError:
        return comparison


def _answers(configuration: Configuration, runs: StoredRuns) -> NDArray[Any] | None:
    """Whether each of its replicas recognised each test image, (seed, n); None where that is not
    known of all of them."""
    import numpy as np

    found: list[NDArray[Any]] = []
    for run_id in configuration.run_ids:
        correct = runs.correct(run_id) if run_id else None
        if correct is None or (found and correct.shape[1] != found[0].shape[1]):
            return None
        found.append(correct)
    answers = np.concatenate(found) if found else None
    is_whole = answers is not None and len(answers) == len(configuration.test_accuracies)
    return answers if is_whole and answers is not None and answers.shape[1] > 1 else None


def attach(runs: StoredRuns, comparison: Comparison, folder: Path, console: Console) -> None:
    """Add the report's files to the study's run; where that can't be, it is said."""
    assert comparison.run_id is not None
    try:
        runs.attach(comparison.run_id, folder, note(comparison))
    except StudyError as error:
        console.print(f"the page is not attached to the study's run: {error}", **PLAIN)
