"""The package as it is imported and as it is installed: its names, and what its wheel holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import cifar_hpo
from cifar_hpo.paths import ROOT

MODELS = """
import keras

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("a callback saw epoch", epoch, flush=True)

def model(width, shape, classes):
    image = keras.Input(shape)
    x = keras.layers.Conv2D(width, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(classes, "softmax")(x))
"""

DATA = """
import cifar_hpo
import numpy as np

def squares(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (count, 12, 9, 1), np.uint8)
    labels = rng.integers(0, 2, count)
    images[labels == 1, :6] += 100
    half = count // 2
    train, test = (images[:half], labels[:half]), (images[half:], labels[half:])
    return cifar_hpo.Dataset(train, test, classes=["dark", "light"])
"""

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


@pytest.fixture
def output(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """What a command of Python prints, run in an empty folder with the wheel alone."""
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def printed(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    return printed


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
    installed: Path, output: Callable[..., str]
) -> None:
    where = output("-c", "import cifar_hpo; print(cifar_hpo.__file__)")
    assert where.startswith(str(installed))
    assert "model: base, deep, enhanced, wide" in output("-m", "cifar_hpo", "--help")
    assert "kernel_size: 3" in output("-m", "cifar_hpo", "-cn", "depth", "--cfg", "job")


def test_from_an_empty_folder_a_wheel_trains_a_model_on_data_of_the_user_s(
    output: Callable[..., str], tmp_path: Path
) -> None:
    for name, text in (("my_models.py", MODELS), ("my_data.py", DATA)):
        (tmp_path / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_models", "my_data"]\n')
    for name, text in {
        "model/own": "_target_: my_models.model\nwidth: 2\n",
        "data/squares": "source: function\n_target_: my_data.squares\ncount: 400\n",
    }.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    swept = ["model=own", "data=squares", "model.width=2,4", "training.epochs=2"]
    callback = "training.callbacks=[{_target_: my_models.Stop}]"
    shown = output("-m", "cifar_hpo", "-m", "-cd", "conf", *swept, callback)
    assert re.search(r"^1 +\d+ +[24] +[01]\.\d{4} .* FINISHED$", shown, re.MULTILINE), shown
    logs = [path.read_text() for path in tmp_path.glob("mlruns/outputs/**/*.log")]
    assert any("a callback saw epoch 1" in log for log in logs)
    loaded = output("-c", "import cifar_hpo; print(len(cifar_hpo.load().trials))")
    assert loaded == "2\n"
