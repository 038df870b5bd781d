"""What runs before a change is taken: an audit of what is installed, tests with the next Hydra,
exemptions from bandit."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cifar_hpo.paths import ROOT

PIP_AUDIT = """#!/usr/bin/env bash
case "$*" in
    "-m pip freeze"*) echo "keras==3.15.1" ;;
    *--strict*) echo "strict $(cat "${{@: -1}}")"; exit {found} ;;
    *) echo '{told}'; exit 1 ;;
esac
"""
"""Stands in for the environment's Python: what pip-audit says of a version with known
vulnerabilities, and how it ends for what is installed."""

SKIPPED = "audit skipped: the index of packages does not tell of vulnerabilities\n"
KNOWN = "pip 19.0 PYSEC-2020-1 20.0"


@pytest.mark.parametrize(
    ("told", "found", "environment", "expected"),
    [
        (KNOWN, 0, {}, (0, "strict keras==3.15.1\n")),
        (KNOWN, 1, {}, (1, "strict keras==3.15.1\n")),
        ("pip not found", 1, {}, (0, SKIPPED)),
        ("pip not found", 1, {"GITHUB_ACTIONS": "true"}, (1, "strict keras==3.15.1\n")),
    ],
)
def test_the_audit_fails_where_something_is_found_and_says_where_it_is_skipped(
    told: str,
    found: int,
    environment: dict[str, str],
    expected: tuple[int, str],
    tmp_path: Path,
) -> None:
    python = PIP_AUDIT.format(told=told, found=found)
    shown = run_step(tmp_path, "audit", python, environment)
    assert shown.stderr == ""
    assert (shown.returncode, shown.stdout) == expected


NEXT = """#!/usr/bin/env bash
case "$*" in
    "-m pip install "*) exit {got} ;;
    "-m pytest "*test_hydra_contract.py*) echo "tested with ${{PYTHONPATH##*/}}"; exit {failed} ;;
esac
"""
"""Stands in for the environment's Python: whether packages can be had, and how tests end."""

TESTED = "tested with next-hydra"
NOT_HAD = "next Hydra skipped: hydra-core=="


@pytest.mark.parametrize(
    ("got", "failed", "environment", "expected"),
    [
        (0, 0, {}, (0, TESTED)),
        (0, 1, {}, (1, TESTED)),
        (1, 0, {}, (0, NOT_HAD)),
        (1, 0, {"GITHUB_ACTIONS": "true"}, (1, "")),
    ],
)
def test_the_next_hydra_fails_where_its_tests_do_and_says_where_it_is_skipped(
    got: int, failed: int, environment: dict[str, str], expected: tuple[int, str], tmp_path: Path
) -> None:
    shown = run_step(tmp_path, "next-hydra", NEXT.format(got=got, failed=failed), environment)
    assert shown.stderr == ""
    assert shown.returncode == expected[0]
    assert shown.stdout.startswith(expected[1])


def run_step(
    folder: Path, step: str, python: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """A step of .ci/run in a folder, with a script in the place of the environment's Python."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / step, folder / ".ci")
    interpreter = folder / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(python)
    interpreter.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
    return subprocess.run(
        [folder / ".ci" / step],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_exemption_from_bandits_rules_has_its_reason() -> None:
    without = []
    for folder in ("cifar_hpo", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(r"# noqa: (?:\w+, *)*S\d{3}(?:, *\w+)*\s*$", line):
                    without.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert without == []
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lint = tomllib.loads(settings)["tool"]["ruff"]["lint"]
    exempt = [*lint["ignore"], *itertools.chain(*lint["per-file-ignores"].values())]
    rules = [rule for rule in exempt if re.fullmatch(r"S\d*", rule)]
    assert rules, "tests are exempt from some"
    for rule in rules:
        assert re.search(rf'"{rule}",.*# \w', settings), f"{rule} has no reason"


def test_the_workflow_runs_what_a_contributor_runs() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert ".venv/bin/python -m pytest -m long" in commands
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {".ci/next-hydra", ".ci/audit"} <= set(steps)
