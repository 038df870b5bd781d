"""What is used of Hydra beyond its documented interface; a failure says what to mend."""

from __future__ import annotations

import pytest
from hydra._internal.utils import run_and_report
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from support import config_loader

from cifar_hpo.hydra_internals import (
    ends_program,
    job_config,
    parsed_value,
    registered_targets,
    return_value,
    single_run_arguments,
)

MEND = "mend hydra_internals.py"


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
