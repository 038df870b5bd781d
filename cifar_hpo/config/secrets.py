"""What a config must not hold: passwords, which would end in logs and runs, and calls."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import OmegaConf

from cifar_hpo.config.fields import flat
from cifar_hpo.errors import ConfigError
from cifar_hpo.redaction import has_secret

TARGET = re.compile(r"_target_['\"]?\s*:")
"""A call inside of a value that is itself a mapping, as text."""


def refuse_secrets_and_calls(config: Any) -> None:
    """Raise ConfigError where a URI spells out a password, or a `_target_` names a function.

    Configs are written to logs, runs and artifacts, where a password would be read. An
    interpolation such as `${oc.env:NAME}` stays as it is in all of these, so it may hold one. A
    `_target_` could call anything; what can be chosen here has a name.

    config: an OmegaConf config, or overrides as a dict from key to text.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=False)
    for path, value in flat(config).items():
        if path.endswith("_target_") or TARGET.search(str(value)):
            problem = "refused: a config does not call functions; choose by the names in --help"
            raise ConfigError(path, problem)
        if has_secret(str(value)):
            hint = "put the URI in an environment variable and write '${oc.env:NAME}'"
            raise ConfigError(path, f"carries a password, which would end in logs and runs; {hint}")
