"""Which trials counted, and which is best."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st

from cifar_hpo.study.ranking import (
    OUTCOME,
    CountedTrials,
    FinishedTrial,
    finished_trials,
    pareto_front,
    ranked,
)
from cifar_hpo.trial import FAILED, FINISHED

Values = list[tuple[float, float] | None]


def trial(number: int, *values: float) -> FinishedTrial:
    state = FINISHED if values else FAILED
    return FinishedTrial(number, {"x": number}, state, list(values) or None, {}, "", 1.0, "")


def test_the_best_comes_first_and_what_did_not_finish_last() -> None:
    trials = [trial(0), trial(1, 0.5), trial(2, 0.7), trial(3), trial(4, 0.7)]
    assert [finished.number for finished in ranked(trials, ["maximize"])] == [2, 4, 1, 0, 3]
    assert [finished.number for finished in ranked(trials, ["minimize"])] == [1, 2, 4, 0, 3]


def test_the_pareto_front_has_what_nothing_is_better_than() -> None:
    trials = [trial(0, 0.5, 10), trial(1, 0.7, 30), trial(2, 0.6, 40), trial(3, 0.7, 20), trial(4)]
    directions = ["maximize", "minimize"]
    assert pareto_front(trials, directions) == {0, 3}
    assert [finished.number for finished in ranked(trials, directions)] == [3, 0, 1, 2, 4]


figures = st.integers(0, 5).map(float)


@given(st.lists(st.none() | st.tuples(figures, figures), max_size=12))
def test_no_trial_of_the_front_is_dominated_and_each_other_is(values: Values) -> None:
    trials = [trial(number, *(pair or ())) for number, pair in enumerate(values)]
    losses = {finished.number: finished.values for finished in trials if finished.values}
    front = pareto_front(trials, ["minimize", "minimize"])

    def is_dominated(number: int) -> bool:
        x, y = losses[number]
        rivals = [pair for pair in losses.values() if pair != [x, y]]
        return any(rival[0] <= x and rival[1] <= y for rival in rivals)

    assert front == {number for number in losses if not is_dominated(number)}
    ranking = ranked(trials, ["minimize", "minimize"])
    assert {finished.number for finished in ranking[: len(front)]} == front
    assert len(ranking) == len(trials)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.tuples(figures, figures)), max_size=12))
def test_the_best_is_known_at_each_trial_and_is_the_first_of_the_ranking(
    outcomes: list[tuple[int, tuple[float, float] | None]],
) -> None:
    directions = ["maximize", "minimize"]
    counted = CountedTrials(directions)
    assert counted.best is None
    assert counted.since_best == -1
    for number, (configuration, values) in enumerate(outcomes):
        tried = dataclasses.replace(trial(number, *(values or ())), params={"x": configuration})
        counted.count(tried)
        ranking = counted.ranked()
        assert len(ranking) == len(counted)
        assert counted.best == (ranking[0] if ranking[0].values else None)
        gains = [-math.inf if one.value is None else one.value for one in counted]
        assert counted.since_best == len(gains) - 1 - gains.index(max(gains))


def test_a_front_of_thousands_is_found_without_holding_each_pair_against_each_other() -> None:
    trials = [trial(number, float(number), float(number)) for number in range(5000)]
    started = time.process_time()
    assert len(pareto_front(trials, ["maximize", "minimize"])) == 5000
    assert time.process_time() - started < 5, "0.2 s; 12 million pairs take half a minute"


def outcome(state: str, values: list[float] | None) -> dict[str, Any]:
    return {
        "state": state,
        "values": values,
        "metrics": {},
        "error": "",
        "seconds": 1.0,
        "run_id": "",
        "worker": 0,
        "ended": 0.0,
    }


def test_of_a_configuration_that_was_tried_again_the_last_trial_counts() -> None:
    study = optuna.create_study()
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "x": optuna.distributions.CategoricalDistribution([0, 1])
    }
    outcomes = [(0, outcome(FAILED, None)), (1, outcome(FINISHED, [2.0])), (1, None)]
    outcomes += [(0, outcome(FINISHED, [3.0]))]
    for value, noted in outcomes:
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL,
                params={"x": value},
                distributions=distributions,
                user_attrs={OUTCOME: noted} if noted else {},
            )
        )
    counted = finished_trials(study.trials, study.user_attrs)
    assert [(finished.number, finished.params, finished.value) for finished in counted] == [
        (1, {"x": 1}, 2.0),
        (3, {"x": 0}, 3.0),
    ]


def test_a_password_that_an_earlier_version_noted_is_not_shown() -> None:
    outcome: dict[str, Any] = {
        "state": FAILED,
        "values": None,
        "metrics": {},
        "seconds": 1.0,
        "run_id": "",
    }
    outcome["error"] = "OSError: no postgresql://me:SECRET@host/db"
    noted = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, user_attrs={OUTCOME: outcome}
    )
    (shown,) = finished_trials([noted], {})
    assert shown.error == "OSError: no postgresql://me:***@host/db"
