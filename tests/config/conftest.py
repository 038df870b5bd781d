"""Composing the configs that ship with the package."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.plugins import Plugins

from cifar_hpo.paths import CONF


@pytest.fixture(scope="module")
def composing() -> Any:
    Plugins.instance()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
