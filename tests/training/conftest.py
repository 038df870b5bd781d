"""A folder of its own for each test of training, and configs of small trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from support_training import ComposeConfig

from cifar_hpo.config.app import Config
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.dataset import PREPARED
from cifar_hpo.paths import CONF


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own folder is the current one, and holds no images yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PREPARED, raising=False)


@pytest.fixture
def config(small: list[str]) -> ComposeConfig:
    """`config(*overrides)` of a small training."""

    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return validate_config(compose("config", [*small, "model.filters=4", *overrides]))

    return composed
