"""The command line as a process of Python's: its output, its exit codes and its interruption.

A sweep that it runs to its end is in test_api.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import clean, wait_for

import cifar_hpo
from cifar_hpo.command import STUDY_LINE, CompletedSweep
from cifar_hpo.errors import StudyError, UserError

STUB = """
import signal, sys, time
print("study s.2: 3 trials, 1 done before", flush=True)
def end(*_):
    print("interrupted; in order", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, end)
print("…", sys.argv[1:], flush=True)
for _ in range(600):
    time.sleep(0.1)
"""
"""Stands for the package in a process that is interrupted."""


def stub(folder: Path, code: str) -> None:
    """A package of our name in a folder, which `python -m` takes first."""
    package = folder / "cifar_hpo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(code, encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("study widths: 3 trials\n", "widths"),
        ("study filters-0a1b2c: 12 trials, 3 done before\n", "filters-0a1b2c"),
        ("study a.b@c: any number of trials\n", "a.b@c"),
        ("study of something\n", None),
        ("a study widths: 3 trials\n", None),
    ],
)
def test_a_sweep_names_its_study_first(line: str, name: str | None) -> None:
    found = STUDY_LINE.match(line)
    assert (found and found[1]) == name


def test_what_the_user_can_mend_is_raised_as_the_line_that_the_command_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        cifar_hpo.run(["-m", "model.filters=4,-1"])
    assert str(raised.value).startswith("model.filters: ")
    assert capsys.readouterr().out == f"error: {raised.value}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_text_in_the_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="a list of texts is wanted"):
        cifar_hpo.run("-m model.filters=4,8")


def test_output_is_passed_on_and_the_exit_code_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; print('study one: 2 trials'); sys.exit('1 of 2 trials failed → …')"
    stub(tmp_path, code)
    monkeypatch.chdir(tmp_path)
    ended = cifar_hpo.run(["-m", "a=1,2", "hydra.sweeper.storage=sqlite:///other.db"])
    assert (ended.returncode, ended.study_name) == (1, "one")
    assert ended.storage == "sqlite:///other.db"
    assert capsys.readouterr().out == "study one: 2 trials\n1 of 2 trials failed → …\n"
    with pytest.raises(StudyError, match=r"^other\.db is not here"):
        ended.study  # noqa: B018
    with pytest.raises(StudyError, match=r"^a single run has no study; begin with -m to sweep$"):
        CompletedSweep([], 0, None).study  # noqa: B018


OTHER = "sqlite:///other.db"
LEAVING = """
import sys
from pathlib import Path
folder = Path("FOLDER")
folder.mkdir(parents=True)
(folder / "multirun.yaml").write_text("hydra: {sweeper: {study_name: one, storage: STORAGE}}")
print("study one: 2 trials")
"""


@pytest.mark.parametrize(
    ("arguments", "left", "storage"),
    [
        (["hydra.sweeper.storage=sqlite:///other.db"], "null", OTHER),
        (["++hydra.sweeper.storage=sqlite:///other.db"], "null", OTHER),
        (["hydra.sweeper.storage='sqlite:///other.db'"], "null", OTHER),
        (["hydra.sweeper.storage=sqlite:///${oc.env:NAME}.db"], "null", OTHER),
        (["hydra.sweeper.storage=null"], "sqlite:///of_config.db", None),
        (["hydra.sweeper.storage=memory"], "null", "memory"),
        (["-cn", "mine"], "sqlite:///other.db", OTHER),
        (["-cn", "mine"], "'sqlite:///${oc.env:NAME}.db'", OTHER),
        (["-cn", "mine"], "'${of_a_sweep:x}'", None),
        (["--config-dir=hydra.sweeper.storage=x"], "null", None),
        ([], "null", None),
    ],
)
def test_the_storage_is_the_one_of_the_command_or_of_its_config_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    left: str,
    storage: str | None,
) -> None:
    stub(tmp_path, LEAVING.replace("FOLDER", "mlruns/outputs/one").replace("STORAGE", left))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAME", "other")
    assert cifar_hpo.run(["-m", "a=1,2", *arguments]).storage == storage


def test_the_config_file_is_known_by_the_folder_that_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, LEAVING.replace("FOLDER", "out/one").replace("STORAGE", OTHER))
    monkeypatch.chdir(tmp_path)
    ended = cifar_hpo.run(["-cn", "mine", "hydra.sweep.dir=out/${hydra.sweeper.study_name}"])
    assert ended.storage == OTHER


def test_an_interruption_is_passed_on_and_raised_once_the_sweep_has_ended(tmp_path: Path) -> None:
    """By a signal for this process alone, as a notebook's kernel may get it."""
    stub(tmp_path, STUB)
    package = Path(cifar_hpo.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(package)!r}); import cifar_hpo\n"
    code += "try:\n    cifar_hpo.run(['-m', 'a=1'])\n"
    code += "except KeyboardInterrupt:\n    print('KeyboardInterrupt')\n"
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=clean() | {"PYTHONIOENCODING": "utf-8"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "…" in out.read_text(encoding="utf-8") or process.poll() is not None)
        os.kill(process.pid, signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines == [
        "study s.2: 3 trials, 1 done before",
        "… ['-m', 'a=1']",
        "interrupted; in order",
        "KeyboardInterrupt",
    ]
