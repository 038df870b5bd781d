"""A space's dimensions as Optuna has them in one study: `Distributions` of the kinds that the study
began with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna import Study, Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cifar_hpo.errors import StudyError
from cifar_hpo.study.space import Choices, Interval, Space, Value
from cifar_hpo.study.storage import extend_choices


class Distributions:
    """Optuna takes no other kind of distribution for a parameter, and no other choices, than those
    of a study's first trial.

    A study of a name whose grid grew keeps the kind; its storage is told of new choices, which come
    after those of earlier trials.

    Raises StudyError for choices that a study which began with whole numbers can't hold.
    """

    def __init__(self, space: Space, study: Study, storage: Any) -> None:
        self.space = space
        before = {
            key: one
            for trial in study.get_trials(deepcopy=False)
            for key, one in trial.distributions.items()
        }
        self._all: dict[str, BaseDistribution] = {}
        for key, part in space.dimensions.items():
            known = before.get(key)
            if isinstance(part, Interval):
                self._all[key] = _numbers(part)
            elif isinstance(known, IntDistribution) if known else part.step:
                self._all[key] = _range(key, part, study.study_name)
            else:
                earlier = known.choices if isinstance(known, CategoricalDistribution) else ()
                choices = [*earlier, *(value for value in part.texts if value not in earlier)]
                if earlier and len(choices) > len(earlier):
                    extend_choices(storage, study.study_name, key, choices)
                self._all[key] = CategoricalDistribution(choices)

    def of(self, keys: Iterable[str]) -> dict[str, BaseDistribution]:
        """Those of some parameters."""
        return {key: self._all[key] for key in keys}

    def suggested(self, trial: Trial) -> dict[str, Value]:
        """What the sampler proposes: a value for each parameter that exists for those before it."""
        params: dict[str, Value] = {}
        for key in self.space.order:
            if self.space.is_active(key, params):
                params[key] = _suggest(trial, key, self._all[key])
        return params


def _numbers(part: Interval) -> BaseDistribution:
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)


def _range(key: str, part: Choices, study: str) -> IntDistribution:
    """Whole numbers from the least to the largest; choices of them, too, where the study began with
    a range."""
    numbers = [
        value for value in part.texts if isinstance(value, int) and not isinstance(value, bool)
    ]
    if len(numbers) < len(part.texts):
        raise StudyError(
            f"study {study} has {key} as whole numbers; choose another hydra.sweeper.study_name, "
            "or hydra.sweeper.fresh=true"
        )
    return IntDistribution(min(numbers), max(numbers), step=part.step or 1)


def _suggest(trial: Trial, key: str, form: Any) -> Any:
    if isinstance(form, CategoricalDistribution):
        return trial.suggest_categorical(key, form.choices)
    if isinstance(form, FloatDistribution):
        return trial.suggest_float(key, form.low, form.high, log=form.log)
    return trial.suggest_int(key, form.low, form.high, log=form.log, step=form.step)
