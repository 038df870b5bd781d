"""Which trials counted, and which is best: `FinishedTrial` is a counted trial; `ranked` and
`pareto_front` order them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifar_hpo.redaction import redacted
from cifar_hpo.study.space import Value, identity

if TYPE_CHECKING:  # a sweep is checked before Optuna is loaded
    from optuna.trial import FrozenTrial

OUTCOME = "outcome"
"""The attribute of Optuna's trial under which its outcome is noted."""

LATE_RUN = "late_run_{number}"
"""The attribute of Optuna's study that says in which MLflow run a trial was logged after it was
counted; a finished trial of Optuna's can't be changed."""


@dataclass(frozen=True)
class FinishedTrial:
    """A counted trial, as rankings show it; values in the order of the study's metrics, None where
    it did not finish.

    seconds: of the attempt that counted, which ended at `ended`, in seconds since 1970, in the slot
    `worker`.
    """

    number: int
    params: Mapping[str, Value]
    state: str
    values: Sequence[float] | None
    metrics: Mapping[str, float]
    error: str
    seconds: float
    run_id: str
    worker: int | None = None
    ended: float = 0.0

    @property
    def value(self) -> float | None:
        return self.values[0] if self.values else None


def finished_trials(
    trials: Iterable[FrozenTrial], study_attributes: Mapping[str, Any]
) -> list[FinishedTrial]:
    """The outcomes among Optuna's trials; of one configuration tried again after a failure, the
    last.

    study_attributes: of Optuna's study, among them the runs that were logged late.
    """
    finished: dict[str, FinishedTrial] = {}
    for trial in trials:
        outcome = trial.user_attrs.get(OUTCOME)
        if outcome:
            key = identity(trial.params)
            finished.pop(key, None)
            outcome = {**outcome, "error": redacted(outcome["error"])}  # noted by earlier versions
            late_run = study_attributes.get(LATE_RUN.format(number=trial.number))
            if late_run:
                outcome = outcome | {"run_id": late_run}
            finished[key] = FinishedTrial(number=trial.number, params=trial.params, **outcome)
    return list(finished.values())


def pareto_front(trials: Iterable[FinishedTrial], directions: Sequence[str]) -> set[int]:
    """Numbers of the finished trials of which no other is as good in every metric and better in
    one: the Pareto front."""
    losses = _losses(trials, directions)
    front = set()
    for number, loss in losses.items():
        if not any(_dominates(rival, loss) for rival in losses.values()):
            front.add(number)
    return front


def ranked(trials: Sequence[FinishedTrial], directions: Sequence[str]) -> list[FinishedTrial]:
    """Finished trials, the best first, then the others. For several metrics the Pareto front comes
    first."""
    losses = _losses(trials, directions)
    front = pareto_front(trials, directions) if len(directions) > 1 else set(losses)

    def place(trial: FinishedTrial) -> tuple[bool, bool, list[float], int]:
        number = trial.number
        return number not in losses, number not in front, losses.get(number, []), number

    return sorted(trials, key=place)


def _losses(trials: Iterable[FinishedTrial], directions: Sequence[str]) -> dict[int, list[float]]:
    """The values of finished trials by number, signed so that less is better."""
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    losses = {}
    for trial in trials:
        if trial.values:
            signed = zip(signs, trial.values, strict=True)
            losses[trial.number] = [sign * value for sign, value in signed]
    return losses


def _dominates(loss: Sequence[float], of: Sequence[float]) -> bool:
    """Whether a loss is nowhere greater than another one and somewhere less."""
    return loss != of and all(a <= b for a, b in zip(loss, of, strict=True))
