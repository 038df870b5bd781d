"""Small data and a folder to work in, for all tests; the command line as a user has it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifar_hpo.data import PREPARED
from cifar_hpo.processor import set_tensorflow_switches

set_tensorflow_switches()  # some tests load TensorFlow before anything of ours does

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell ignores it for what it starts in the background, and all below would inherit that

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes told apart by their brightness and colour, which a CNN learns in a few steps."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    level = np.stack([labels * 25, 255 - labels * 25, (labels % 3) * 100], axis=-1)
    noise = rng.integers(-20, 20, size=(n, 32, 32, 3))
    return np.clip(level[:, None, None, :] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 training and 100 test images."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    (x_train, y_train), (x_test, y_test) = images(600, 0), images(100, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="session")
def small(npz: Path) -> list[str]:
    """Overrides that make a trial take a second."""
    return [
        "data=npz",
        f"data.path={npz}",
        "training.epochs=2",
        "training.batch_size=50",
        "model.kernel_size=3",
        "model.dense_units=16",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, so that no process works alone at the end."""
    items.sort(key=lambda item: item.path.stem not in ("test_resume", "test_sweep"))


def clean() -> dict[str, str]:
    """The environment without what other tests in this process left there: MLflow's store, and
    where images were decoded."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLFLOW_TRACKING_URI", PREPARED)
    }


def run_in(
    folder: Path, *arguments: str, module: str = "cifar_hpo", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m cifar_hpo` in a folder, or another of its commands."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=clean() | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it, which takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(migrated: Path, tmp_path: Path) -> None:
    """Spares a test, in whose folder it lies then, the making of one."""
    shutil.copy(migrated, tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(*arguments)` in the test's own folder."""

    def inside(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_in(tmp_path, *arguments, **environment)

    return inside
