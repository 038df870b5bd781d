"""The ranking of trials as a table."""

from __future__ import annotations

from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.space import Value
from cifar_hpo.study.tables import (
    has_parameter_columns,
    metric_text,
    parameter_columns,
    trial_table,
    value_text,
)
from cifar_hpo.table import Table
from cifar_hpo.trial import FAILED, FINISHED


def trial(number: int, params: dict[str, Value], **metrics: float) -> FinishedTrial:
    values = [metrics["accuracy"]] if metrics else None
    state, error = (FINISHED, "") if metrics else (FAILED, "no luck")
    return FinishedTrial(number, params, state, values, metrics, error, 2.345, "")


def test_a_ranking_has_a_row_for_each_trial() -> None:
    trials = [
        trial(1, {"model.filters": 8}, accuracy=0.5, accuracy_std=0.01, parameters=1234),
        trial(0, {"model.filters": 4}),
    ]
    table = trial_table(trials, ["accuracy"], ["maximize"], ["model.filters"])
    columns = ["rank", "trial", "model.filters", "accuracy", "parameters", "seconds", "state"]
    assert table.columns == columns
    assert table.rows == [
        ["1", "1", "8", "0.5000 ± 0.0100", "1,234", "2.3", "FINISHED"],
        ["2", "0", "4", "–", "–", "2.3", "FAILED no luck"],
    ]


def test_several_metrics_mark_their_pareto_front() -> None:
    best = FinishedTrial(0, {}, FINISHED, [0.5, 9.0], {"y": 0.5, "size": 9.0}, "", 1.0, "")
    worse = FinishedTrial(1, {}, FINISHED, [0.4, 9.0], {"y": 0.4, "size": 9.0}, "", 1.0, "")
    table = trial_table([best, worse], ["y", "size"], ["maximize", "minimize"], [])
    assert [row[-1] for row in table.rows] == ["FINISHED, Pareto front", "FINISHED"]


def test_many_parameters_share_a_column_of_what_differs() -> None:
    keys = [f"model.p{place}" for place in range(7)]
    assert not has_parameter_columns(keys)
    base: dict[str, Value] = dict.fromkeys(keys, 1)
    trials = [trial(0, base, accuracy=1.0), trial(1, base | {"model.p3": 0.25}, accuracy=0.5)]
    assert parameter_columns(trials, keys) == Table(
        ["configuration"], [["p0=1 p1=1 p2=1 p3=1 p4=1 p5=1 p6=1"], ["… p3=0.25"]]
    )
    assert parameter_columns([], keys).rows == []


def test_a_parameter_that_a_trial_does_not_have_is_an_empty_cell() -> None:
    table = parameter_columns([trial(0, {"a": 1}, accuracy=1.0)], ["a", "b"])
    assert table == Table(["a", "b"], [["1", ""]])


def test_figures_are_short() -> None:
    assert value_text(0.00012345) == "0.0001234"
    assert value_text("[4, 8]") == "[4,8]"
    assert metric_text("loss", {"loss": 1.23456}) == "1.2346"
    assert metric_text("loss", {}) == "–"
