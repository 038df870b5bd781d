"""Hydra's own contract suites for launchers and sweepers, against `workers` and `study`, together
and each with Hydra's basic one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

from cifar_hpo.errors import SweepFailed
from cifar_hpo.hydra_internals import HAS_WHITELIST

# Hydra's suites do not give a version_base, of which Hydra warns.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("elsewhere")]

STUDY = ["hydra/sweeper=study", "hydra.sweeper.storage=memory"]


@pytest.fixture(scope="module", autouse=True)
def plugins() -> None:
    """The suites restore what Hydra knew before each test, which must have been all plugins."""
    Plugins.instance()


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's apps write to the current folder; it is not the suites' own, which they delete under
    joblib's processes."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    if not HAS_WHITELIST:  # Hydra 1.3 behaves as 1.1 did, where a process gives no version_base
        compatible = version.__compat_version__
        monkeypatch.setattr(version.VersionBase.instance(), "version_base", compatible)


def test_both_plugins_are_discovered() -> None:
    """By Hydra's own scan, in any app of this environment."""
    assert "WorkersLauncher" in [one.__name__ for one in Plugins.instance().discover(Launcher)]
    assert "StudySweeper" in [one.__name__ for one in Plugins.instance().discover(Sweeper)]


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("workers", []), ("workers", STUDY), ("basic", STUDY)]
)
class TestLaunchers(LauncherTestSuite):
    """Launching jobs in the parent's process."""

    def test_failure_preserves_task_traceback(
        self, hydra_sweep_runner: Any, launcher_name: str, overrides: list[str], tmpdir: Path
    ) -> None:
        """Of Hydra 1.4. It wants the first error raised; a study says how many trials failed."""
        test = getattr(super(), "test_failure_preserves_task_traceback", None)
        if test is None:
            pytest.skip("Hydra has it from 1.4 on")
        is_study = overrides == STUDY
        with pytest.raises(SweepFailed, match="failure") if is_study else nullcontext():
            test(hydra_sweep_runner, launcher_name, overrides, tmpdir)


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [(name, [*STUDY, "hydra.sweeper.max_batch_size=2"]) for name in ("workers", "basic")],
)
class TestBatches(BatchedSweeperTestSuite):
    """What a sweep returns comes in batches of the wanted size."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=workers", *STUDY])],
)
class TestApps(IntegrationTestSuite):
    """Small apps in processes of their own."""

    test_custom_sweeper_run_workdir = pytest.mark.long(
        IntegrationTestSuite.test_custom_sweeper_run_workdir
    )
