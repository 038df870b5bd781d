"""Whom a sweep tells how it goes: a `StudyTracker`, such as MLflow's; `NoTracker` keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class StudyTracker(Protocol):
    """The record of one study, with a run for the study and one for each attempt below it.

    run_id, experiment_id: of the study's own run; empty where nothing is tracked. uri: where it is
    kept. experiment_name: under which it is found there.

    What is called while trials run returns at once. What ends a sweep takes the store to be there,
    waits for it for some seconds, and raises what goes wrong.
    """

    run_id: str
    experiment_id: str
    uri: str
    experiment_name: str

    def set_ui_columns(self, metrics: Sequence[str], direction: str, params: Sequence[str]) -> None:
        """Let its user interface show what varied and what came of it."""

    def end_attempt(self, run_id: str, status: str) -> None:
        """An attempt's run has ended, which its own process could not say; nor, maybe, its id."""

    def end_earlier_attempts(self, number: int, attempt: int) -> None:
        """A trial has another attempt; the runs of those before it, on whichever host, have
        ended."""

    def note_unlogged(self, number: int, unlogged: str) -> None:
        """What a trial's attempt says of what has not arrived; empty where all has."""

    def unlogged(self) -> list[str]:
        """What has not arrived, for the user, as lines."""

    def deliver_kept(self, folder: Path) -> dict[int, str]:
        """Log what could not be logged before and lies below a folder; its runs by trial.

        Raises nothing: what has not arrived is told by `unlogged`.
        """

    def log_best(self, finished: int, value: float | None) -> None:
        """The best value after so many counted trials; None where no trial has one."""

    def register_champion(self, run_id: str, metric: str, value: float, direction: str) -> str:
        """Register the model of the best trial's run, unless the present champion is as good.

        Returns why the present one stays where the two can't be compared; else it is empty.
        """

    def close_abandoned(self) -> None:
        """Mark attempts as KILLED that still say RUNNING but whose process is gone."""

    def close(self, status: str, note: str, best: Mapping[str, Any] | None) -> None:
        """End the study's run, with its ranking and its best configuration."""


class NoTracker:
    """For apps that do not track."""

    run_id = experiment_id = uri = experiment_name = ""

    def set_ui_columns(
        self, metrics: Sequence[str], direction: str, params: Sequence[str]
    ) -> None: ...

    def end_attempt(self, run_id: str, status: str) -> None: ...

    def end_earlier_attempts(self, number: int, attempt: int) -> None: ...

    def note_unlogged(self, number: int, unlogged: str) -> None: ...

    def unlogged(self) -> list[str]:
        return []

    def deliver_kept(self, folder: Path) -> dict[int, str]:  # noqa: ARG002
        return {}

    def log_best(self, finished: int, value: float | None) -> None: ...

    def register_champion(self, run_id: str, metric: str, value: float, direction: str) -> str:  # noqa: ARG002
        return ""

    def close_abandoned(self) -> None: ...

    def close(self, status: str, note: str, best: Mapping[str, Any] | None) -> None: ...
