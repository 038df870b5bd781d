"""Small data and a folder to work in, for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from filelock import FileLock
from support import Clock, FakeGpus, RealSweep, Run, images, run_in
from support_postgres import PostgresServer, new_database, postgres_server, why_not

from cifar_hpo import gpus
from cifar_hpo.processor import set_tensorflow_switches

if TYPE_CHECKING:
    from support_tracking import Server  # loads MLflow

set_tensorflow_switches()  # some tests load TensorFlow before anything of ours does

# A shell ignores the first for what it starts in the background, nohup the second, and all below
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Where it is set, each of the hundreds of processes that tests start compiles all of ours anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def migrations_read_once() -> Iterator[None]:
    """Optuna reads all its migrations, as modules, for each storage that is opened: 0.1 s."""
    versions = optuna.storages._rdb.storage._VersionManager  # noqa: SLF001  there is no option
    read = versions._create_alembic_script  # noqa: SLF001
    scripts: list[Any] = []

    def read_once(self: Any) -> Any:
        if not scripts:
            scripts.append(read(self))
        return scripts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "_create_alembic_script", read_once)
        yield


def write_small(path: Path) -> None:
    """600 training and 100 test images."""
    (x_train, y_train), (x_test, y_test) = images(600, 0), images(100, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 training and 100 test images."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_small(path)
    return path


@pytest.fixture(scope="session")
def small(npz: Path) -> list[str]:
    """Overrides that make a trial take a second."""
    return with_small(npz)


def with_small(npz: Path) -> list[str]:
    return [
        "data=npz",
        f"data.path={npz}",
        "training.epochs=2",
        "training.batch_size=50",
        "model.kernel_size=3",
        "model.dense_units=16",
    ]


LONGEST = (
    "sweep/test_resume.py",
    "sweep/test_loop.py",
    "test_user_models.py",
    "test_ui.py",
    "workers/test_pool.py",
    "test_clusters.py",
    "test_versions.py",
    "faults/test_many_hosts.py",
    "workers/test_ray_cluster.py",
    "report/test_real_sweep.py",
    "workers/test_submitit.py",
    "test_studies.py",
    "test_user_data.py",
    "faults/test_accounting.py",
    "sweep/test_tracking.py",
)
"""Files whose tests take longest in all, beginning with the longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process works alone at the end."""
    tests = Path(__file__).parent
    places = {tests / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


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


@pytest.fixture(scope="session")
def real_sweep(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> RealSweep:
    """One for all files and processes, run by whichever comes first; who changes more than models,
    and puts these back, works on a copy."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "real"
    arguments = ["-m", *with_small(folder / "small.npz"), "training.replicas=3"]
    arguments += ["training.epochs=3", "model.filters=2,6", "hydra.sweeper.study_name=real"]
    with FileLock(shared / "real.lock"):
        if not folder.exists():
            folder.mkdir()
            write_small(folder / "small.npz")
            shutil.copy(migrated, folder)
            swept = run_in(folder, *arguments)
            assert swept.returncode == 0, swept.stderr
            assert "report: python -m cifar_hpo.report real\n" in swept.stdout
            shown = run_in(folder, module="cifar_hpo.report")
            assert shown.returncode == 0, shown.stderr
    return RealSweep(folder, arguments)


@pytest.fixture(scope="session")
def session_server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from support_tracking import mlflow_server

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, folder)
    with mlflow_server(folder) as server:
        yield server


@pytest.fixture
def server(session_server: Server) -> Iterator[Server]:
    """A server of MLflow's that a test can take away; it is back after the test."""
    yield session_server
    session_server.become("open")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of an empty database in it."""
    return new_database(postgres.url)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(*arguments)` in the test's own folder."""

    def inside(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_in(tmp_path, *arguments, **environment)

    return inside


@pytest.fixture
def fake_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """`fake_gpus(*uuids)` lets `nvidia-smi` list them, for this process and all that it starts.

    text: what it prints instead. exit_code: of the command.
    """
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/driver:{os.environ['PATH']}")

    def pretend(*uuids: str, text: str = "", exit_code: int = 0) -> None:
        lines = [f"GPU {i}: NVIDIA Fake {i} (UUID: {uuid})" for i, uuid in enumerate(uuids)]
        command = tmp_path / "driver" / "nvidia-smi"
        command.parent.mkdir()
        listed = text or "".join(f"{line}\n" for line in lines)
        command.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\nexit {exit_code}\n")
        command.chmod(0o755)

    return pretend


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`clock(seconds)` sets the time of the monotonic clock for the code under test."""
    now = [0.0]
    for module in ("cifar_hpo.workers.pace", "cifar_hpo.sweep.estimate"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: now[0]))

    def set_time(seconds: float) -> None:
        now[0] = seconds

    return set_time
