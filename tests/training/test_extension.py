"""A finished training that kept its checkpoint is extended, as if it had never ended."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import Run
from support_training import ComposeConfig, Died, all_weights, train_again, train_first

from cifar_hpo.data.dataset import load_dataset
from cifar_hpo.errors import ConfigError
from cifar_hpo.objective import Objective, checkpoints_cleared, objective
from cifar_hpo.paths import CHECKPOINTS, KEPT_CHECKPOINT
from cifar_hpo.training import trainer

OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "dropout, augmented, averaged": [
        "model.dropout=0.3",
        "data.augment=[flip,shift]",
        "training.weight_averaging=0.9",
    ],
    "fused": ["training.replicas=2"],
    "one replica after the other": ["training.replicas=2", "optimizer=muon"],
    "stopping early": ["training.early_stopping=3", "optimizer=nesterov"],
}


def train_to_the_end(config: ComposeConfig, folder: Path, *overrides: str) -> None:
    """A training in its folder, of which its checkpoint is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoints_cleared(folder, is_kept=True):
        train_first(config(*overrides), folder)
    assert not list(folder.glob(CHECKPOINTS))
    assert list(folder.glob(KEPT_CHECKPOINT.format(digest="*")))


@pytest.mark.parametrize("case", OPTIONS)
def test_an_extended_training_ends_bit_for_bit_as_one_that_was_as_long_at_once(
    config: ComposeConfig, case: str, tmp_path: Path
) -> None:
    options = OPTIONS[case]
    train_to_the_end(config, tmp_path / "short" / "0", "training.epochs=2", *options)
    longer = ["training.epochs=5", *options]
    wanted = train_first(config(*longer))
    extended = config(*longer, f"training.extend={tmp_path / 'short'}")
    (tmp_path / "long").mkdir()
    found, restored_epochs = train_again(extended, tmp_path / "long")
    assert restored_epochs[:5] == [True] * 2 + [False] * 3
    assert sum(restored_epochs) == len(restored_epochs) * 2 / 5
    assert np.array_equal(all_weights(found), all_weights(wanted))
    scores = {name: value for name, value in wanted.metrics.items() if name != "train_seconds"}
    assert scores.items() <= found.metrics.items()


def test_the_study_is_told_of_what_another_training_did_and_of_the_last_again(
    config: ComposeConfig, tmp_path: Path
) -> None:
    train_to_the_end(config, tmp_path / "short", "training.epochs=2")
    extended = config("training.epochs=4", f"training.extend={tmp_path / 'short'}")

    def told(last: int) -> list[tuple[bool, bool]]:
        """Of each epoch whether it was restored, and whether the study knows of it; up to one in
        which the process dies."""
        seen = []

        def on_epoch(
            epoch: int, values: object, *, restored: bool, is_told: bool, **_: object
        ) -> None:
            seen.append((restored, is_told))
            if epoch == last:
                raise Died

        with contextlib.suppress(Died):
            trainer.train(extended, load_dataset(extended.data), on_epoch, tmp_path)
        return seen

    assert told(2) == [(True, False), (True, False), (False, False)]
    assert told(4) == [(True, True)] * 2 + [(True, False), (False, False)]


@pytest.mark.parametrize(
    "changed",
    ["training.seed=1", "optimizer.learning_rate=0.02", "training.epochs=1", "data.train_size=500"],
)
def test_another_training_or_a_shorter_one_begins_anew_which_is_said_before(
    config: ComposeConfig, changed: str, tmp_path: Path
) -> None:
    train_to_the_end(config, tmp_path / "short", "training.epochs=2")
    checked = config("training.epochs=3", changed, f"training.extend={tmp_path / 'short'}")
    _, restored_epochs = train_again(checked, tmp_path)
    assert not any(restored_epochs)
    task = Objective()
    task.prepare(checked)
    warnings = [warning for warning in task.warnings(checked) if "training.extend" in warning]
    assert len(warnings) == (changed != "training.epochs=1")


def test_the_longest_that_was_kept_is_extended(config: ComposeConfig, tmp_path: Path) -> None:
    for epochs in (2, 3, 1):
        train_to_the_end(config, tmp_path / "kept" / str(epochs), f"training.epochs={epochs}")
    overrides = ["training.epochs=4", f"training.extend={tmp_path / 'kept'}"]
    _, restored_epochs = train_again(config(*overrides), tmp_path)
    assert restored_epochs == [True] * 3 + [False]


def test_a_checkpoint_that_is_damaged_is_neither_kept_nor_extended(
    config: ComposeConfig, tmp_path: Path
) -> None:
    train_to_the_end(config, tmp_path / "short", "training.epochs=2")
    (kept,) = (tmp_path / "short").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    overrides = ["training.epochs=3", f"training.extend={tmp_path / 'short'}"]
    _, restored_epochs = train_again(config(*overrides), tmp_path / "short")
    assert not any(restored_epochs)
    with checkpoints_cleared(tmp_path / "short", is_kept=True):
        for file in (tmp_path / "short").glob(CHECKPOINTS):
            file.write_bytes(b"no checkpoint")
    assert list((tmp_path / "short").iterdir()) == [kept]


@pytest.mark.parametrize("key", ["keep_checkpoint=true", "extend=here"])
def test_a_schedule_that_leads_to_an_end_can_t_be_extended(config: ComposeConfig, key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config("training.schedule=one_cycle", f"training.{key}")
    assert str(raised.value) == (
        f"training.{key.partition('=')[0]}: with training.schedule=one_cycle the last epoch is the "
        "end of it; constant alone can go on"
    )


def test_what_kept_nothing_can_t_be_extended(
    config: ComposeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, shown in {"short": "short", "''": "it"}.items():
        with pytest.raises(ConfigError) as raised:
            objective.prepare(config(f"training.extend={folder}"))
        assert str(raised.value) == (
            f"training.extend: no trial below {shown} kept its checkpoint; "
            "training.keep_checkpoint=true, given to that study, keeps them"
        )


@pytest.mark.long
def test_a_finished_study_is_extended_by_a_longer_one(
    run: Run, small: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *small, "model.filters=2,4", "training.replicas=2"]

    def ran(name: str, *arguments: str) -> str:
        done = run(*sweep, f"hydra.sweeper.study_name={name}", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ran("short", "training.epochs=2", "training.keep_checkpoint=true")
    again = ran("short", "training.epochs=2")
    assert "2 done before" in again, "what is kept means nothing"
    extended = ran("long", "training.epochs=4", "training.extend=mlruns/outputs/short")
    for number in (0, 1):
        logs = [log.read_text() for log in tmp_path.glob(f"mlruns/outputs/long/{number}/*.log")]
        assert any(
            "goes on behind epoch 2 of what mlruns/outputs/short kept" in log for log in logs
        )
    shutil.rmtree(tmp_path / "mlruns" / "outputs" / "short")
    whole = ran("whole", "training.epochs=4")

    def accuracies(shown: str) -> set[str]:
        """Of the lines of the ranking: configuration and its accuracies."""
        return {" ".join(line.split()[2:5]) for line in shown.splitlines() if "FINISHED" in line}

    assert accuracies(extended) == accuracies(whole)
    assert len(accuracies(whole)) == 2
