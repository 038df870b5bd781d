"""The code that a study's trials run, read from sources; and what is said where it has changed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from support import finished, parse_space, study_options, work

from cifar_hpo.objective import objective
from cifar_hpo.study.study import Study
from cifar_hpo.sweep.code import Code, code_of, note_code, varied_targets

NOTHING: Any = OmegaConf.create({})


def task_of(file: Path, name: str) -> Callable[..., Any]:
    """The function `task` of a module that lies in a file."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    function: Callable[..., Any] = module.task
    return function


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with an app and what it imports, in several ways."""
    files = {
        "app_train.py": "def task(config):\n    import json, numpy, app_nets, app_lib.deep",
        "app_nets.py": "import app_lib.shallow",
        "app_lib/__init__.py": "",
        "app_lib/deep.py": "from . import other",
        "app_lib/other.py": "from ..app_lib.shallow import g",
        "app_lib/shallow.py": "this is no Python",
        "app_called.py": "def build(): ...",
        "app_unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_an_app_s_code_is_its_module_and_what_that_imports_of_the_user_s(app: Path) -> None:
    task = task_of(app / "app_train.py", "app_train")
    config = OmegaConf.create({"model": [{"_target_": "app_called.build"}], "x": "numpy.zeros"})
    assert isinstance(config, DictConfig)
    assert list(code_of(task, [config]).files) == [
        "app_called.py",
        "app_lib/__init__.py",
        "app_lib/deep.py",
        "app_lib/other.py",
        "app_lib/shallow.py",
        "app_nets.py",
        "app_train.py",
    ]
    before = code_of(task, [NOTHING])
    (app / "app_lib/deep.py").write_text("from . import other  # changed")
    after = code_of(task, [NOTHING])
    changed = {name for name in before.files if before.files[name] != after.files[name]}
    assert changed == {"app_lib/deep.py"}
    assert before.package == after.package


def test_the_code_of_each_choice_and_of_each_value_counts(app: Path) -> None:
    task = task_of(app / "app_train.py", "app_train")
    (app / "app_other.py").touch()
    configs: list[Any] = [NOTHING, OmegaConf.create({"model": {"_target_": "app_called.build"}})]
    targets = [
        "model._target_=app_other.build",
        "model._target_=numpy.zeros,app_other.build",
        "+model.part={_target_:app_other.build},1",
        "+training.callbacks=[],[{_target_:app_other.build}]",
    ]
    for number, target in enumerate(targets):
        files = code_of(task, configs, varied_targets(parse_space(target, "a=1"))).files
        assert "app_called.py" in files
        assert ("app_other.py" in files) is (number > 0), "the first does not vary"


def test_of_this_package_s_own_app_the_package_is_the_code() -> None:
    code = code_of(objective, [NOTHING])
    assert code.files == {}
    assert len(code.package) == 12
    assert code.version


def test_a_module_that_is_started_by_its_name_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package/__init__.py").touch()
    (tmp_path / "some_package/sister.py").touch()
    (tmp_path / "some_package/main.py").write_text(
        "from omegaconf import OmegaConf\nfrom some_package import sister\n"
        "from cifar_hpo.sweep.code import code_of\ndef task(config): ...\n"
        "print(*code_of(task, []).files)"
    )
    for command in (["-m", "some_package.main"], ["some_package/main.py"]):
        shown = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={"PYTHONPATH": ":".join([*sys.path, str(tmp_path)])},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        files = [name.removeprefix("some_package/") for name in shown.stdout.split()]
        assert {"main.py", "sister.py"} <= set(files)


def test_trials_of_earlier_code_are_told_of_until_the_code_is_theirs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = Code({"train.py": "1", "nets.py": "1"}, "a", "0.1")
    second = Code({"train.py": "2", "nets.py": "1"}, "b", "0.2")

    def told(grid: str, code: Code) -> list[str]:
        with Study.open("s", parse_space(grid), study_options(), {"a": 1}) as study:
            lines = note_code(study, code)
            work(study, lambda _: finished(1))
        return lines

    assert told("model.filters=1,2", first) == []
    assert told("model.filters=1,2", first) == []
    assert told("model.filters=1,2,3", second) == [
        "code changed since this study began: train.py; 2 trials are of the earlier code",
        "cifar_hpo changed since this study began: 0.1 → 0.2; 2 trials are of the earlier code",
    ]
    assert told("model.filters=1,2,3", first) == [
        "code changed since this study began: train.py; 1 trial is of the earlier code",
        "cifar_hpo changed since this study began: 0.2 → 0.1; 1 trial is of the earlier code",
    ]
