"""What the report reads of MLflow's runs: `StoredRuns`, opened by `open_runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from cifar_hpo.analysis.comparison import Comparison
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


def attach(runs: StoredRuns, comparison: Comparison, folder: Path, console: Console) -> None:
    """Add the report's files to the study's run; where that can't be, it is said."""
    assert comparison.run_id is not None
    try:
        runs.attach(comparison.run_id, folder, note(comparison))
    except StudyError as error:
        console.print(f"the page is not attached to the study's run: {error}", **PLAIN)
