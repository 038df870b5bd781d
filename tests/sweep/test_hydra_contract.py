"""Hydra's own contract suites for launchers and sweepers, against `workers` and `study`, together
and each with Hydra's basic one."""

from __future__ import annotations

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

# Hydra's suites do not give a version_base, of which Hydra warns.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("elsewhere")]

STUDY = ["hydra/sweeper=study", "hydra.sweeper.storage=memory"]


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's apps write to the current folder; it is not the suites' own, which they delete under
    joblib's processes."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(
        version.VersionBase.instance(), "version_base", version.__compat_version__
    )  # as in a process of their own


def test_both_plugins_are_discovered() -> None:
    """By Hydra's own scan, in any app of this environment."""
    assert "WorkersLauncher" in [one.__name__ for one in Plugins.instance().discover(Launcher)]
    assert "StudySweeper" in [one.__name__ for one in Plugins.instance().discover(Sweeper)]


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("workers", []), ("workers", STUDY), ("basic", STUDY)]
)
class TestLaunchers(LauncherTestSuite):
    """Launching jobs in the parent's process."""


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
