"""How metrics of replicas are named, averaged and found again."""

from __future__ import annotations

import pytest

from cifar_hpo.metrics import (
    ReplicaMetrics,
    direction_of,
    replica_name,
    spread_name,
    stored_names,
    values_by_replica,
    without_spread,
)

FIRST = {"val_accuracy": 0.5, "val_loss": 1.0, "train_seconds": 3.0, "epochs": 2.0}
SECOND = {"val_accuracy": 0.7, "val_loss": 2.0, "train_seconds": 4.0, "epochs": 4.0}


def test_the_stored_names_are_a_format() -> None:
    assert replica_name(3, "val_accuracy") == "replica_3/val_accuracy"
    assert spread_name("val_accuracy") == "val_accuracy_std"
    assert without_spread("val_accuracy_std") == without_spread("val_accuracy") == "val_accuracy"


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
        ("parameters", "minimize"),
        ("train_seconds", "minimize"),
    ],
)
def test_accuracies_are_the_better_the_higher_and_all_else_the_lower(
    name: str, direction: str
) -> None:
    assert direction_of(name) == direction
