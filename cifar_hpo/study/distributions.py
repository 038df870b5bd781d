"""A space's dimensions as Optuna has them in one study: `Distributions` of the kinds that the study
began with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from cifar_hpo.errors import StudyError
from cifar_hpo.study.space import Choices, Interval, Space, Value


class Distributions:
    """Optuna takes no other kind of distribution for a parameter, and no other choices, than those
    of a study's first trial.

    A study of a name whose grid grew keeps the kind. New choices come after those of its earlier
    trials, so that these keep their places; they are in `extended`, by key, until the study's
    trials have them too.

    Raises StudyError for choices that a study which began with whole numbers can't hold.
    """

    def __init__(self, space: Space, study: str, trials: Sequence[FrozenTrial]) -> None:
        self.space = space
        self.extended: dict[str, BaseDistribution] = {}
        self._by_key: dict[str, BaseDistribution] = {}
        earlier: dict[str, BaseDistribution] = {}
        for trial in trials:
            earlier.update(trial.distributions)
        for key, part in space.dimensions.items():
            before = earlier.get(key)
            if isinstance(part, Interval):
                self._by_key[key] = _from_interval(part)
            elif isinstance(before, IntDistribution) or (before is None and part.step):
                self._by_key[key] = _from_whole_numbers(key, part, study)
            else:
                distribution = _from_choices(part, before)
                self._by_key[key] = distribution
                if before is not None and distribution != before:
                    self.extended[key] = distribution

    def select(self, keys: Iterable[str]) -> dict[str, BaseDistribution]:
        """The distributions of some parameters, by key."""
        return {key: self._by_key[key] for key in keys}

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """What the sampler proposes: a value for each parameter that exists for those before it."""
        params: dict[str, Value] = {}
        for key in self.space.order:
            if self.space.is_active(key, params):
                params[key] = _suggest(trial, key, self._by_key[key])
        return params


def _from_interval(part: Interval) -> BaseDistribution:
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)


def _from_whole_numbers(key: str, part: Choices, study: str) -> IntDistribution:
    """Whole numbers from the least to the largest; choices of them, too, where the study began with
    a range."""
    numbers = []
    for value in part.texts:
        if isinstance(value, bool) or not isinstance(value, int):
            raise StudyError(
                f"study {study} has {key} as whole numbers; choose another "
                "hydra.sweeper.study_name, or hydra.sweeper.fresh=true"
            )
        numbers.append(value)
    return IntDistribution(min(numbers), max(numbers), step=part.step or 1)


def _from_choices(part: Choices, before: BaseDistribution | None) -> CategoricalDistribution:
    """The earlier choices and behind them the new ones."""
    choices = list(before.choices) if isinstance(before, CategoricalDistribution) else []
    for value in part.texts:
        if value not in choices:
            choices.append(value)
    return CategoricalDistribution(choices)


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        choice = trial.suggest_categorical(key, distribution.choices)
        assert choice is not None  # the choices are a space's values
        return choice
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_float(key, low, high, log=distribution.log)
    assert isinstance(distribution, IntDistribution)
    whole = distribution
    return trial.suggest_int(key, whole.low, whole.high, log=whole.log, step=whole.step)
