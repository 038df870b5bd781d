"""A training that died goes on from its checkpoint, and from no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import no_space_beyond
from support_training import (
    ComposeConfig,
    all_weights,
    marked_for_processors,
    train,
    train_again,
    train_and_die,
)

from cifar_hpo.paths import CHECKPOINT, CHECKPOINT_DRAFT
from cifar_hpo.training import checkpoint, trainer

OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "dropout, augmented, normalised": [
        "model.dropout=0.3",
        "data.augment=[flip,shift,cutout]",
        "model.batch_norm=true",
    ],
    "stopping early": ["training.early_stopping=2", "optimizer=sgd", "optimizer.learning_rate=1.5"],
    "fused": ["training.replicas=2", "model.dropout=0.3"],
    "averaged, smoothed, whitened": [
        "training.weight_averaging=0.9",
        "training.label_smoothing=0.1",
        "model.whitening=true",
    ],
    "averaged, stopping early": [
        "training.weight_averaging=0.5",
        "training.early_stopping=2",
        "optimizer=sgd",
        "optimizer.learning_rate=1.5",
    ],
    "muon": ["optimizer=muon"],
    "growing images": ["training.initial_scale=0.5", "model.global_pooling=max"],
    "fp16, averaged": [
        "training.precision=mixed_float16",
        "training.weight_averaging=0.9",
        "training.schedule=cosine",
    ],
    "bf16, momentum, one cycle": [
        "training.schedule=one_cycle",
        "training.precision=mixed_bfloat16",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the first replica's checkpoint lies."""
    return tmp_path / CHECKPOINT.format(replica=0)


@pytest.mark.parametrize(
    "changed",
    ["optimizer.learning_rate=0.02", "training.seed=1", "training.epochs=4", "data.train_size=500"],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_from(
    config: ComposeConfig, changed: str, tmp_path: Path, path: Path
) -> None:
    train_and_die(config(), tmp_path, epoch=0)
    assert path.exists()
    _, restored_epochs = train_again(config(changed), tmp_path)
    assert not any(restored_epochs)


CASES = [
    *marked_for_processors(
        [(name, "none") for name in OPTIONS],
        ("fused", "none"),
        ("bf16, momentum, one cycle", "none"),
        rare=(
            ("averaged, stopping early", "none"),
            ("dropout, augmented, normalised", "none"),
            ("fp16, averaged", "none"),
        ),
    ),
    ("plain", "cut short"),
    ("plain", "garbled"),
]


@pytest.mark.parametrize(("case", "damage"), CASES)
def test_a_training_that_died_goes_on_and_ends_bit_for_bit_as_if_it_had_not(
    config: ComposeConfig, case: str, damage: str, tmp_path: Path, path: Path
) -> None:
    checked = config("training.epochs=6", *OPTIONS[case])
    (wanted, *_), epochs = train(checked)
    train_and_die(checked, tmp_path, epoch=3)
    if damage == "cut short":
        cut_short(path)
    if damage == "garbled":
        garble(path)

    again, restored_epochs = train_again(checked, tmp_path)
    assert np.array_equal(all_weights(again), all_weights(wanted))
    assert restored_epochs.count(True) == (4 if damage == "none" else 3)
    assert len(restored_epochs) == len(epochs)
    for name in ("loss", "val_loss", "test_loss", "val_accuracy"):
        assert again.metrics[name] == wanted.metrics[name]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def garble(path: Path) -> None:
    """Overwrite fifty bytes in the middle."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)


def test_a_training_whose_checkpoints_are_both_damaged_begins_anew(
    config: ComposeConfig, tmp_path: Path, path: Path
) -> None:
    train_and_die(config(), tmp_path, epoch=1)
    for file in tmp_path.glob("*.checkpoint*"):
        cut_short(file)
    _, restored_epochs = train_again(config(), tmp_path)
    assert restored_epochs == [False, False]


def test_a_trial_that_has_ended_leaves_no_checkpoint(
    config: ComposeConfig, tmp_path: Path, path: Path
) -> None:
    train_and_die(config("training.early_stopping=1", "training.replicas=2"), tmp_path, epoch=1)
    assert path.exists()
    path.with_name(CHECKPOINT_DRAFT.format(checkpoint=path.name)).touch()  # killed while it wrote
    (tmp_path / "kept.txt").touch()
    checkpoint.clear(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["kept.txt"]


def test_no_room_for_a_checkpoint_costs_no_training_and_leaves_no_draft(
    config: ComposeConfig, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint before stays, and a restart goes on from it."""
    checked = config("training.epochs=5")
    train_and_die(checked, tmp_path, epoch=1)
    with no_space_beyond(path.stat().st_size // 2):
        train_and_die(checked, tmp_path, epoch=3)
    said = [record for record in caplog.records if record.name == trainer.__name__]
    assert [record.getMessage() for record in said] == [
        "no checkpoint could be written: no space left; make room, then the same command goes on"
    ]
    assert not path.with_name(CHECKPOINT_DRAFT.format(checkpoint=path.name)).exists()
    (wanted, *_), _ = train(checked)
    again, restored_epochs = train_again(checked, tmp_path)
    assert restored_epochs == [True, True, False, False, False]
    assert np.array_equal(all_weights(again), all_weights(wanted))
