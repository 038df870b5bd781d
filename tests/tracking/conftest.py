"""A store of its own for each test of what is written to MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def uri(store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store's URI; what MLflow leaves in the environment is gone after the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.setenv(name, "")  # so that the test's end restores it
        monkeypatch.delenv(name)
    return f"sqlite:///{tmp_path}/mlflow.db"
