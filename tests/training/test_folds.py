"""Replicas with folds: each has images of its own, and goes on with them after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support_training import ComposeConfig, all_weights, train, train_again, train_and_die

from cifar_hpo.data.dataset import load_dataset
from cifar_hpo.training.inputs import tensors

FOLDS = ["training.replicas=2", "data.folds=2", "training.epochs=2"]


def test_each_replica_trains_on_what_another_is_validated_on(config: ComposeConfig) -> None:
    data = config(*FOLDS).data
    dataset = load_dataset(data)
    splits = [tensors(dataset, data, replica) for replica in range(2)]
    for (train_images, _), _ in splits:
        assert len(train_images) == len(dataset.train[0]) // 2
    (first, _), (validation, _) = splits[0]
    (other, _), (other_validation, _) = splits[1]
    assert np.array_equal(first, other_validation)
    assert np.array_equal(other, validation)


def test_replicas_with_folds_end_in_metrics_of_their_own(config: ComposeConfig) -> None:
    folds = config(*FOLDS)
    assert not folds.is_fused
    replicas, _ = train(folds)
    usual, _ = train(config("training.replicas=1", "training.epochs=2"))
    assert len({replica.metrics["val_loss"] for replica in (*replicas, *usual)}) == 3
    again, _ = train(folds)
    for replica, other in zip(replicas, again, strict=True):
        assert np.array_equal(all_weights(replica), all_weights(other))


def test_a_checkpoint_of_another_split_is_not_gone_on_from(
    config: ComposeConfig, tmp_path: Path
) -> None:
    train_and_die(config("training.epochs=3", "data.split_seed=1"), tmp_path, epoch=1)
    _, restored = train_again(config("training.epochs=3", "data.split_seed=2"), tmp_path)
    assert restored == [False] * 3
