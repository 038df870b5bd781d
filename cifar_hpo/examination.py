"""Models of the user's before they are trained: an `Examination` builds each once, in the parent.

So what is wrong with one is a line before a worker starts. Heavy imports stand inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cifar_hpo import processor
from cifar_hpo.config.app import Config
from cifar_hpo.config.validation import refuse_with_fit
from cifar_hpo.trust import Call

if TYPE_CHECKING:
    from cifar_hpo.training.called import Examined

MAX_EXAMINED = 20
"""Models of a sweep that are built beforehand, seconds each; a wrong one after these fails its
trial."""

TRIED_IMAGES = 4
"""Images that a model is tried on."""


class Examination:
    """The user's models that were examined so far, by their call and their data."""

    def __init__(self) -> None:
        self._examined: dict[str, Examined] = {}

    def check(self, checked: Config) -> None:
        """Raise ConfigError for what is wrong with a user's model, or with how it is trained."""
        is_new = _key(checked) not in self._examined
        if is_new and len(self._examined) >= MAX_EXAMINED:
            return
        if self._of(checked).by_fit:
            refuse_with_fit(checked, f"{checked.model.target} trains in a way of its own")

    def parameters(self, checked: Config) -> int:
        """Weights of a user's model. Raises ConfigError where it can't be built."""
        return self._of(checked).parameters

    def metrics(self, checked: Config) -> Mapping[str, str] | None:
        """What a compiled model brings along, as `Examined.metrics` has it; None of a model that
        was not examined."""
        examined = self._examined.get(_key(checked))
        return None if examined is None else examined.metrics

    def warnings(self, checked: Config) -> list[str]:
        """What a model takes over, and how it trains; nothing of one that was not examined."""
        examined = self._examined.get(_key(checked))
        if examined is None:
            return []
        from cifar_hpo.tracking.reader import why_not_loaded

        target = checked.model.target
        warnings = []
        if examined.is_compiled:
            unused = "optimizer, training.schedule, label_smoothing and weight_averaging"
            warnings.append(
                f"model: {target} comes compiled, which counts in the place of {unused}"
            )
        if examined.by_fit:
            problem = "trains in a way of its own, so Keras' fit trains it, epoch by epoch"
            warnings.append(f"model: {target} {problem}")
        reason = why_not_loaded(examined.layers)
        if reason:
            warnings.append(f"model: what {target} learns can't be loaded again: {reason}")
        return warnings

    def _of(self, checked: Config) -> Examined:
        key = _key(checked)
        if key not in self._examined:
            self._examined[key] = _examine(checked)
        return self._examined[key]


def _key(checked: Config) -> str:
    """Tells models apart; empty for the built-in one."""
    return repr((checked.model, checked.data)) if isinstance(checked.model, Call) else ""


def _examine(checked: Config) -> Examined:
    """Build a model and try it on the first images. Raises ConfigError for what is wrong."""
    # Of threads each trial decides in its own process.
    training = dataclasses.replace(checked.training, threads=None)
    set_up_training(dataclasses.replace(checked, training=training))
    from cifar_hpo.data.dataset import load_dataset
    from cifar_hpo.training import called
    from cifar_hpo.training.signature import Signature

    dataset = load_dataset(checked.data)
    images, labels = dataset.train
    signature = Signature.of(dataset)
    return called.examine(checked, signature, images[:TRIED_IMAGES], labels[:TRIED_IMAGES])


def set_up_training(checked: Config) -> None:
    """Let this process compute as trials do that call code of the user's.

    Raises what `trainer.set_up` raises.
    """
    with processor.quiet_tensorflow():
        from cifar_hpo.training import trainer

    trainer.set_up(checked.training)
    trainer.seed_users_code(checked.training)
