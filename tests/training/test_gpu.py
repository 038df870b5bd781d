"""On a real GPU: what it trains, that it repeats itself bit for bit, and that two share it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import optuna
import pytest
import tensorflow as tf
from support import Run
from support_training import (
    ComposeConfig,
    all_weights,
    train,
    train_again,
    train_and_die,
    train_first,
)

from cifar_hpo import gpus
from cifar_hpo.config.app import PRECISIONS
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.training import devices

os.environ.update(gpus.AS_NEEDED)  # the sweep of the last test shares it with this process

pytestmark = pytest.mark.skipif(
    not gpus.visible_gpus() or not devices.has_gpu(),
    reason="there is no GPU here, or TensorFlow has no libraries for it",
)

OPTIONS = {
    "plain": [],
    "dropout, augmented, normalised": [
        "model.dropout=0.3",
        "data.augment=[flip,shift,cutout]",
        "model.batch_norm=true",
    ],
    "fused": ["training.replicas=2", "model.dropout=0.3"],
    "float16": ["training.precision=mixed_float16", "training.weight_averaging=0.9"],
    "bfloat16": ["training.precision=mixed_bfloat16", "training.schedule=one_cycle"],
    "muon": ["optimizer=muon"],
}


def test_a_network_lies_in_its_memory(config: ComposeConfig) -> None:
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    train_first(config("model.filters=5"))
    assert tf.config.experimental.get_memory_info("GPU:0")["current"] > before
    assert devices.gpu_name()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_in_every_precision(config: ComposeConfig, precision: str) -> None:
    (trained,), epochs = train(
        config(
            f"training.precision={precision}",
            "training.epochs=6",
            "optimizer.learning_rate=0.003",
        )
    )
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"] < 3
    assert trained.metrics["test_accuracy"] > 0.2


@pytest.mark.parametrize("case", OPTIONS)
def test_a_training_that_died_goes_on_and_ends_bit_for_bit_as_if_it_had_not(
    config: ComposeConfig, case: str, tmp_path: Path
) -> None:
    checked = config("training.epochs=6", *OPTIONS[case])
    wanted = train_first(checked)
    train_and_die(checked, tmp_path, epoch=3)
    again, restored_epochs = train_again(checked, tmp_path)
    assert np.array_equal(all_weights(again), all_weights(wanted))
    assert restored_epochs.count(True) == 4


def test_two_trials_at_a_time_share_it(run: Run, small: list[str], tmp_path: Path) -> None:
    ended = run(
        "-m",
        *small,
        "model.filters=4,8,16,32",
        "hydra.launcher.gpus=1",
        "hydra.launcher.per_gpu=2",
        "hydra.sweeper.study_name=s",
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 workers on 1 GPU" in ended.stdout
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/mlruns/studies.db")
    assert {trial.user_attrs[OUTCOME]["worker"] for trial in study.trials} == {0, 1}
