"""Keras' callbacks around a training whose epochs are one graph: early stopping and the user's.

`make_callbacks` makes those of training.callbacks, `Callbacks` calls all of them as `fit` would.
The hooks for batches have no place in a graph, so who needs them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from cifar_hpo import trust
from cifar_hpo.config.app import Training
from cifar_hpo.errors import ConfigError, named_line
from cifar_hpo.training import _keras
from cifar_hpo.trust import Call

BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)
"""Those that Keras' `fit` calls for each batch."""

INSTEAD: dict[type, str] = {
    keras.callbacks.TensorBoard: "set training.tensorboard=true",
    keras.callbacks.TerminateOnNaN: "a trial whose loss is not finite ends as it is",
    keras.callbacks.BackupAndRestore: "trials that are interrupted go on as it is",
}
"""What to do without a callback of Keras' own that needs batches."""

RATE_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)

Logs = dict[str, float]
"""The metrics of an epoch, as Keras hands them to callbacks."""


def make_callbacks(config: Training) -> list[keras.callbacks.Callback]:
    """One for each of training.callbacks, in their order.

    Raises ConfigError for what is not allowed, can't be made, is no callback of Keras', has hooks
    for batches, or sets the learning rate where a schedule does.
    """
    callbacks = []
    for place, wanted in enumerate(config.callbacks):
        path = f"training.callbacks[{place}]"
        callback = _made(path, wanted)
        _refuse_batch_hooks(path, wanted, callback)
        if isinstance(callback, RATE_SETTERS) and config.schedule != "constant":
            raise ConfigError(path, f"{wanted.target} {_sets_rate(config)}")
        callbacks.append(callback)
    return callbacks


def _made(path: str, wanted: Call) -> keras.callbacks.Callback:
    try:
        callback = trust.call(path, wanted)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(path, f"{wanted.target} raised {named_line(error)}") from error
    if not isinstance(callback, keras.callbacks.Callback):
        problem = f"{wanted.target} gives a {type(callback).__name__}, no keras.callbacks.Callback"
        raise ConfigError(path, problem)
    return callback


def _refuse_batch_hooks(path: str, wanted: Call, callback: keras.callbacks.Callback) -> None:
    for hook in BATCH_HOOKS:
        if _has_hook(callback, hook) and not _keras.saves_by_epoch(callback):
            problem = f"{wanted.target} has {hook}, which is never called: an epoch is one graph"
            hints = [hint for kind, hint in INSTEAD.items() if isinstance(callback, kind)]
            raise ConfigError(path, "; ".join([problem, *hints]))


def _has_hook(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether a callback has a hook of its own, of its class or, as LambdaCallback, of itself."""
    is_inherited = getattr(type(callback), hook) is getattr(keras.callbacks.Callback, hook)
    return hook in vars(callback) or not is_inherited


def _sets_rate(config: Training) -> str:
    schedule = f"training.schedule={config.schedule} sets in each step"
    return f"sets the learning rate, which {schedule}; set training.schedule=constant"


class Callbacks:
    """What is called around the epochs of a model, and who may change the model there.

    stopping: early stopping, None where it is off; it comes first, so that at the end the others
    see the weights that it kept. users: of training.callbacks.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Training,
        stopping: keras.callbacks.EarlyStopping | None,
        users: Sequence[keras.callbacks.Callback],
        steps: int,
    ) -> None:
        """steps: of an epoch."""
        self.model = model
        self.config = config
        self.users = users
        callbacks = [stopping, *users] if stopping else list(users)
        params = {"verbose": 0, "epochs": config.epochs, "steps": steps}
        self.all = keras.callbacks.CallbackList(callbacks, model=model, **params)
        self.logs: Logs = {}

    def train_begins(self) -> None:
        self._call("on_train_begin")

    def epoch_begins(self, epoch: int) -> None:
        """epoch: counted from 0, as below."""
        self._call("on_epoch_begin", epoch)

    def test_begins(self) -> None:
        """Before the validation images are scored."""
        self._call("on_test_begin")

    def test_ends(self, scores: Mapping[str, float]) -> None:
        self._call("on_test_end", dict(scores))

    def epoch_ends(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Each callback sees what those before it have put into the logs, and nobody else does."""
        self.logs = dict(metrics)
        rate = _learning_rate(self.model)
        if rate is not None:
            self.logs |= {"learning_rate": float(rate)}
        self._call("on_epoch_end", epoch, self.logs)

    def train_ends(self) -> None:
        self._call("on_train_end", self.logs)

    def _call(self, hook: str, *arguments: Any) -> None:
        """Call a hook. Raises what a callback raises, ConfigError for a change without effect."""
        if not self.users:
            getattr(self.all, hook)(*arguments)
            return
        before = _learning_rate(self.model)
        rate = None if before is None else float(before)
        getattr(self.all, hook)(*arguments)
        after = _learning_rate(self.model)
        if after is not before:
            problem = (
                "one has compiled the model anew or given it another optimizer or schedule, which "
                "its graph does not see; assign model.optimizer.learning_rate alone"
            )
            raise ConfigError("training.callbacks", problem)
        if self.config.schedule != "constant" and after is not None and float(after) != rate:
            raise ConfigError("training.callbacks", f"one {_sets_rate(self.config)}")


def _learning_rate(model: keras.Model) -> keras.Variable | None:
    """The variable of a model's learning rate; None where a schedule sets it, or nothing."""
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return rate if isinstance(rate, keras.Variable) else None
