"""The objective: what it says of a config, and what becomes of an attempt's leftovers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image
from support import Run, composed

from cifar_hpo import objective as module
from cifar_hpo.config.app import Config
from cifar_hpo.data.dataset import PREPARED
from cifar_hpo.errors import ConfigError, TrialError
from cifar_hpo.objective import Objective, checkpoints_cleared
from cifar_hpo.paths import CHECKPOINT
from cifar_hpo.processor import fused_below
from cifar_hpo.study.space import Space
from cifar_hpo.sweep.identity import unvaried_config
from cifar_hpo.task import as_task
from cifar_hpo.tracking.reader import RunReader
from cifar_hpo.trial import Pruned

WIDE = fused_below()

objective = Objective()


def checked(*overrides: str) -> Config:
    return objective.validate(composed(*overrides))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)


@pytest.mark.usefixtures("store")
def test_labels_of_two_kinds_in_one_sweep_are_told_of(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 9, 1), np.uint8)
    several = np.tile(np.array([[1, 1], [0, 1]], np.uint8), (20, 1))
    kinds: dict[str, NDArray[Any]] = {"numbers": np.linspace(0, 1, 40), "several": several}
    task, configs = Objective(), []
    for name, labels in kinds.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
        small = ["model.kernel_size=3", "model.depth=2", "training.batch_size=8"]
        configs.append(checked("data=npz", f"data.path={path}", *small))
    task.prepare(configs[0])
    assert task.warnings(configs[0]) == []
    task.prepare(configs[1])
    (warning,) = task.warnings(configs[1])
    assert warning == (
        "data: some labels are numbers (numbers), others sets of classes (several); their losses "
        "can't be compared"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["training.replicas=3"], []),
        (
            ["training.replicas=3", "model.filters=16"],
            [
                (
                    f"training.replicas: with {WIDE} neurons or more in the first layer they train "
                    "one after the other"
                )
            ],
        ),
        (
            ["training.replicas=3", "training.early_stopping=2"],
            ["training.replicas: with training.early_stopping they train one after the other"],
        ),
        (
            ["training.replicas=3", "optimizer=muon"],
            ["training.replicas: with optimizer=muon they train one after the other"],
        ),
        (
            ["training.replicas=3", "data.folds=3"],
            [
                "training.replicas: with data.folds they train one after the other",
                "data.folds: a replica is validated on one part of 3; data.validation is not used",
            ],
        ),
        (
            ["training.replicas=2", "data.folds=3"],
            [
                "training.replicas: with data.folds they train one after the other",
                "data.folds: a replica is validated on one part of 3; data.validation is not used",
                (
                    "data.folds: 2 replicas are validated on 2 parts of 3; training.replicas=3 "
                    "takes all"
                ),
            ],
        ),
        (
            ["training.replicas=4", "data.folds=3"],
            [
                "training.replicas: with data.folds they train one after the other",
                "data.folds: a replica is validated on one part of 3; data.validation is not used",
                (
                    "data.folds: 4 replicas are more than its 3 parts, so some share one; "
                    "training.replicas=3 takes each once"
                ),
            ],
        ),
        (["model.filters=16"], []),
    ],
)
def test_replicas_that_train_one_after_the_other_are_told_of(
    overrides: list[str], said: list[str]
) -> None:
    assert objective.warnings(checked(*overrides)) == said


@pytest.mark.parametrize(
    ("can", "is_fast", "said"),
    [(True, True, ""), (True, False, "slower than float32"), (False, False, "it is float32")],
)
def test_bfloat16_is_told_of_where_it_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, can: bool, is_fast: bool, said: str
) -> None:
    monkeypatch.setattr("cifar_hpo.gpus.tensorflow_has_gpu", lambda: False)
    monkeypatch.setattr("cifar_hpo.processor.can_compute_in_bfloat16", lambda: can)
    monkeypatch.setattr("cifar_hpo.processor.is_fast_in_bfloat16", lambda: is_fast)
    warnings = objective.warnings(checked("training.precision=mixed_bfloat16"))
    assert len(warnings) == bool(said)
    for warning in warnings:
        assert warning.startswith("training.precision: ")
        assert said in warning


def test_what_holds_of_processors_is_not_said_where_trials_have_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cifar_hpo.processor.is_fast_in_bfloat16", lambda: False)
    for has_gpu in (False, True):
        monkeypatch.setattr("cifar_hpo.gpus.tensorflow_has_gpu", lambda has_gpu=has_gpu: has_gpu)
        for precision in ("mixed_bfloat16", "mixed_float16"):
            warnings = objective.warnings(checked(f"training.precision={precision}"))
            assert [text.endswith("slower than float32") for text in warnings] == (
                [] if has_gpu else [True]
            )


def test_a_wrong_value_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^training\.epochs: "):
        objective.validate(composed("training.epochs=0"))


def test_preparing_gives_the_dataset_s_identity(own_folder: None, npz: Path) -> None:
    data = ["data=npz", f"data.path={npz}"]
    name, digest = objective.prepare(checked(*data)).split(":")
    assert name == "small"
    assert len(digest) == 16
    with pytest.raises(ConfigError, match=r"training\.batch_size: 541 is more than the 540"):
        objective.prepare(checked(*data, "training.batch_size=541"))


def test_what_is_known_before_training_has_the_name_that_constraints_use(
    own_folder: None, npz: Path
) -> None:
    config = checked("data=npz", f"data.path={npz}")
    measured = objective.measure(config)
    assert measured["parameters"] == config.model.parameters(10)
    assert measured["operations"] == measured["multiply_adds"] == config.model.multiply_adds()


def test_the_dataset_is_not_opened_again_for_every_constraint(
    own_folder: None, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked("data=npz", f"data.path={npz}")
    first = objective.measure(config)
    for file in Path("mlruns/data").glob("*/*"):
        file.unlink()
    assert objective.measure(config) == first


def cost_of(*overrides: str) -> float:
    cost = objective.cost(checked(*overrides))
    assert cost is not None
    return cost


def test_cost_grows_with_all_that_is_trained() -> None:
    base = cost_of()
    assert cost_of("training.epochs=20") == pytest.approx(2 * base)
    assert cost_of("training.replicas=3") == pytest.approx(3 * base)
    assert cost_of("data.train_size=25000") == pytest.approx(base / 2)
    assert cost_of("model.filters=16") > base


def write_grey(folder: Path, labels: NDArray[Any]) -> list[str]:
    """Overrides that take 40 images of 16×24 pixels with such labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 24), np.uint8)
    path = folder / f"{labels.dtype}.npz"
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[:10], y_test=labels[:10])
    return ["data=npz", f"data.path={path}", "training.batch_size=10", "model.kernel_size=3"]


def test_cost_is_of_the_images_that_are_there(own_folder: None, tmp_path: Path) -> None:
    data = write_grey(tmp_path, np.arange(40) % 4)
    before = cost_of(*data)
    objective.prepare(checked(*data))
    after = cost_of(*data)
    assert 0 < after < before / 1000
    assert cost_of(*data, "data.train_size=20") == pytest.approx(after / 2)


def test_where_numbers_are_predicted_the_loss_is_what_trials_are_compared_by(
    own_folder: None, tmp_path: Path
) -> None:
    classes = checked(*write_grey(tmp_path, np.arange(40) % 4))
    assert objective.default_metric(classes) == "val_accuracy"
    numbers = checked(*write_grey(tmp_path, np.arange(40) / 8))
    assert objective.lacks(numbers, "val_accuracy") == ""  # nobody has looked at its labels
    assert objective.default_metric(numbers) == "val_loss"
    assert objective.lacks(numbers, "val_accuracy") == "its labels are numbers; take val_loss"
    assert objective.lacks(numbers, "val_loss") == ""
    assert objective.lacks(classes, "val_accuracy") == ""


def test_cifar10_is_not_looked_at_for_what_trials_are_compared_by(own_folder: None) -> None:
    assert objective.default_metric(checked()) == "val_accuracy"
    assert not Path("mlruns").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folds=5"], r"set training\.replicas=5, or data\.split_seed"),
        (
            ["data.folds=5", "training.replicas=5", "data.validation=test"],
            "with data.validation=test nothing is divided",
        ),
        (["data.folds=1", "training.replicas=5"], "1 is out of range: must be ≥ 2"),
    ],
)
def test_folds_that_mean_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.folds: .*{message}"):
        checked(*overrides)


def test_the_objective_has_every_hook_of_a_task() -> None:
    task = as_task(module.objective)
    config = task.validate(composed())
    assert isinstance(config, Config)
    assert task.cost(config) == objective.cost(config)
    assert task.warnings(config) == []
    assert task.metrics == Objective.metrics
    assert task.imports == Objective.imports
    assert task.defaults_before == Objective.defaults_before


def test_a_study_of_before_has_the_meaning_that_it_had() -> None:
    before = unvaried_config(
        composed("+training.more=1", "training.tensorboard=true"),
        Space({}),
        Objective.defaults_before,
        Objective.unmeant_keys,
    )["training"]
    assert before.keys() == {
        "epochs",
        "batch_size",
        "precision",
        "replicas",
        "seed",
        "schedule",
        "label_smoothing",
        "weight_averaging",
        "early_stopping",
        "threads",
        "more",
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / CHECKPOINT.format(replica=0)
    file.touch()
    return file


def test_checkpoints_of_a_finished_trial_are_removed(checkpoint: Path) -> None:
    with checkpoints_cleared(checkpoint.parent, is_kept=False):
        assert checkpoint.exists()
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("error", "is_kept"), [(Pruned, False), (TrialError, False), (KeyboardInterrupt, True)]
)
def test_checkpoints_are_kept_by_what_was_interrupted_alone(
    checkpoint: Path, error: type[BaseException], is_kept: bool
) -> None:
    with pytest.raises(error), checkpoints_cleared(checkpoint.parent, is_kept=False):
        raise error
    assert checkpoint.exists() == is_kept


@pytest.mark.long
def test_many_classes_of_any_names_train_and_are_logged(
    store: None, run: Run, tmp_path: Path
) -> None:
    """Of 257 classes labels take two bytes; MLflow takes few of these names as they are."""
    odd = ["a[0]", "a(0)", "a, b", "100 %", " x ", 'it\'s "it"', "犬", "🐈‍⬛", "$x_$", "y" * 80]
    names = sorted([*odd, *(f"class {number}" for number in range(257 - len(odd)))])
    for split in ("train", "test"):
        for number, name in enumerate(names):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (number % 256, number // 256 * 255, 7)).save(
                folder / "0.png"
            )
    small = ["model.filters=2", "model.dense_units=4", "model.kernel_size=3", "training.epochs=1"]
    ended = run("data=folder", "data.path=images", "training.batch_size=100", *small)
    assert ended.returncode == 0, ended.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (logged,) = client.search_runs([client.get_experiment_by_name("cifar_hpo").experiment_id])
    assert logged.info.status == "FINISHED"
    metrics = [name for name in logged.data.metrics if name.startswith("test_accuracy/")]
    assert len(metrics) == 257
    matrix, classes = RunReader(f"sqlite:///{tmp_path}/mlflow.db").confusion(logged.info.run_id)
    assert (matrix.shape, matrix.sum()) == ((257, 257), 257)
    assert classes == names


def test_images_that_are_none_are_one_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((2, 32, 32, 3), np.uint8))
    for arguments in (["data=npz", "data.path=one.npy"], ["-m", "data=npz", "data.path=one.npy"]):
        ended = run(*arguments)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: one.npy: a single array; expected an .npz with x_train")
    assert not (tmp_path / "mlflow.db").exists()
