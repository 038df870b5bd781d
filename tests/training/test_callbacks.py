"""Keras callbacks of the user's: called around epochs, and refused where they could not work."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf
from support import Run, composed
from support_training import (
    ComposeConfig,
    all_weights,
    train,
    train_again,
    train_and_die,
    train_first,
)

from cifar_hpo import trust
from cifar_hpo.config.validation import validate_config
from cifar_hpo.errors import ConfigError
from cifar_hpo.objective import Objective
from cifar_hpo.paths import ARTIFACT_TRACEBACK
from cifar_hpo.training.callbacks import make_callbacks

MODULE = """
import keras
from keras.callbacks import Callback, LambdaCallback

CALLS = []

class Note(Callback):
    def __init__(self, more=None):
        super().__init__()
        self.more = more

    def on_train_begin(self, logs=None):
        CALLS.append(("train begins", self.params["epochs"]))

    def on_epoch_begin(self, epoch, logs=None):
        CALLS.append(("epoch begins", epoch))

    def on_test_begin(self, logs=None):
        CALLS.append(("test begins", None))

    def on_test_end(self, logs=None):
        CALLS.append(("test ends", dict(logs)))

    def on_epoch_end(self, epoch, logs=None):
        assert isinstance(self.model, keras.Model)
        CALLS.append(("epoch ends", dict(logs)))
        logs["noted"] = 1

    def on_train_end(self, logs=None):
        CALLS.append(("train ends", dict(logs)))

class StopAfter(Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 >= self.epochs

class StopAtOnce(Callback):
    def on_train_begin(self, logs=None):
        self.model.stop_training = True

class SetRate(Callback):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.rate

class SetSchedule(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
        self.model.optimizer.learning_rate = rate

class Recompile(Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.compile("sgd", "sparse_categorical_crossentropy")

class Unravel(Callback):
    def on_train_end(self, logs=None):
        self.model.set_weights([0 * weight for weight in self.model.get_weights()])
        self.model.trainable = False

class FailIfLarge(Callback):
    def __init__(self, parameters):
        super().__init__()
        self.parameters = parameters

    def on_epoch_end(self, epoch, logs=None):
        if self.model.count_params() > self.parameters:
            raise ValueError("no paper left")

class EveryBatch(Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass

class EveryBatchAsBefore(Callback):
    def on_batch_begin(self, batch, logs=None):
        pass

class EveryPrediction(Callback):
    def on_predict_batch_end(self, batch, logs=None):
        raise AssertionError("nothing is predicted while one trains")

def of_batches():
    return LambdaCallback(on_train_batch_end=print)

def of_epochs():
    return LambdaCallback(on_epoch_end=lambda epoch, logs: CALLS.append(("lambda", epoch)))

def number():
    return 3

def out_of_luck():
    raise RuntimeError("no luck")
"""


KERAS_AND_NUMPY = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")
"""Keras reads variables in a way that NumPy from 2.4 warns of."""


@pytest.fixture(autouse=True)
def allowed(own_folder: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current folder has callbacks of the user's and allows them, and those of Keras."""
    Path("my_callbacks.py").write_text(MODULE)
    Path("pyproject.toml").write_text(
        '[tool.cifar_hpo]\nallow = ["my_callbacks", "own_models", "keras.callbacks"]\n'
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    trust.allowed_prefixes.cache_clear()
    yield
    trust.allowed_prefixes.cache_clear()


def calls() -> list[tuple[str, Any]]:
    """What was called so far, in its order."""
    return list(importlib.import_module("my_callbacks").CALLS)


def callbacks(*nodes: dict[str, Any]) -> str:
    """An override with these callbacks; those of the user's by their name alone."""
    spelled = []
    for node in nodes:
        target = node["_target_"]
        full = target if "." in target else f"my_callbacks.{target}"
        values = node | {"_target_": full}
        pairs = [f"{name}: {value!r}" for name, value in values.items()]
        spelled.append(f"{{{', '.join(pairs)}}}")
    return f"training.callbacks=[{', '.join(spelled)}]"


NOTE = {"_target_": "Note"}
STOP_AFTER_TWO = {"_target_": "StopAfter", "epochs": 2}


def test_callbacks_are_called_around_epochs_with_the_metrics_of_each(config: ComposeConfig) -> None:
    stop = {"_target_": "StopAfter", "epochs": 9}
    trained, epochs = train(config(callbacks(NOTE, stop, NOTE, {"_target_": "of_epochs"})))
    rate = {"learning_rate": pytest.approx(0.001)}
    first, second = (metrics[0] for metrics in epochs)
    scores = [
        {name: metrics[name] for name in ("val_loss", "val_accuracy")}
        for metrics in (first, second)
    ]
    assert calls() == [
        *[("train begins", 2)] * 2,
        *[("epoch begins", 0)] * 2,
        *[("test begins", None)] * 2,
        *[("test ends", scores[0])] * 2,
        ("epoch ends", first | rate),
        ("epoch ends", first | rate | {"noted": 1}),
        ("lambda", 0),
        *[("epoch begins", 1)] * 2,
        *[("test begins", None)] * 2,
        *[("test ends", scores[1])] * 2,
        ("epoch ends", second | rate),
        ("epoch ends", second | rate | {"noted": 1}),
        ("lambda", 1),
        *[("train ends", second | rate)] * 2,
    ]
    assert "noted" not in trained[0].metrics


@pytest.mark.parametrize(
    "options",
    [
        [
            "training.weight_averaging=0.5",
            "training.early_stopping=2",
            "optimizer=sgd",
            "optimizer.learning_rate=1.5",
        ],
        pytest.param(["training.schedule=cosine"], marks=pytest.mark.long),
    ],
)
def test_a_callback_that_looks_on_changes_nothing(
    config: ComposeConfig, options: list[str]
) -> None:
    options = ["training.epochs=5", *options]
    (alone,), epochs = train(config(*options))
    (seen,), epochs_seen = train(config(*options, callbacks(NOTE)))
    assert np.array_equal(all_weights(alone), all_weights(seen))
    assert epochs_seen == epochs
    for metrics in (alone.metrics, seen.metrics):
        del metrics["train_seconds"]
    assert seen.metrics == alone.metrics


@pytest.mark.parametrize(
    ("node", "trained"),
    [
        pytest.param({"_target_": "StopAtOnce"}, 1, marks=pytest.mark.long),
        ({"_target_": "keras.callbacks.EarlyStopping", "min_delta": 100}, 2),
    ],
)
def test_a_callback_stops_a_training_after_an_epoch(
    config: ComposeConfig, node: dict[str, Any], trained: int
) -> None:
    (replica,), epochs = train(config("training.epochs=6", callbacks(node)))
    assert len(epochs) == trained == replica.metrics["epochs"]
    assert replica.metrics["val_loss"] == epochs[-1][0]["val_loss"]


def test_what_was_stopped_stays_so_for_who_goes_on_from_the_checkpoint(
    config: ComposeConfig, tmp_path: Path
) -> None:
    checked = config("training.epochs=6", callbacks(STOP_AFTER_TWO))
    train_and_die(checked, tmp_path, epoch=1)
    again, restored_epochs = train_again(checked, tmp_path)
    assert restored_epochs == [True, True]
    assert again.metrics["epochs"] == 2


def test_a_training_that_goes_on_begins_its_callbacks_anew_and_ends_bit_for_bit_the_same(
    config: ComposeConfig, tmp_path: Path
) -> None:
    checked = config("training.epochs=4", callbacks(NOTE, {"_target_": "SetRate", "rate": 0.01}))
    wanted = train_first(checked)
    train_and_die(checked, tmp_path, epoch=1)
    before = len(calls())
    again, restored_epochs = train_again(checked, tmp_path)
    assert restored_epochs == [True, True, False, False]
    assert np.array_equal(all_weights(again), all_weights(wanted))
    events = [event for event in calls()[before:] if event[0].endswith("begins")]
    assert [event for event in events if event[0] != "test begins"] == [
        ("train begins", 4),
        ("epoch begins", 2),
        ("epoch begins", 3),
    ]


@KERAS_AND_NUMPY
def test_the_learning_rate_that_a_callback_sets_holds_for_the_epochs_after(
    config: ComposeConfig,
) -> None:
    plateau = {
        "_target_": "keras.callbacks.ReduceLROnPlateau",
        "min_delta": 100,  # nothing is as much better
        "patience": 1,
        "factor": 0.5,
    }
    train(config("training.epochs=4", callbacks(NOTE, plateau)))
    rates = [logs["learning_rate"] for name, logs in calls() if name == "epoch ends"]
    assert rates == pytest.approx([0.001, 0.001, 0.0005, 0.00025])

    tenfold = train_first(config(callbacks({"_target_": "SetRate", "rate": 0.01})))
    given = train_first(config("optimizer.learning_rate=0.01"))
    assert np.array_equal(all_weights(tenfold), all_weights(given))


def test_what_a_callback_makes_of_the_weights_at_the_end_is_what_is_scored(
    config: ComposeConfig,
) -> None:
    plain = train_first(config())
    (unravelled,), epochs = train(config(callbacks({"_target_": "Unravel"})))
    assert not all_weights(unravelled).any()
    assert unravelled.metrics["val_loss"] == pytest.approx(np.log(10), abs=1e-3)
    assert unravelled.metrics["test_loss"] == pytest.approx(np.log(10), abs=1e-3)
    assert unravelled.metrics["val_loss_best"] == min(epoch[0]["val_loss"] for epoch in epochs)
    again = train_first(config())
    assert np.array_equal(all_weights(again), all_weights(plain)), "it has changed its own network"


def test_replicas_with_callbacks_train_one_after_the_other_each_with_its_own(
    config: ComposeConfig,
) -> None:
    checked = config("training.replicas=2", callbacks({"_target_": "StopAfter", "epochs": 1}, NOTE))
    assert not checked.is_fused
    assert checked.reason_not_fused == "training.callbacks"
    trained, _ = train(checked)
    assert [replica.metrics["epochs"] for replica in trained] == [1, 1]
    assert [name for name, _ in calls()].count("train begins") == 2
    alone = train_first(config("training.seed=1", "training.epochs=1"))
    assert np.array_equal(all_weights(trained[1]), all_weights(alone))


@pytest.mark.parametrize("model", ["resnet", "OwnStep"])
def test_models_of_the_user_s_have_them_too_in_one_graph_and_by_fit(
    model: str, small: list[str]
) -> None:
    written = composed(*small, "training.epochs=4", callbacks(NOTE, STOP_AFTER_TWO))
    written.model = OmegaConf.create({"_target_": f"own_models.{model}"})
    (trained,), epochs = train(validate_config(written))
    assert len(epochs) == trained.metrics["epochs"] == 2
    ended = [logs for name, logs in calls() if name == "epoch ends"]
    assert [logs["val_loss"] for logs in ended] == [epoch[0]["val_loss"] for epoch in epochs]
    assert ended[0]["learning_rate"] == pytest.approx(0.001)
    assert trained.metrics["val_accuracy"] == epochs[-1][0]["val_accuracy"]


def test_an_error_of_a_callback_is_the_training_s(config: ComposeConfig) -> None:
    with pytest.raises(ValueError, match="no paper left"):
        train(config(callbacks({"_target_": "FailIfLarge", "parameters": 0})))


GRAPH = "which is never called: an epoch is one graph"
RATE = "which training.schedule=cosine sets in each step; set training.schedule=constant"


@pytest.mark.parametrize(
    ("node", "options", "problem"),
    [
        ({"_target_": "EveryBatch"}, [], f"EveryBatch has on_train_batch_end, {GRAPH}"),
        ({"_target_": "EveryBatchAsBefore"}, [], f"EveryBatchAsBefore has on_batch_begin, {GRAPH}"),
        ({"_target_": "of_batches"}, [], f"of_batches has on_train_batch_end, {GRAPH}"),
        (
            {"_target_": "keras.callbacks.TensorBoard"},
            [],
            f"TensorBoard has on_train_batch_begin, {GRAPH}; set training.tensorboard=true",
        ),
        (
            {"_target_": "keras.callbacks.TerminateOnNaN"},
            [],
            f"has on_batch_end, {GRAPH}; a trial whose loss is not finite ends as it is",
        ),
        (
            {
                "_target_": "keras.callbacks.ModelCheckpoint",
                "filepath": "a.keras",
                "save_freq": 5,
            },
            [],
            f"ModelCheckpoint has on_train_batch_end, {GRAPH}",
        ),
        ({"_target_": "number"}, [], "number gives a int, no keras.callbacks.Callback"),
        ({"_target_": "out_of_luck"}, [], "out_of_luck raised RuntimeError: no luck"),
        ({"_target_": "Note", "every": 2}, [], "unexpected keyword argument 'every'"),
        ({"_target_": "StopAfter"}, [], "missing 1 required positional argument: 'epochs'"),
        (
            {"_target_": "keras.callbacks.ReduceLROnPlateau"},
            ["training.schedule=cosine"],
            f"ReduceLROnPlateau sets the learning rate, {RATE}",
        ),
    ],
)
def test_a_callback_that_could_not_work_is_refused(
    config: ComposeConfig, node: dict[str, Any], options: list[str], problem: str
) -> None:
    checked = config(callbacks(NOTE, node), *options)
    with pytest.raises(ConfigError) as raised:
        make_callbacks(checked.training)
    assert str(raised.value).startswith("training.callbacks[1]: ")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_callback_is_refused_before_a_worker_starts(
    config: ComposeConfig,
) -> None:
    objective = Objective()
    objective.prepare(config(callbacks(NOTE)))
    with pytest.raises(ConfigError, match=r"^training\.callbacks\[0\]: my_callbacks\.EveryBatch"):
        objective.prepare(config(callbacks({"_target_": "EveryBatch"})))


@KERAS_AND_NUMPY
def test_hooks_that_fit_does_not_call_and_checkpoints_by_epoch_are_no_reason_to_refuse(
    config: ComposeConfig,
) -> None:
    keep = {"_target_": "keras.callbacks.ModelCheckpoint", "filepath": "epoch_{epoch}.keras"}
    train(config(callbacks({"_target_": "EveryPrediction"}, keep)))
    assert {path.name for path in Path().glob("*.keras")} == {"epoch_1.keras", "epoch_2.keras"}


@pytest.mark.parametrize(
    ("node", "options", "problem"),
    [
        ({"_target_": "SetRate", "rate": 0.5}, ["training.schedule=cosine"], RATE),
        ({"_target_": "SetSchedule"}, [], "which its graph does not see"),
        ({"_target_": "Recompile"}, [], "which its graph does not see"),
    ],
)
def test_a_change_that_would_do_nothing_ends_the_training(
    config: ComposeConfig, node: dict[str, Any], options: list[str], problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        train(config(callbacks(node), *options))
    assert str(raised.value).startswith("training.callbacks: one ")
    assert problem in str(raised.value)


@pytest.mark.long
def test_a_sweep_calls_them_in_its_workers_and_an_error_fails_its_trial_with_a_traceback(
    config: ComposeConfig, run: Run, small: list[str], store: None, tmp_path: Path
) -> None:
    limit = config("model.filters=2").model.parameters(10)
    nodes = [
        {"_target_": "FailIfLarge", "parameters": limit},
        {"_target_": "StopAfter", "epochs": 1},
    ]
    best = "hydra.sweeper.metric=val_accuracy_best"
    ended = run("-m", *small, "model.filters=2,4", callbacks(*nodes), best)
    assert ended.returncode == 1, ended.stderr
    assert "ValueError: no paper left" in ended.stdout + ended.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.kind = 'trial'")
    (failed,) = [run for run in runs if run.info.status == "FAILED"]
    (finished,) = [run for run in runs if run.info.status == "FINISHED"]
    metrics = finished.data.metrics
    assert metrics["epochs"] == 1
    assert metrics["val_accuracy_best"] == metrics["val_accuracy"]
    assert f"{metrics['val_accuracy_best']:.4f}" in ended.stdout
    path = client.download_artifacts(failed.info.run_id, ARTIFACT_TRACEBACK)
    traceback = Path(path).read_text()
    assert "my_callbacks.py" in traceback
    assert "no paper left" in traceback
