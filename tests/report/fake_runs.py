"""MLflow's runs as a report reads them, without MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.report.runs import Curves


class FakeRuns:
    """Each run has two replicas of some epochs and a model of two classes; two trials are at work,
    one of them in its first epoch."""

    def __init__(self, epochs: int = 3) -> None:
        self.epochs = epochs

    def curves(self, run_id: str, metric: str) -> Curves:
        points = [(epoch, 0.1 * epoch) for epoch in range(1, self.epochs + 1)]
        return {0: points, 1: points}

    def running(self, parent: str, metric: str) -> Sequence[tuple[str, Sequence[float]]]:
        return [("filters=4", [0.1, 0.3]), ("filters=8", [])]

    def classifies(self, run_id: str) -> bool:
        return True

    def confusion(self, run_id: str) -> tuple[NDArray[Any], Sequence[str]]:
        return np.array([[8, 2], [0, 0]]), ["cat", "dog"]

    def predictions(self, run_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.array([0, 1]), np.array([0.9, 0.8])

    def correct(self, run_id: str) -> NDArray[Any] | None:
        return None

    def attach(self, run_id: str, folder: Path, note: str) -> None:
        """The report is kept nowhere."""
