"""What is used of Hydra beyond its documented interface; a failure says what to mend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra._internal.utils import run_and_report
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from support import Run, config_loader, run_command

from cifar_hpo.hydra_internals import (
    HAS_WHITELIST,
    ends_program,
    execution_whitelist,
    job_config,
    parsed_value,
    registered_targets,
    return_value,
    single_run_arguments,
)

MEND = "mend hydra_internals.py"

with_whitelist = pytest.mark.skipif(not HAS_WHITELIST, reason="Hydra has it from 1.4 on")

CALLER = """
from hydra.utils import instantiate

def call(target):
    try:
        return instantiate({"_target_": target})
    except Exception as error:
        print(" ".join(str(error).split()))
        return 0
"""

APP = """
import hydra
from my_code import call

@hydra.main(config_path=None, execution_whitelist=["my_code.*"])
def app(config):
    return call(config.target)

if __name__ == "__main__":
    app()
"""

CALLBACK = """
import sys
from hydra.experimental.callback import Callback
from my_code import call

class Caller(Callback):
    def on_run_start(self, config, **_):
        print(call("my_code.seven"), call("collections.Counter"))
        sys.exit(7)
"""


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_what_a_job_returned_or_raised_is_read_without_being_raised(status: JobStatus) -> None:
    error = ValueError("no luck")
    returned = JobReturn(status=status)
    returned.return_value = error
    try:
        value = return_value(returned)
    except AttributeError:
        pytest.fail(f"JobReturn keeps its value under another name: {MEND}")
    assert value is error


@pytest.mark.parametrize(("text", "is_quoted"), [("relu", False), ("'relu'", True), ("3", False)])
def test_an_override_knows_whether_its_text_had_quotes(text: str, is_quoted: bool) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    try:
        value = parsed_value(override)
    except AttributeError:
        pytest.fail(f"Override keeps what was parsed under another name: {MEND}")
    assert isinstance(value, QuotedString) == is_quoted, f"Override has lost the quotes: {MEND}"


def test_what_packages_have_registered_is_known() -> None:
    expected = {
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.cifar_hpo.StudySweeper",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    }
    assert registered_targets() >= expected, f"ConfigStore keeps its nodes elsewhere: {MEND}"


def test_a_job_s_own_config_is_hydra_s_for_a_while() -> None:
    config = config_loader().load_configuration("config", ["hydra.job.num=7"], RunMode.RUN)
    before = HydraConfig.instance().cfg
    with job_config(config):
        assert HydraConfig.get().job.num == 7, f"HydraConfig takes a config otherwise: {MEND}"
    assert HydraConfig.instance().cfg is before


def test_hydra_ends_a_program_that_its_main_runs_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert run_and_report(ends_program), f"hydra.main reports errors elsewhere: {MEND}"
    assert not ends_program()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert not run_and_report(ends_program)


@pytest.mark.parametrize(
    ("given", "single"),
    [
        (["-m", "x=1,2"], []),
        (["-m", "-cn", "other", "-cd", "here"], ["--config-name", "other", "--config-dir", "here"]),
        (["-cn", "a_sweep"], ["--config-name", "a_sweep", "hydra.mode=RUN"]),
    ],
)
def test_a_single_run_has_the_configs_of_the_command(
    given: list[str], single: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", *given])
    assert single_run_arguments() == single, f"Hydra's options have other names: {MEND}"


def test_the_whitelist_has_what_is_allowed_and_what_packages_have_registered() -> None:
    whitelist = execution_whitelist(["my_models", "keras.applications"])
    assert {"my_models", "my_models.*", "keras.applications.*"} <= set(whitelist)
    assert "keras.src.applications.*" in whitelist  # where Keras defines them
    assert "hydra_plugins.cifar_hpo.WorkersLauncher" in whitelist


@pytest.fixture
def my_code(tmp_path: Path) -> Path:
    """A module of the user's: what calls a target, and a target."""
    (tmp_path / "my_code.py").write_text(CALLER + "\ndef seven():\n    return 7\n")
    return tmp_path


@with_whitelist
def test_what_the_folder_allows_is_handed_to_hydra(my_code: Path, run: Run) -> None:
    (my_code / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_code", "mine"]\n')
    (my_code / "mine.py").write_text(CALLBACK)
    ended = run("+hydra.callbacks.mine._target_=mine.Caller")
    assert ended.returncode == 7, ended.stderr
    assert "7 0" in ended.stdout, MEND
    assert "'collections.Counter' is not in the Hydra execution whitelist" in ended.stdout, MEND
    assert "Warning" not in ended.stderr


@with_whitelist
def test_what_an_app_allows_holds_in_its_workers_and_needs_not_name_our_plugins(
    my_code: Path,
) -> None:
    (my_code / "app.py").write_text(APP)
    sweep = ["hydra/sweeper=study", "hydra/launcher=workers", "hydra.sweeper.storage=memory"]
    ended = run_command(
        my_code,
        [sys.executable, "app.py", "-m", *sweep, "+target=my_code.seven,collections.Counter"],
    )
    assert ended.returncode == 0, ended.stderr
    assert "trial 0: +target=my_code.seven: value 7.0000" in ended.stdout
    assert "trial 1: +target=collections.Counter: value 0.0000" in ended.stdout, MEND
    for log in my_code.rglob("worker_*.log"):
        assert "Warning" not in log.read_text(), "what a worker's Hydra warns of"
