"""How metrics of replicas are named, averaged and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cifar_hpo.metrics import (
    ReplicaMetrics,
    best_name,
    best_over_epochs,
    class_metrics,
    direction_of,
    is_best,
    is_spread,
    replica_name,
    spread_name,
    stored_names,
    values_by_replica,
    without_best,
    without_spread,
)

FIRST = {"val_accuracy": 0.5, "val_loss": 1.0, "train_seconds": 3.0, "epochs": 2.0}
SECOND = {"val_accuracy": 0.7, "val_loss": 2.0, "train_seconds": 4.0, "epochs": 4.0}


def test_the_stored_names_are_a_format() -> None:
    assert replica_name(3, "val_accuracy") == "replica_3/val_accuracy"
    assert spread_name("val_accuracy") == "val_accuracy_std"
    assert without_spread("val_accuracy_std") == without_spread("val_accuracy") == "val_accuracy"


def test_a_best_value_has_a_name_of_its_own_and_a_spread_like_any_other() -> None:
    assert best_name("val_accuracy") == "val_accuracy_best"
    assert without_best("val_accuracy_best") == without_best("val_accuracy") == "val_accuracy"
    assert is_best("val_loss_best")
    assert not is_spread("val_loss_best")
    spread = spread_name(best_name("val_accuracy"))
    assert is_spread(spread)
    assert not is_best(spread)
    assert without_spread(spread) == "val_accuracy_best"


def test_the_best_of_all_epochs_is_each_validation_metric_s_own() -> None:
    history = [
        {"loss": 3.0, "val_loss": 2.0, "val_accuracy": 0.3, "val_mae": 5.0},
        {"loss": 2.0, "val_loss": 1.0, "val_accuracy": 0.5, "val_mae": 4.0},
        {"loss": 1.0, "val_loss": 1.5, "val_accuracy": 0.6, "val_mae": 4.5},
    ]
    assert best_over_epochs(history) == {
        "val_loss_best": 1.0,
        "val_accuracy_best": 0.6,
        "val_mae_best": 4.0,
    }
    assert best_over_epochs(history[:1])["val_loss_best"] == 2.0


def test_the_best_of_replicas_is_the_mean_of_each_one_s_best() -> None:
    """Not the best of their mean, which has other epochs."""
    histories = [[{"val_loss": 1.0}, {"val_loss": 5.0}], [{"val_loss": 6.0}, {"val_loss": 3.0}]]
    summary = ReplicaMetrics.from_list([best_over_epochs(history) for history in histories])
    assert summary.summary() == pytest.approx(
        {
            "val_loss_best": 2.0,
            "val_loss_best_std": 2.0**0.5,
            "replica_0/val_loss_best": 1.0,
            "replica_1/val_loss_best": 3.0,
        }
    )


def test_a_summary_of_one_replica_has_the_plain_names_alone() -> None:
    assert ReplicaMetrics.from_list([FIRST]).summary() == FIRST


def test_a_summary_of_replicas_has_means_spreads_and_each_one_s_scores() -> None:
    assert ReplicaMetrics.from_list([FIRST, SECOND]).summary() == pytest.approx(
        {
            "val_accuracy": 0.6,
            "val_loss": 1.5,
            "train_seconds": 7.0,
            "epochs": 3.0,
            "val_accuracy_std": 0.02**0.5,
            "val_loss_std": 0.5**0.5,
            "replica_0/val_accuracy": 0.5,
            "replica_0/val_loss": 1.0,
            "replica_1/val_accuracy": 0.7,
            "replica_1/val_loss": 2.0,
        }
    )


def test_an_epoch_of_one_replica_has_the_plain_names_alone() -> None:
    assert ReplicaMetrics({0: {"loss": 1.0}}).epoch(replicas=1) == {"loss": 1.0}


def test_an_epoch_of_replicas_that_train_together_has_their_mean_and_each() -> None:
    metrics = ReplicaMetrics({0: {"loss": 1.0}, 1: {"loss": 3.0}})
    flat = {"loss": 2.0, "replica_0/loss": 1.0, "replica_1/loss": 3.0}
    assert metrics.epoch(replicas=2) == flat


def test_an_epoch_of_one_replica_among_several_has_no_mean() -> None:
    assert ReplicaMetrics({1: {"loss": 3.0}}).epoch(replicas=2) == {"replica_1/loss": 3.0}


def test_a_metric_of_each_replica_is_found_by_number() -> None:
    flat = {"replica_10/loss": 1.0, "replica_2/loss": 2.0, "replica_2/val_loss": 3.0, "loss": 4.0}
    assert stored_names(flat, "loss") == {2: "replica_2/loss", 10: "replica_10/loss"}
    assert list(stored_names(flat, "loss")) == [2, 10]
    assert values_by_replica(flat, "loss") == {2: 2.0, 10: 1.0}
    assert values_by_replica({"loss": 4.0}, "loss") == {}


def test_what_a_summary_stores_is_found_again() -> None:
    flat = ReplicaMetrics.from_list([FIRST, SECOND]).summary()
    assert values_by_replica(flat, "val_accuracy") == {0: 0.5, 1: 0.7}


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_accuracy", "maximize"),
        ("test_accuracy", "maximize"),
        ("loss", "minimize"),
        ("val_loss_std", "minimize"),
        ("val_accuracy_std", "minimize"),
        ("val_accuracy_best", "maximize"),
        ("val_loss_best", "minimize"),
        ("val_accuracy_best_std", "minimize"),
        ("parameters", "minimize"),
        ("train_seconds", "minimize"),
    ],
)
def test_accuracies_are_the_better_the_higher_and_all_else_the_lower(
    name: str, direction: str
) -> None:
    assert direction_of(name) == direction


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_top2", "maximize"),
        ("top2", "maximize"),
        ("test_top2", "maximize"),
        ("val_top2_best", "maximize"),
        ("val_top2_std", "minimize"),
        ("val_top3", "minimize"),
        ("val_accuracy", "minimize"),
    ],
)
def test_a_metric_of_the_model_s_own_goes_its_own_way(name: str, direction: str) -> None:
    assert direction_of(name, {"top2": "maximize", "accuracy": "minimize"}) == direction


def test_the_best_of_a_metric_of_the_model_s_own_is_the_best_in_its_direction() -> None:
    history = [{"val_top2": 0.3, "val_cost": 1.0}, {"val_top2": 0.5, "val_cost": 2.0}]
    own = {"top2": "maximize", "cost": "minimize"}
    assert best_over_epochs(history, own) == {"val_top2_best": 0.5, "val_cost_best": 1.0}


CLASS_NAMES = {
    "cat": "cat",
    "a[0]": "a_0_",
    "a(0)": "a_0__2",
    "a_0__2": "a_0__2_2",
    "a, b": "a_ b",
    "100 %": "100 _",
    " x ": " x ",
    'it\'s "it"': "it_s _it_",
    "a/b": "a_b",
    "../x": ".._x",
    "кошка": "кошка",
    "犬": "犬",
    "🐈": "_",
    "🐕": "__2",
    "..": "__",
    ".": "__3",
    "x" * 300: "x" * 200,
    "x" * 301: "x" * 200 + "_2",
    "-": "-",
    "a:b": "a_b_2",
    "line\nbreak": "line_break",
}
"""Names of classes, and what stands for them in the name of a metric."""


def test_each_class_has_a_metric_of_its_own_that_mlflow_takes(store: None, tmp_path: Path) -> None:
    by_class = {name: place / 100 for place, name in enumerate(CLASS_NAMES)}
    metrics = class_metrics("test_accuracy", by_class)
    assert list(metrics) == [f"test_accuracy/{name}" for name in CLASS_NAMES.values()]
    assert list(metrics.values()) == list(by_class.values())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run("0").info.run_id
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    assert client.get_run(run_id).data.metrics == metrics
