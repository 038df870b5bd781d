"""What a configuration must fulfil to be tried: a `Constraint`, such as `parameters <= 2000000`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.errors import ConfigError

PATH = "hydra.sweeper.constraints"
FORM = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*([\d.eE+_-]+)\s*", re.ASCII)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Constraint:
    """A measure or a key of the config, a sign, and the limit; text is how it was written."""

    name: str
    sign: str
    limit: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Raises ConfigError for what is none."""
        match = FORM.fullmatch(text)
        if not match:
            raise ConfigError(PATH, f"{text!r} is not like 'parameters <= 2000000'")
        name, sign, limit = match.groups()
        try:
            return cls(name, sign, float(limit), text)
        except ValueError:
            raise ConfigError(PATH, f"{text!r}: {limit} is no number") from None

    def problem(self, config: DictConfig, measures: Mapping[str, float]) -> str:
        """Why a configuration does not fulfil it; empty where it does.

        measures: what the task knows of it before it is trained. Raises ConfigError where neither
        they nor the config have a number of this name.
        """
        value = measures.get(self.name)
        if value is None:
            value = _selected(config, self.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            problem = f"{self.text!r}: {self.name} is no number of this configuration"
            raise ConfigError(PATH, problem)
        if COMPARISONS[self.sign](value, self.limit):
            return ""
        return f"{self.name} is {value:g}, against {self.text!r}"


def _selected(config: DictConfig, name: str) -> Any:
    """The config's value of this name; None where there is none, or it can't be resolved."""
    try:
        return OmegaConf.select(config, name)
    except OmegaConfBaseException:
        return None
