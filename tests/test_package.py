"""The package as it is imported and as it is installed: its names, and what its wheel holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cifar_hpo
from cifar_hpo.paths import ROOT

BUILD = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel puts into site-packages."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    wheel = folder / built.stdout.split()[-1]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_package_offers_what_all_says_and_no_more() -> None:
    assert cifar_hpo.__all__ == [
        "Dataset",
        "Pruned",
        "__version__",
        "folder",
        "load",
        "report",
        "run",
    ]
    offered: dict[str, object] = {}
    exec("from cifar_hpo import *", offered)
    assert set(offered) - {"__builtins__"} == set(cifar_hpo.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cifar_hpo.nothing  # noqa: B018


def test_the_version_is_the_one_that_was_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cifar_hpo.__version__ in (project["version"], cifar_hpo.UNKNOWN_VERSION)


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import cifar_hpo; print(*set(sys.modules) - before)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    libraries = {name.split(".")[0] for name in shown.stdout.split()} - sys.stdlib_module_names
    assert libraries == {"cifar_hpo"}
    assert "importlib.metadata" not in shown.stdout.split(), "it takes longer than all the rest"


@pytest.mark.parametrize(
    "name",
    [
        "cifar_hpo/py.typed",
        "cifar_hpo/report/page.html",
        "cifar_hpo/conf/config.yaml",
        "cifar_hpo/conf/model/base.yaml",
        "cifar_hpo/conf/README.md",
        "cifar_hpo/sweeps/depth.yaml",
        "cifar_hpo/config/reference.md",
        "cifar_hpo/examples/conf/tour.yaml",
        "cifar_hpo/examples/README.md",
        "hydra_plugins/cifar_hpo.py",
    ],
)
def test_the_wheel_holds_what_is_needed_beside_the_modules(installed: Path, name: str) -> None:
    assert (installed / name).is_file()


def test_the_wheel_holds_every_module(installed: Path) -> None:
    source = ROOT / "cifar_hpo"
    modules = {path.relative_to(source) for path in source.rglob("*.py")}
    modules = {module for module in modules if module.parts[0] != "_hydra"}
    package = installed / "cifar_hpo"
    assert {path.relative_to(package) for path in package.rglob("*.py")} == modules


def test_an_installed_wheel_knows_its_configs_and_named_studies(
    installed: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def output(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    where = output("-c", "import cifar_hpo; print(cifar_hpo.__file__)")
    assert where.startswith(str(installed))
    assert "model: base, deep, enhanced, wide" in output("-m", "cifar_hpo", "--help")
    assert "kernel_size: 3" in output("-m", "cifar_hpo", "-cn", "depth", "--cfg", "job")
