"""Which trials counted, and which is best: `FinishedTrial` is a counted trial; `ranked` and `front` order
them; `settings` are a ranking's cells."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpo.study.space import Value

OUTCOME = "outcome"
"""The attribute of Optuna's trial under which its outcome is noted."""

COLUMNS = 6
"""Parameters that a ranking gives a column each; more would not fit beside each other."""


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


def finished_trials(trials: Sequence[Any]) -> list[FinishedTrial]:
    """The outcomes among Optuna's trials; of one configuration tried again after a failure, the
    last."""
    told: dict[str, FinishedTrial] = {}
    for trial in trials:
        if outcome := trial.user_attrs.get(OUTCOME):
            told.pop(identity(trial.params), None)
            told[identity(trial.params)] = FinishedTrial(
                number=trial.number, params=trial.params, **outcome
            )
    return list(told.values())


def pareto_front(told: Sequence[FinishedTrial], directions: Sequence[str]) -> set[int]:
    """Numbers of the finished trials of which no other is as good in every metric and better in
    one: the Pareto front."""
    costs = _costs(told, directions)

    def dominated(mine: list[float]) -> bool:
        return any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in costs.values()
        )

    return {number for number, mine in costs.items() if not dominated(mine)}


def ranked(told: Sequence[FinishedTrial], directions: Sequence[str]) -> list[FinishedTrial]:
    """Finished trials, the best first, then the others. For several metrics the Pareto front comes
    first."""
    costs = _costs(told, directions)
    first = pareto_front(told, directions) if len(directions) > 1 else set(costs)
    return sorted(
        told,
        key=lambda one: (
            one.number not in costs,
            one.number not in first,
            costs.get(one.number, []),
            one.number,
        ),
    )


def _costs(told: Sequence[FinishedTrial], directions: Sequence[str]) -> dict[int, list[float]]:
    """The values of finished trials by number, signed so that less is better."""
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    return {
        one.number: [sign * value for sign, value in zip(signs, one.values, strict=True)]
        for one in told
        if one.values
    }


def has_columns(keys: Collection[str]) -> bool:
    """Whether each parameter has a column of its own; where they are too many, a configuration goes
    by the number of its trial."""
    return len(keys) <= COLUMNS


def parameter_columns(
    ranking: Sequence[FinishedTrial], keys: Iterable[str]
) -> tuple[list[str], list[list[str]]]:
    """Columns that say what was tried, and their cells for each trial.

    Up to COLUMNS parameters have a column each; more share one, which names all of the first
    trial's and of the others what differs.
    """
    keys = list(keys)
    if has_columns(keys):
        return keys, [[_text(told.params.get(key, "")) for key in keys] for told in ranking]
    first = ranking[0].params if ranking else {}
    cells = []
    for rank, told in enumerate(ranking, start=1):
        differing = [
            key
            for key in keys
            if key in told.params and (rank == 1 or told.params[key] != first.get(key))
        ]
        cells.append(
            [
                ("" if rank == 1 else "… ")
                + " ".join(
                    f"{key.rsplit('.', 1)[-1]}={_text(told.params[key])}" for key in differing
                )
            ]
        )
    return ["configuration"], cells


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace(" ", "")


def identity(params: Mapping[str, Value]) -> str:
    """The same for the same configuration, whatever the order of its keys."""
    return json.dumps(dict(params), sort_keys=True)
